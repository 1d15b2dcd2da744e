"""The events of a shard: real ones, whole users of them again, and what was generated."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from llmaug.arms.arms import DUPLICATE
from llmaug.config import MergeConfig
from llmaug.core.storage import digest
from llmaug.ingest.cleaning import id_hash
from llmaug.items.arrays import group_bounds
from llmaug.schema import ACCEPTED, EVENT, SOFT_EVENT, SYNTHETIC, validate


@dataclass(frozen=True)
class Provenance:
    """What synthetic events say about where they come from."""

    run_id: str
    generator: str
    action: str = ""
    """Of events whose generator knows items alone: the most frequent one."""


def take_users(events: pa.Table, share: float) -> pa.Table:
    """All events of some users: as near to `share` of the (N,) events as whole users allow.

    Who is taken depends on a hash of the user id: the same users in every run.
    """
    if share >= 1:
        return events
    user_ids = events["user_id"].combine_chunks()
    found = group_bounds(user_ids.to_numpy(zero_copy_only=False))
    bounds = np.array(found, np.int64).reshape(-1, 2)
    order = np.argsort(id_hash(user_ids.take(pa.array(bounds[:, 0]))), kind="stable")
    lengths = np.diff(bounds[order]).ravel()
    taken = order[np.cumsum(lengths) - lengths / 2 < share * events.num_rows]
    rows = [np.arange(start, end) for start, end in bounds[np.sort(taken)]]
    return events.take(pa.array(np.concatenate([np.empty(0, np.int64), *rows])))


def twins(events: pa.Table, config: MergeConfig, provenance: Provenance) -> pa.Table:
    """The real events of (N,) rows sorted by user, as those of one synthetic user for each."""
    rows = events.to_pylist()
    for start, end in group_bounds(events["user_id"].to_numpy(zero_copy_only=False)):
        unit_id = digest([provenance.generator, rows[start]["user_id"]])
        for row in rows[start:end]:
            row |= {
                "user_id": f"synthetic:{unit_id}",
                "weight": row["weight"] * config.synthetic_weight,
                "origin": SYNTHETIC,
                "run_id": provenance.run_id,
                "unit_id": unit_id,
                "strategy": DUPLICATE,
                "generator": provenance.generator,
            }
    return pa.Table.from_pylist(rows, schema=EVENT)


def synthetic_events(outcomes: pa.Table, config: MergeConfig, provenance: Provenance) -> pa.Table:
    """The kept events of accepted outcomes as Event rows.

    A new user's id is `synthetic:` and the unit's id: it cannot collide with a real one
    and names where it came from.
    """
    rows = []
    for outcome in outcomes.filter(pc.equal(outcomes["status"], ACCEPTED)).to_pylist():
        for event in outcome["events"]:
            if event["keep"]:
                rows.append(
                    {
                        "user_id": outcome["user_id"] or f"synthetic:{outcome['unit_id']}",
                        "item_id": event["item_id"],
                        "action": event["action"] or provenance.action,
                        "timestamp": event["timestamp"],
                        "value": None,
                        "weight": config.weight_of(outcome["strategy"]),
                        "origin": SYNTHETIC,
                        "run_id": provenance.run_id,
                        "unit_id": outcome["unit_id"],
                        "strategy": outcome["strategy"],
                        "generator": provenance.generator,
                        "position": event["position"],
                        "place": event["place"],
                        "logprob": event["logprob"],
                    }
                )
    return pa.Table.from_pylist(rows, schema=EVENT)


def with_soft_targets(events: pa.Table, outcomes: list[pa.Table]) -> tuple[pa.Table, int]:
    """(N,) real events sorted by user as rows of SOFT_EVENT, and how many of them have soft
    targets. outcomes: of soft_events, filtered; those of a user are of all of its events."""
    accepted: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    for table in outcomes:
        table = table.filter(pc.equal(table["status"], ACCEPTED))
        for row in range(table.num_rows):
            user, k = table["user_id"][row].as_py(), table["soft_k"][row].as_py()
            tokens, chances = (
                table[name][row].values.to_numpy().reshape(-1, k)
                for name in ("soft_tokens", "soft_chances")
            )
            accepted[user] = tokens, chances
    number = np.zeros(events.num_rows, np.int64)
    kept: list[tuple[np.ndarray, np.ndarray]] = [(np.empty(0, np.int32), np.empty(0, np.float32))]
    users = events["user_id"].to_numpy(zero_copy_only=False)
    for start, end in group_bounds(users):
        if users[start] in accepted:
            tokens, chances = accepted[users[start]]
            assert len(tokens) == end - start, users[start]
            there = tokens >= 0
            number[start:end] = there.sum(1)
            kept.append((tokens[there], chances[there]))
    offsets = pa.array(np.concatenate([[0], np.cumsum(number)]), pa.int32())
    none = pa.array(number == 0)
    for name, pieces in zip(("soft_tokens", "soft_chances"), zip(*kept, strict=True), strict=True):
        lists = pa.ListArray.from_arrays(offsets, np.concatenate(pieces), mask=none)
        events = events.append_column(name, lists)
    return validate(events, SOFT_EVENT, "soft targets"), int((number > 0).sum())


def order_events(events: pa.Table) -> pa.Table:
    """By user, real events before each unit's, each run in its own order."""
    keys = pa.table(
        {
            "user_id": events["user_id"],
            "unit_id": pc.fill_null(events["unit_id"], ""),
            "row": pa.array(range(events.num_rows), pa.int64()),
        }
    )
    order = pc.sort_indices(keys, [(name, "ascending") for name in keys.column_names])
    return events.take(order)
