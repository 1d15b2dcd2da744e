"""Runs of events that synthetic histories may share with real ones.

The filter `copied` and the privacy audit look for them, by hashes: a run of n items of a training
history is one number, kept with how many users have it.
"""

from __future__ import annotations

from functools import lru_cache, partial
from typing import Any

import numpy as np
import pyarrow as pa

from llmaug.core.stage import Context, map_parts
from llmaug.core.storage import Storage, digest
from llmaug.ingest.split import TRAIN
from llmaug.items.arrays import group_bounds
from llmaug.items.vocabulary import load_vocabulary


def run_hashes(tokens: np.ndarray, length: int) -> np.ndarray:
    """(N,) tokens to (N - length + 1,) uint64 hashes of its runs (polynomial, modulo 2^64)."""
    if len(tokens) < length:
        return np.empty(0, np.uint64)
    windows = np.lib.stride_tricks.sliding_window_view(tokens.astype(np.uint64) + 1, length)
    # An odd multiplier keeps the order of the events in the hash.
    powers = np.cumprod(np.full(length, 0x9E3779B97F4A7C15, np.uint64))
    return (windows * powers).sum(axis=1, dtype=np.uint64)


def is_among(hashes: np.ndarray, known: np.ndarray) -> np.ndarray:
    """(N,) bool: which of few `hashes` are in the many `known`, which are sorted. `numpy.isin`
    would sort the many again for each history."""
    if not len(known):
        return np.zeros(len(hashes), bool)
    place = np.searchsorted(known, hashes)
    return known[np.minimum(place, len(known) - 1)] == hashes


def count_real_runs(context: Context, folder: str, vocabulary: str, length: int) -> str:
    """Write the runs of all training histories below `folder`; the folder that they are in."""
    train = f"{context.folder('split')}/{TRAIN}"
    # Workers keep what they read of it: the name must change with what it was made from.
    basis = [context.manifest("split")["fingerprint"], vocabulary, length]
    runs = f"{folder}/runs-{digest(basis)[:12]}"
    work = partial(_count_part, context.storage, train, runs, vocabulary, length)
    map_parts(context, runs, context.storage.parts(train), work)
    return runs


def _count_part(
    storage: Storage, train: str, folder: str, vocabulary: str, length: int, part: str
) -> dict[str, Any]:
    events = storage.read_part(train, part, columns=["user_id", "item_id"])
    tokens = load_vocabulary(storage, vocabulary).encode(events["item_id"])
    users = events["user_id"].to_numpy(zero_copy_only=False)
    own = [np.unique(run_hashes(tokens[a:b], length)) for a, b in group_bounds(users)]
    hashes, num_users = np.unique(
        np.concatenate([np.empty(0, np.uint64), *own]), return_counts=True
    )
    storage.write_part(pa.table({"hash": hashes, "users": num_users}), {}, folder, part)
    return {}


@lru_cache(maxsize=1)
def real_runs(storage: Storage, folder: str, fewer_than: int | None = None) -> np.ndarray:
    """(N,) sorted hashes of the runs in a folder of `count_real_runs`: of all of them, or of those
    that `fewer_than` so many users have. A worker reads them once."""
    tables = [storage.read_part(folder, part) for part in storage.parts(folder)]
    hashes = np.concatenate([table["hash"].to_numpy() for table in tables])
    if fewer_than is None:
        return np.unique(hashes)
    num_users = np.concatenate([table["users"].to_numpy() for table in tables])
    found, place = np.unique(hashes, return_inverse=True)
    return found[np.bincount(place, num_users, minlength=len(found)) < fewer_than]
