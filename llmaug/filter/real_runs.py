"""Stage `real_runs`: how many training users have each run of events.

By hashes, for the filters `copied` and `identifying` and for the privacy audit: the one place that
says what a run is, and which of them identify somebody. Items are known by hashes of their ids, so
that generators with vocabularies of their own are asked by the same table.

No process holds the runs of all users while they are counted: a part's are sorted and cut into
ranges of hashes, and each range is added up by itself. What is looked up afterwards, 10 bytes a
run, lies once in the memory of a node (`llmaug/core/shared.py`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import combinations
from math import comb
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from llmaug.config import PrivacyConfig
from llmaug.core.placing import TASKS
from llmaug.core.shared import share
from llmaug.core.stage import Context, Stage, map_parts, total_counts
from llmaug.core.storage import Storage
from llmaug.ingest.cleaning import id_hash
from llmaug.ingest.split import TRAIN
from llmaug.items.arrays import group_bounds

REAL_RUNS = "real_runs"
RUNS_A_RANGE = 10_000_000  # 110 bytes each while they are added up
_MOST = np.iinfo(np.uint16).max  # of users are told apart


def item_keys(item_ids: pa.Array | pa.ChunkedArray) -> np.ndarray:
    """(N,) item ids to (N,) uint64: what runs are made of."""
    column = item_ids.combine_chunks() if isinstance(item_ids, pa.ChunkedArray) else item_ids
    return id_hash(column.cast(pa.string()))


def run_hashes(keys: np.ndarray, length: int, max_skips: int = 0) -> np.ndarray:
    """(N,) keys of items to (M,) uint64 hashes (polynomial, mod 2^64) of its runs: N - length + 1
    without a gap, and then those that leave out 1 to `max_skips` events inside."""
    # An odd multiplier keeps the order of the events in the hash.
    powers = np.cumprod(np.full(length, 0x9E3779B97F4A7C15, np.uint64))
    found = [np.empty(0, np.uint64)]
    for width in range(length, min(length + max_skips, len(keys)) + 1):
        windows = np.lib.stride_tricks.sliding_window_view(keys, width)
        for inner in combinations(range(1, width - 1), length - 2):
            taken = windows[:, [0, *inner, width - 1]]
            found.append((taken * powers).sum(axis=1, dtype=np.uint64))
    return np.concatenate(found)


@dataclass(frozen=True)
class RealRuns:
    """How many training users have a run."""

    hashes: np.ndarray
    """(N,) uint64, sorted: the runs of all training histories."""
    num_users: np.ndarray
    """(N,) uint16: training users with each; 65,535 stands for more, too."""
    privacy: PrivacyConfig

    @property
    def length(self) -> int:
        """Events of a run."""
        return self.privacy.run_len

    @property
    def few(self) -> str:
        """So many users, in words, are known by what they share."""
        return f"fewer than {self.privacy.min_run_users} real users"

    def users_with(self, keys: np.ndarray, max_skips: int = 0) -> np.ndarray:
        """(N,) keys of a history's items to (M,) int64: how many training users have each of its
        runs, by `run_hashes`."""
        asked = run_hashes(keys, self.length, max_skips)
        if not len(self.hashes):
            return np.zeros(len(asked), np.int64)
        place = np.minimum(np.searchsorted(self.hashes, asked), len(self.hashes) - 1)
        return np.where(self.hashes[place] == asked, self.num_users[place], 0).astype(np.int64)

    def identifying(self, keys: np.ndarray) -> np.ndarray:
        """(N,) keys of a history's items to (M,) bool: which of its runs are of training users,
        and of fewer than `privacy.min_run_users`."""
        users = self.users_with(keys, self.privacy.max_skips)
        return (users > 0) & (users < self.privacy.min_run_users)


def runs_of(histories: list[np.ndarray], privacy: PrivacyConfig) -> RealRuns:
    """The runs of the users whose histories, as keys of items, are given: one each."""
    return RealRuns(*_counted(histories, privacy), privacy)


def _counted(histories: list[np.ndarray], privacy: PrivacyConfig) -> tuple[np.ndarray, np.ndarray]:
    own = [np.unique(run_hashes(keys, privacy.run_len, privacy.max_skips)) for keys in histories]
    hashes, num_users = np.unique(
        np.concatenate([np.empty(0, np.uint64), *own]), return_counts=True
    )
    return hashes, np.minimum(num_users, _MOST).astype(np.uint16)


def shared_runs(context: Context) -> Callable[[], RealRuns]:
    """What the stage counted, to be read by workers."""
    folder, privacy = context.folder(REAL_RUNS), context.config.privacy
    return share(context, partial(_load, context.storage, folder, privacy))


def _load(storage: Storage, folder: str, privacy: PrivacyConfig) -> RealRuns:
    size, start = total_counts(storage, folder)["rows"], 0
    hashes, num_users = np.empty(size, np.uint64), np.empty(size, np.uint16)
    for part in storage.parts(folder):  # in their order, one in memory beside the whole
        table = storage.read_part(folder, part)
        own = slice(start, start + table.num_rows)
        hashes[own], num_users[own] = table["hash"].to_numpy(), table["num_users"].to_numpy()
        start = own.stop
    return RealRuns(hashes, num_users, privacy)


# -- the stage -----------------------------------------------------------------------------


def run(context: Context) -> dict[str, Any]:
    """{rows: different runs, ...}."""
    storage, folder = context.storage, context.folder(REAL_RUNS)
    train, privacy = f"{context.folder('split')}/{TRAIN}", context.config.privacy
    parts, pieces = storage.parts(train), f"{folder}/pieces"
    num_runs = context.manifest("split")["counts"].get(TRAIN, 0) * _runs_an_event(privacy)
    num_ranges = 1 + num_runs // RUNS_A_RANGE
    cut = {part: [_piece(part, number) for number in range(num_ranges)] for part in parts}
    map_parts(
        context, pieces, parts,
        partial(_cut_part, storage, train, pieces, privacy, num_ranges), outputs=cut,
    )  # fmt: skip
    ranges = {f"range-{number:05d}": [own[number] for own in cut.values()]
              for number in range(num_ranges)}  # fmt: skip
    counts = map_parts(
        context, folder, list(ranges), partial(_add_up, storage, pieces, ranges, folder)
    )
    storage.delete(pieces)
    return dict(counts)


def _runs_an_event(privacy: PrivacyConfig) -> int:
    """How many runs begin at an event far from the end of its history."""
    return sum(comb(privacy.run_len - 2 + skips, skips) for skips in range(privacy.max_skips + 1))


def _piece(part: str, number: int) -> str:
    return f"{part}-{number:05d}"


def _cut_part(
    storage: Storage,
    train: str,
    pieces: str,
    privacy: PrivacyConfig,
    num_ranges: int,
    part: str,
) -> dict[str, Any]:
    events = storage.read_part(train, part, columns=["user_id", "item_id"])
    keys = item_keys(events["item_id"])
    users = events["user_id"].to_numpy(zero_copy_only=False)
    hashes, num_users = _counted([keys[a:b] for a, b in group_bounds(users)], privacy)
    bounds = np.array([(number << 64) // num_ranges for number in range(num_ranges)], np.uint64)
    edges = [*np.searchsorted(hashes, bounds), len(hashes)]
    table = pa.table({"hash": hashes, "num_users": num_users})
    for number in range(num_ranges):
        own = table.slice(edges[number], edges[number + 1] - edges[number])
        storage.write_part(own, {}, pieces, _piece(part, number))
    return {}


def _add_up(
    storage: Storage, pieces: str, ranges: dict[str, list[str]], folder: str, name: str
) -> dict[str, Any]:
    table = pa.concat_tables([storage.read_part(pieces, piece) for piece in ranges[name]])
    # No user is in two parts: what each of them counts adds up.
    summed = table.group_by("hash").aggregate([("num_users", "sum")]).sort_by("hash")
    num_users = pc.min_element_wise(summed["num_users_sum"], _MOST).cast(pa.uint16())
    storage.write_part(pa.table({"hash": summed["hash"], "num_users": num_users}), {}, folder, name)
    return {}


STAGE = Stage(
    name=REAL_RUNS,
    run=run,
    asks=lambda config, on_gpus: TASKS,
    inputs=("split",),
    settings=lambda config: [config.privacy.run_len, config.privacy.max_skips],
)
