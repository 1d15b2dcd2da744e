"""Whose events are read, and under which id they go on: pseudonyms, and users who are forgotten.

Both are applied to rows as they are read, so that nothing that follows has seen another id.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from llmaug.config import Config
from llmaug.core.contents import PSEUDONYMS
from llmaug.core.forgotten import NOBODY, Forgotten, read_forgotten
from llmaug.core.pseudonyms import Pseudonyms, from_environment
from llmaug.core.stage import Context
from llmaug.core.storage import Storage, digest
from llmaug.ingest.layout import Refused

MAPPED = "mapped"
# Their details show a field that is no user id. Any other may show a whole line.
_SHOWN = ("bad_timestamp", "timestamp_out_of_range", "unknown_action", "bad_value")


@dataclass(frozen=True)
class People:
    """What is decided of users before their events are looked at; picklable."""

    forgotten: Forgotten = NOBODY
    pseudonyms: Pseudonyms | None = None
    keeps_mapping: bool = False

    def called(self, user_ids: pa.Array | pa.ChunkedArray) -> pa.Array:
        """(N,) ids of the logs to the ids that go on."""
        ids = user_ids.combine_chunks() if isinstance(user_ids, pa.ChunkedArray) else user_ids
        return self.pseudonyms.of_all(ids) if self.pseudonyms else ids

    @property
    def identity(self) -> dict[str, Any]:
        """What of it another result follows from."""
        own: dict[str, Any] = {}
        if self.pseudonyms:
            own["pseudonym_key_id"] = self.pseudonyms.key_id
        if self.forgotten.hashes:
            own["forgotten"] = digest(sorted(self.forgotten.hashes))
        return own


EVERYBODY = People()  # as they stand in the logs


def check_key(config: Config) -> None:
    """Raises UserError where the config asks for pseudonyms and there is no key for them."""
    if config.privacy.pseudonyms:
        from_environment(config.privacy.pseudonyms.key_env)


def read_people(context: Context) -> People:
    """Raises UserError as `check_key` does, and where the list of the forgotten is damaged."""
    config = context.config.privacy.pseudonyms
    forgotten = read_forgotten(context.storage)
    if config is None:
        return People(forgotten)
    return People(forgotten, from_environment(config.key_env), config.keep_mapping)


def without_people(refused: Iterable[Refused], people: People) -> list[Refused]:
    """Refused rows, without details that may show a user's id where ids are kept secret. File and
    row still say where it stands."""
    if not people.pseudonyms:
        return list(refused)
    return [row if row.reason in _SHOWN else row._replace(detail=None) for row in refused]


def mapping_of(names: pa.Array, user_ids: pa.Array) -> tuple[pa.Array, pa.Array]:
    """(N,) pseudonyms and the ids behind them to those of each user once."""
    pairs = pa.table({"name": names, "user_id": user_ids})
    once = pairs.group_by(["name", "user_id"]).aggregate([])
    return once["name"].combine_chunks(), once["user_id"].combine_chunks()


def write_mapping(rows: pa.Table, storage: Storage, folder: str, part: str) -> None:
    """rows: those marked MAPPED, of one part; to (pseudonym, user_id) in `ingest/pseudonyms`."""
    table = pa.table({"pseudonym": rows["user_id"], "user_id": rows["detail"]})
    once = table.group_by(["pseudonym", "user_id"]).aggregate([])
    once = once.take(pc.sort_indices(once["pseudonym"]))
    storage.write_part(once, {}, f"{folder}/{PSEUDONYMS}", part)
