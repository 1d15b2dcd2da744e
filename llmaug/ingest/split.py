"""Which real events train, which validate, which test.

Writes three folders with the same parts, so that nothing downstream can read held-out
events by accident: `split/train`, `split/validation`, `split/test`.

temporal: everything from the validation cut-off on is validation, from the test cut-off on
test. Cut-offs are whole hours at quantiles of the event times. Primary where users return.
leave_one_out: a user's last event (or last `split.num_test_events`) is test, the one before
validation; users who then have no training event only train.
"""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from llmaug.config import SplitConfig
from llmaug.core.placing import TASKS
from llmaug.core.stage import Context, Stage, map_parts
from llmaug.core.storage import Storage
from llmaug.errors import UserError
from llmaug.ingest.counts import SplitCounts
from llmaug.schema import EVENT

TRAIN, VALIDATION, TEST = "train", "validation", "test"
_HOUR_US = 3_600_000_000


def run(context: Context) -> dict[str, Any]:
    config = context.config.split
    source, folder = context.folder("ingest"), context.folder("split")
    parts = context.storage.parts(source)
    cutoffs = _cutoffs(context, parts) if config.kind == "temporal" else None
    counts = map_parts(
        context,
        f"{folder}/{TRAIN}",
        parts,
        partial(_split_part, context.storage, source, folder, config, cutoffs),
    )
    num_test = counts["test_users"]
    with_history = counts["test_users_with_history"]
    context.progress.note(
        f"{config.kind}: {counts['train']:,} train, {counts['validation']:,} validation, "
        f"{counts['test']:,} test events; {num_test:,} test users, {with_history:,} with a history"
    )
    if config.kind == "temporal" and with_history < max(100, num_test // 2):
        context.progress.warn(
            "few test users have a history: on logs whose users do not come back, "
            "split.kind: leave_one_out measures more"
        )
    return SplitCounts.keeps({**counts, "cutoffs_utc": [_iso(us) for us in cutoffs or ()]})


def fold_of_rows(user_ids: np.ndarray, max_train: int | None, num_test: int = 1) -> np.ndarray:
    """Leave-one-out fold of each row of events sorted by user and time.

    user_ids: (N,) any dtype, equal ids adjacent. Returns (N,) of "train", "validation",
    "test" or "" (a training event beyond the user's last `max_train`).
    """
    num_rows = len(user_ids)
    if not num_rows:
        return np.empty(0, dtype="U10")
    starts = np.flatnonzero(np.r_[True, user_ids[1:] != user_ids[:-1]])
    lengths = np.diff(np.r_[starts, num_rows])
    length = np.repeat(lengths, lengths)
    from_end = np.repeat(starts + lengths, lengths) - 1 - np.arange(num_rows)
    held_out = length >= num_test + 2
    fold = np.full(num_rows, TRAIN, dtype="U10")
    fold[held_out & (from_end < num_test)] = TEST
    fold[held_out & (from_end == num_test)] = VALIDATION
    if max_train is not None:
        num_held_out = np.where(held_out, num_test + 1, 0)
        fold[(fold == TRAIN) & (from_end - num_held_out >= max_train)] = ""
    return fold


def _temporal_fold(
    user_ids: np.ndarray, time_us: np.ndarray, cutoffs: tuple[int, int], max_train: int | None
) -> np.ndarray:
    fold = np.full(len(time_us), TRAIN, dtype="U10")
    fold[time_us >= cutoffs[0]] = VALIDATION
    fold[time_us >= cutoffs[1]] = TEST
    if max_train is not None:
        train = np.flatnonzero(fold == TRAIN)
        users = user_ids[train]
        ends = np.flatnonzero(np.r_[users[1:] != users[:-1], True][: len(users)])
        lengths = np.diff(np.r_[-1, ends])
        from_end = np.repeat(ends, lengths) - np.arange(len(train))
        fold[train[from_end >= max_train]] = ""
    return fold


def _split_part(
    storage: Storage,
    source: str,
    folder: str,
    config: SplitConfig,
    cutoffs: tuple[int, int] | None,
    part: str,
) -> dict[str, Any]:
    events = storage.read_part(source, part)
    users = events["user_id"].to_numpy(zero_copy_only=False)
    if config.kind == "none":
        fold = np.full(len(users), TRAIN)
    elif cutoffs is None:
        fold = fold_of_rows(users, config.max_train_events, config.num_test_events)
    else:
        time_us = events["timestamp"].cast(pa.int64()).to_numpy()
        fold = _temporal_fold(users, time_us, cutoffs, config.max_train_events)
    tables = {name: events.filter(pa.array(fold == name)) for name in (TRAIN, VALIDATION, TEST)}
    counts = Counter({name: table.num_rows for name, table in tables.items()})
    test_users = pc.unique(tables[TEST]["user_id"])
    history = pc.is_in(test_users, value_set=pc.unique(tables[TRAIN]["user_id"]))
    counts["thinned_out"] = int((fold == "").sum())
    counts["train_users"] = len(pc.unique(tables[TRAIN]["user_id"]))
    counts["test_users"] = len(test_users)
    counts["test_users_with_history"] = pc.sum(history).as_py() or 0
    for name in (TEST, VALIDATION, TRAIN):  # train last: its note says that the part is done
        table = tables[name].cast(EVENT)
        storage.write_part(table, dict(counts) if name == TRAIN else {}, f"{folder}/{name}", part)
    return dict(counts)


def _cutoffs(context: Context, parts: list[str]) -> tuple[int, int]:
    """(validation, test) cut-offs in microseconds, from an hourly histogram of all events."""
    storage, folder = context.storage, f"{context.folder('split')}/hours"
    map_parts(context, folder, parts, partial(_hours, storage, context.folder("ingest"), folder))
    hours: Counter[int] = Counter()
    for part in parts:
        table = storage.read_part(folder, part)
        hours.update(dict(zip(*(table[name].to_pylist() for name in ("hour", "n")), strict=True)))
    config = context.config.split
    return cutoffs_from_hours(hours, config.validation_quantile, config.test_quantile)


def cutoffs_from_hours(hours: Counter[int], *quantiles: float) -> tuple[int, int]:
    """First hour (in microseconds) before which at least each share of the events lies.

    Raises UserError when all events lie so close that the cut-offs coincide.
    """
    ordered = np.array(sorted(hours))
    share = np.cumsum([hours[hour] for hour in ordered]) / sum(hours.values())
    cuts = [int(ordered[np.searchsorted(share, q)] + 1) * _HOUR_US for q in quantiles]
    if cuts[0] >= cuts[1] or cuts[1] > ordered[-1] * _HOUR_US:
        raise UserError(
            "split.kind temporal: the events' times leave no room for two cut-offs "
            f"({len(ordered)} distinct hours); use leave_one_out or other quantiles"
        )
    return cuts[0], cuts[1]


def _hours(storage: Storage, source: str, folder: str, part: str) -> dict[str, Any]:
    events = storage.read_part(source, part, columns=["timestamp"])
    hours = events["timestamp"].cast(pa.int64()).to_numpy() // _HOUR_US
    hour, count = np.unique(hours, return_counts=True)
    table = pa.table({"hour": pa.array(hour, pa.int64()), "n": pa.array(count, pa.int64())})
    storage.write_part(table, {}, folder, part)
    return {}


def _iso(time_us: int) -> str:
    return datetime.fromtimestamp(time_us / 1e6, UTC).isoformat()


STAGE = Stage(
    name="split",
    run=run,
    asks=lambda config, on_gpus: TASKS,
    inputs=("ingest",),
    settings=lambda config: config.split,
    part_folders=(TRAIN, VALIDATION, TEST),
)
