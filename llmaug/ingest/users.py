"""What is known of users besides their events: the users table of `ingest.users`."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import pyarrow as pa

from llmaug.core.contents import of_manifest, read_manifest
from llmaug.core.stage import Context
from llmaug.core.storage import Storage, digest


@dataclass(frozen=True)
class Users:
    """N users and their attributes."""

    ids: list[str]
    attributes: list[dict[str, str]]

    def by_id(self) -> dict[str, dict[str, str]]:
        return dict(zip(self.ids, self.attributes, strict=True))

    def of_somebody(self, rng: np.random.Generator) -> dict[str, str]:
        """Attributes of a user drawn at random."""
        return self.attributes[rng.integers(len(self.attributes))] if self.attributes else {}


@lru_cache(maxsize=1)
def load_users(storage: Storage, folder: str) -> Users:
    """All users in `folder`; kept by each worker."""
    tables = [storage.read_part(folder, part) for part in storage.parts(folder)]
    rows = pa.concat_tables(tables).to_pylist()
    return Users([row["user_id"] for row in rows], [dict(row["attributes"] or ()) for row in rows])


def attributes_digest(context: Context) -> str | None:
    """Of the users table as stage `ingest` left it; None where no model reads it."""
    if not context.config.lm.user_attributes_read:
        return None
    files = of_manifest(read_manifest(context.storage, context.folder("ingest")) or {})
    return digest({name: files[name]["digest"] for name in files if name.startswith("users/")})
