"""What is known of users besides their events: the users table of `ingest.users`."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from llmaug.core.contents import of_manifest, read_manifest
from llmaug.core.stage import Context
from llmaug.core.storage import Storage, digest
from llmaug.schema import USER


@dataclass(frozen=True)
class Users:
    """All users and their attributes: as Arrow holds them, a tenth of what Python objects take."""

    rows: pa.Table
    """Of schema USER."""

    def attributes_of(self, user_ids: Iterable[str]) -> dict[str, dict[str, str]]:
        """The attributes of those among `user_ids` that the table knows."""
        wanted = pa.array(user_ids, pa.string())
        found = self.rows.filter(pc.is_in(self.rows["user_id"], value_set=wanted)).to_pylist()
        return {row["user_id"]: dict(row["attributes"] or ()) for row in found}

    def of_somebody(self, rng: np.random.Generator) -> dict[str, str]:
        """Attributes of a user drawn at random."""
        if not self.rows.num_rows:
            return {}
        drawn = self.rows["attributes"][int(rng.integers(self.rows.num_rows))]
        return dict(drawn.as_py() or ())


def load_users(storage: Storage, folder: str) -> Users:
    """All users in `folder`."""
    parts = [storage.read_part(folder, part) for part in storage.parts(folder)]
    return Users(pa.concat_tables([USER.empty_table(), *parts]).combine_chunks())


@lru_cache(maxsize=1)
def load_users_once(storage: Storage, folder: str, users_digest: str | None) -> Users:
    """`load_users` for workers that make many units: one table stays in the process.

    `users_digest` (`attributes_digest`) is part of the key: a later run may write another table
    to `folder`.
    """
    return load_users(storage, folder)


def attributes_digest(context: Context) -> str | None:
    """Of the users table as stage `ingest` left it; None where no model reads it."""
    if not context.config.lm.user_attributes_read:
        return None
    files = of_manifest(read_manifest(context.storage, context.folder("ingest")) or {})
    return digest({name: files[name]["digest"] for name in files if name.startswith("users/")})
