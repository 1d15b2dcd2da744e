"""Which held-out users are evaluated, where there are more than `evaluate.max_users`.

Each user has a key, a hash of the id and the seed of the run, and those with the smallest keys are
evaluated: the same ones for every arm and seed, and however users are cut into parts. It is a
simple random sample, so means are estimates of those over all users, and the bootstrap over the
users that were drawn covers what drawing them adds.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from llmaug.core.storage import Storage
from llmaug.ingest.cleaning import id_hash
from llmaug.ingest.split import TEST, TRAIN
from llmaug.items.sequences import user_histories
from llmaug.items.vocabulary import Vocabulary, load_vocabulary

_SCHEMA = pa.schema({"key": pa.uint64()})


@dataclass(frozen=True)
class Sample:
    """The users up to a key."""

    seed: int
    last_key: int
    num_users: int
    """Of all from whom it is drawn."""

    def of(self, users: Sequence[str]) -> list[str]:
        """Those of `users` that were drawn, in their order."""
        drawn = keys(users, self.seed) <= self.last_key
        return [user for user, kept in zip(users, drawn, strict=True) if kept]


def keys(users: Sequence[str], seed: int) -> np.ndarray:
    """(N,) uint64, evenly spread; other ones than those that cut users into parts."""
    return id_hash(pa.array([f"{seed} {user}" for user in users], pa.string()))


def held_out_users(
    train: dict[str, list[int]], held_out: dict[str, Any], sample: Sample | None = None
) -> list[str]:
    """Whom to rank in one part: with something held out and something learnt from, and drawn.

    train, held_out: events of each user in the two folds.
    """
    users = [user for user, events in held_out.items() if events and train.get(user)]
    return users if sample is None else sample.of(users)


def write_keys(
    storage: Storage,
    split: str,
    vocabulary_folder: str,
    folder: str,
    max_users: int,
    seed: int,
    part: str,
) -> dict[str, Any]:
    """The smallest keys of a part, as many as could be drawn; counts `users`, of all."""
    vocabulary: Vocabulary = load_vocabulary(storage, vocabulary_folder)
    train, held_out = (
        user_histories(storage, [f"{split}/{fold}"], part, vocabulary) for fold in (TRAIN, TEST)
    )
    found = keys(held_out_users(train, held_out), seed)
    counts = {"users": len(found)}
    storage.write_part(
        pa.table({"key": _smallest(found, max_users)}, schema=_SCHEMA), counts, folder, part
    )
    return counts


def drawn(
    storage: Storage, folder: str, parts: Iterable[str], max_users: int, seed: int, num_users: int
) -> Sample | None:
    """From what `write_keys` left; None where everybody is drawn. Holds the keys of two parts and
    of the sample."""
    if num_users <= max_users:
        return None
    found = np.empty(0, np.uint64)
    for part in parts:
        own = storage.read_part(folder, part)["key"].to_numpy()
        found = _smallest(np.concatenate([found, own]), max_users)
    return Sample(seed, int(found.max()), num_users)


def _smallest(found: np.ndarray, number: int) -> np.ndarray:
    return found if len(found) <= number else np.partition(found, number - 1)[:number]
