"""Stage `fidelity`: how like real behaviour the synthetic events are.

Compared are training events and what was merged into them, so that nothing of the held-out events
is looked at. Parts are counted one by one; only sums and a sample of histories reach the driver.
Lengths and whole histories are those of new users: what was generated for real users stands within
their own histories. Beside each figure stands the same of two halves of the real users.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from llmaug.arms.arms import AUGMENTED
from llmaug.core.placing import TASKS
from llmaug.core.stage import Context, Stage, map_parts
from llmaug.core.storage import Storage
from llmaug.evaluate.fidelity_measures import (
    HALVES,
    SYNTHETIC_SIDE,
    Counts,
    distributions,
    effective_items,
    expected_coverage,
    gap_bins,
    measured,
    tail_items,
)
from llmaug.evaluate.figures import FidelityCounts
from llmaug.evaluate.two_sample import History, two_sample
from llmaug.ingest.cleaning import id_hash
from llmaug.ingest.split import TRAIN
from llmaug.items.arrays import group_bounds
from llmaug.items.vocabulary import NUM_SPECIAL, Vocabulary, load_statistics, load_vocabulary
from llmaug.schema import SYNTHETIC

SUMS, HISTORIES = "sums", "histories"
_REAL, _GENERATED = "real-", "synthetic-"
_MAX_HISTORIES = 1000  # of each side, for the classifier
_POPULAR = 1000  # items whose neighbours are counted
_COLUMNS = ["user_id", "item_id", "action", "timestamp", "unit_id", "place"]
_SUMS_SCHEMA = pa.schema(
    {"side": pa.int8(), "name": pa.string(), "keys": pa.list_(pa.int64()),
     "counts": pa.list_(pa.int64())}
)  # fmt: skip
_HISTORIES_SCHEMA = pa.schema(
    {"side": pa.int8(), "hash": pa.uint64(), "items": pa.list_(pa.int64()),
     "seconds": pa.list_(pa.int64()), "actions": pa.list_(pa.int64())}
)  # fmt: skip


def run(context: Context) -> dict[str, Any]:
    """{"found": figures (`Fidelity`), null where nothing was generated}."""
    storage, folder = context.storage, context.folder("fidelity")
    train, merged = f"{context.folder('split')}/{TRAIN}", context.folder(f"merged/{AUGMENTED}")
    if not context.manifest(f"merged/{AUGMENTED}")["counts"].get("synthetic"):
        return FidelityCounts.keeps({"found": None})
    parts = [_REAL + part for part in storage.parts(train)]
    parts += [_GENERATED + part for part in storage.parts(merged)]
    actions = load_statistics(storage, context.folder("vocabulary")).actions
    at_most = -(-_MAX_HISTORIES // max(1, len(storage.parts(train))))
    work = partial(
        _count_part, storage, train, merged, folder, context.folder("vocabulary"), actions, at_most
    )
    map_parts(context, f"{folder}/{SUMS}", parts, work)
    vocabulary = load_vocabulary(storage, context.folder("vocabulary"))
    sides = _totals(storage, f"{folder}/{SUMS}", parts, vocabulary.num_items, len(actions))
    histories = _histories(storage, f"{folder}/{HISTORIES}", parts)
    found = figures(sides, histories, _train_events(vocabulary), actions, context.config.seed)
    storage.delete(f"{folder}/{SUMS}")  # first: whoever resumes counts again
    storage.delete(f"{folder}/{HISTORIES}")
    return FidelityCounts.keeps({"found": found})


def figures(
    sides: tuple[Counts, Counts, Counts],
    histories: dict[bool, list[History]],
    train_events: np.ndarray,
    actions: list[str],
    seed: int,
) -> dict[str, Any]:
    """sides: two halves of the real users, and what was generated. histories: samples of whole
    ones, by whether they were generated. train_events: (I,)."""
    *halves, generated = sides
    real, tail = halves[0] + halves[1], tail_items(train_events)
    num_events = int(generated.items.sum())
    coverage = float((generated.items[tail] > 0).mean()) if tail.any() else None
    return {
        "synthetic_events": num_events,
        "synthetic_histories": int(generated.lengths.sum()),
        **measured((halves[0], halves[1]), generated),
        "tail_share": {
            name: float(own.items[tail].sum() / max(1, own.items.sum()))
            for name, own in (("real", real), ("synthetic", generated))
        },
        "tail_coverage": coverage,
        "tail_coverage_expected": expected_coverage(train_events, tail, num_events),
        "effective_items": {
            "real": effective_items(real.items), "synthetic": effective_items(generated.items),
        },
        "distinct_histories": {
            name: _distinct(histories[is_generated]) if all(histories.values()) else None
            for name, is_generated in (("real", False), ("synthetic", True))
        },
        "classifier": two_sample(histories[False], histories[True], train_events, seed),
        "distributions": distributions(real, generated, actions),
    }  # fmt: skip


def _distinct(histories: list[History]) -> float:
    """The share of histories with items that no other one has in the same order."""
    kept = [own.items.tobytes() for own in histories]
    return len(set(kept)) / len(kept)


def _train_events(vocabulary: Vocabulary) -> np.ndarray:
    return np.asarray(vocabulary.items["train_events"].to_numpy())


# -- counting, part by part -----------------------------------------------------------------


def _count_part(
    storage: Storage,
    train: str,
    merged: str,
    folder: str,
    vocabulary_folder: str,
    actions: list[str],
    at_most: int,
    part: str,
) -> dict[str, Any]:
    vocabulary = load_vocabulary(storage, vocabulary_folder)
    if part.startswith(_REAL):
        events = storage.read_part(train, part.removeprefix(_REAL), columns=_COLUMNS)
        names = events["user_id"].combine_chunks()
        side = (id_hash(names) % 2).astype(np.int8)
        whole = np.ones(len(names), bool)
    else:
        name = part.removeprefix(_GENERATED)
        events = storage.read_part(merged, name, columns=[*_COLUMNS, "origin"])
        events = events.filter(pc.equal(events["origin"].cast(pa.string()), SYNTHETIC))
        names = events["unit_id"].combine_chunks()
        side = np.full(len(names), SYNTHETIC_SIDE, np.int8)
        whole = pc.starts_with(events["user_id"], "synthetic:").to_numpy(zero_copy_only=False)
    rows = _rows(events, names, side, whole, vocabulary, actions)
    taken = _sample(rows, names, at_most)
    storage.write_part(
        pa.Table.from_pylist(taken, schema=_HISTORIES_SCHEMA), {}, f"{folder}/{HISTORIES}", part
    )
    sums = [
        {"side": own, "name": name, "keys": keys, "counts": counts}
        for own in np.unique(side).tolist()
        for name, (keys, counts) in _sums(rows, own, vocabulary).items()
    ]
    table = pa.Table.from_pylist(sums, schema=_SUMS_SCHEMA)
    storage.write_part(table, {}, f"{folder}/{SUMS}", part)  # last: its note says "done"
    return {}


def _rows(
    events: pa.Table,
    names: pa.Array,
    side: np.ndarray,
    whole: np.ndarray,
    vocabulary: Vocabulary,
    actions: list[str],
) -> dict[str, np.ndarray]:
    """Columns of (N,) events: `history` numbers the runs of equal `names`; `follows`: whether an
    event is the next one after the row before it, in a history and not only in a list."""
    codes = names.dictionary_encode().indices.to_numpy()
    place = pc.fill_null(events["place"], -1).to_numpy()
    follows = np.zeros(len(codes), bool)
    follows[1:] = (codes[1:] == codes[:-1]) & (place[1:] == place[:-1])
    action = pc.index_in(events["action"].cast(pa.string()), value_set=pa.array(actions))
    return {
        "side": side,
        "whole": whole,
        "history": np.cumsum(np.r_[0, codes[1:] != codes[:-1]]) if len(codes) else codes,
        "follows": follows,
        "item": vocabulary.encode(events["item_id"]).astype(np.int64) - NUM_SPECIAL,
        "seconds": events["timestamp"].cast(pa.int64()).to_numpy() // 1_000_000,
        "action": pc.fill_null(action, len(actions)).to_numpy().astype(np.int64),
    }


def _sums(
    rows: dict[str, np.ndarray], side: int, vocabulary: Vocabulary
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """{name of a field of `Counts`: (keys, counts)} of one side's rows."""
    own = rows["side"] == side
    follows = np.flatnonzero(own & rows["follows"])
    item, seconds = rows["item"], rows["seconds"]
    rank = np.full(vocabulary.num_items, -1)
    popular = np.argsort(-_train_events(vocabulary), kind="stable")[:_POPULAR]
    rank[popular] = np.arange(len(popular))
    known = (item[follows] >= 0) & (item[follows - 1] >= 0)
    before, after = rank[item[follows - 1][known]], rank[item[follows][known]]
    both = (before >= 0) & (after >= 0)
    _, lengths = np.unique(rows["history"][own & rows["whole"]], return_counts=True)
    of = {
        "items": item[own & (item >= 0)],
        "actions": rows["action"][own],
        "hours": seconds[own] // 3600 % 24,
        "gaps": gap_bins(seconds[follows] - seconds[follows - 1]),
        "lengths": lengths,
        "transitions": before[both] * _POPULAR + after[both],
    }
    return {name: np.unique(keys, return_counts=True) for name, keys in of.items()}


def _sample(rows: dict[str, np.ndarray], names: pa.Array, at_most: int) -> list[dict[str, Any]]:
    """Whole histories with the smallest hashes: the same ones in every run."""
    bounds = [(a, b) for a, b in group_bounds(rows["history"]) if rows["whole"][a]]
    if not bounds:
        return []
    hashes = id_hash(names.take(pa.array([a for a, _ in bounds])))
    taken = np.argsort(hashes, kind="stable")[:at_most]
    found = []
    for number in taken.tolist():
        own = slice(*bounds[number])
        known = rows["item"][own] >= 0
        columns = {"items": "item", "seconds": "seconds", "actions": "action"}
        found.append(
            {"side": rows["side"][own][0], "hash": hashes[number],
             **{name: rows[column][own][known] for name, column in columns.items()}}
        )  # fmt: skip
    return found


# -- adding up ------------------------------------------------------------------------------


def _totals(
    storage: Storage, folder: str, parts: list[str], num_items: int, num_actions: int
) -> tuple[Counts, Counts, Counts]:
    def none() -> Counts:
        return Counts(np.zeros(num_items, np.int64), np.zeros(num_actions + 1, np.int64))

    sides = [none() for _ in (*HALVES, SYNTHETIC_SIDE)]
    for part in parts:
        of_part: dict[int, Counts] = {}
        for row in storage.read_part(folder, part).to_pylist():
            own = of_part.setdefault(row["side"], none())
            keys, counts = (np.array(row[name], np.int64) for name in ("keys", "counts"))
            if row["name"] == "transitions":
                own.transitions = np.stack([keys, counts])
            elif row["name"] == "lengths":
                own.lengths = np.bincount(keys, counts, minlength=1).astype(np.int64)
            else:
                getattr(own, row["name"])[keys] = counts
        for side, own in of_part.items():
            sides[side] = sides[side] + own
    return sides[0], sides[1], sides[2]


def _histories(storage: Storage, folder: str, parts: list[str]) -> dict[bool, list[History]]:
    """Up to `_MAX_HISTORIES` of either side that are not empty, by whether they were generated."""
    rows = [row for part in parts for row in storage.read_part(folder, part).to_pylist()]
    rows.sort(key=lambda row: row["hash"])
    columns = ("items", "seconds", "actions")
    found: dict[bool, list[History]] = {False: [], True: []}
    for row in rows:
        own = found[row["side"] == SYNTHETIC_SIDE]
        if row["items"] and len(own) < _MAX_HISTORIES:
            own.append(History(*(np.array(row[name], np.int64) for name in columns)))
    return found


STAGE = Stage(
    name="fidelity",
    run=run,
    asks=lambda config, on_gpus: TASKS,
    inputs=(f"merged/{AUGMENTED}", "split", "vocabulary"),
)
