"""Stages `merged/<shards>`: the training events of the arms.

real: the training parts themselves, cut to the same schema.
augmented: for each part, its users' real events, then what was generated for them (one run
of events a unit, with their places in the history), and further parts with the new users. With
soft_events, real events say what could as well have come in their stead.
ngram: the same with what the baseline's generator wrote.
reviewed: the real events, and beside those of the users whom a chat model was asked about
(text task `write_reviews`) the ratings that it gave in their names.
warmed: the real events, and what a chat model chose for items and users with few (text tasks
`cold_items` and `cold_users`), each answer as a run of events of its own.
duplicate: `real`, and every user once more as a synthetic user. The classic baseline: more
data without anything new in it. For a model without user vectors that is one repeat of
`real`, with the weight of synthetic events.
oversampled: `real`, and whole users of it again until there are as many events as in
`augmented`: the control for volume.

Read the control as what it is. A batch holds `batch_size` sequences of a shuffled cycle over
all of them, and all arms take the same number of steps. So at a step a user is as likely to
be drawn from `oversampled` as from `real`, and the two arms differ by chance, except that
- a user may stand in a batch more than once,
- a volume that is no multiple of the real one gives some users one more repeat than others,
- a log with fewer users than `batch_size` has smaller batches in `real`.
What the control rules out is that `augmented` gains by these. It would do much more where
training is counted in epochs: there a repeated log trains longer.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from llmaug.arms.arms import (
    AUGMENTED,
    DUPLICATE,
    NGRAM,
    OVERSAMPLED,
    REAL,
    REVIEWED,
    WARMED,
)
from llmaug.arms.written import written_events
from llmaug.config import MergeConfig
from llmaug.core.placing import TASKS
from llmaug.core.stage import Context, Stage, map_parts, on_track
from llmaug.core.storage import Storage, digest
from llmaug.ingest.cleaning import id_hash
from llmaug.ingest.split import TRAIN
from llmaug.items.arrays import group_bounds
from llmaug.items.vocabulary import load_statistics
from llmaug.plan.parts import read_parts
from llmaug.schema import ACCEPTED, EVENT, SOFT_EVENT, SYNTHETIC, validate


@dataclass(frozen=True)
class Shard:
    """What one shard is merged from."""

    real: str | None
    """Part of the training events."""
    share: float = 1.0
    """Share of the part's events to take, by whole users."""
    twins: bool = False
    """The part's users stand here as synthetic users."""
    synthetic: list[str] = field(default_factory=list)
    """Parts of the filtered outcomes whose events stand here."""
    written: list[str] = field(default_factory=list)
    """Folders of rows of text tasks whose parts of the same name stand here."""
    soft: list[str] = field(default_factory=list)
    """Those of soft_events: what they say goes with the real events."""


@dataclass(frozen=True)
class Provenance:
    """What synthetic events say about where they come from."""

    run_id: str
    generator: str
    action: str = ""
    """Of events whose generator knows items alone: the most frequent one."""


def run(shards: str, context: Context, written: tuple[str, ...] = ()) -> dict[str, Any]:
    storage = context.storage
    if shards == NGRAM:
        context = replace(context, track=NGRAM)
    train = f"{context.folder('split')}/{TRAIN}"
    provenance = Provenance(context.run_id, generator=DUPLICATE)
    plan = {part: Shard(part) for part in storage.parts(train)}
    if shards in (AUGMENTED, NGRAM):
        provenance = Provenance(
            context.run_id,
            context.manifest("plan")["counts"]["generator"],
            _most_frequent_action(context),
        )
        _add_outcomes(plan, context)
    elif shards == REVIEWED:
        _add_written(plan, context, written)
    elif shards == WARMED:
        provenance = Provenance(context.run_id, "", _most_frequent_action(context))
        _add_written(plan, context, written)
    elif shards == DUPLICATE:
        plan |= {f"twin-{part}": Shard(part, twins=True) for part in list(plan)}
    elif shards == OVERSAMPLED:
        counts = context.manifest(f"merged/{AUGMENTED}")["counts"]
        plan |= repeats(list(plan), counts["synthetic"] / max(1, counts["real"]))
    folder = context.folder(f"merged/{shards}")
    merged = _MergedPart(
        storage, train, context.folder("filtered"), folder, plan, context.config.merge, provenance,
        has_soft=shards == AUGMENTED and context.config.plan.soft,
    )  # fmt: skip
    return dict(map_parts(context, folder, list(plan), merged))


def _add_outcomes(plan: dict[str, Shard], context: Context) -> None:
    there = set(context.storage.parts(context.folder("filtered")))
    asked = read_parts(context.storage, context.folder("plan"))
    # The baseline's strategies are others than those of the config, and never soft.
    strategies = [] if context.track == NGRAM else context.config.plan.strategies
    soft = {number for number, strategy in enumerate(strategies) if strategy.soft}
    for part in sorted(asked, key=lambda part: part.name):
        if part.name in there:  # continuations lie beside the users they continue
            shard = plan.setdefault(part.train_part or part.name, Shard(None))
            (shard.soft if part.strategy in soft else shard.synthetic).append(part.name)


def _add_written(plan: dict[str, Shard], context: Context, stages: tuple[str, ...]) -> None:
    for folder in map(context.folder, stages):
        for part in context.storage.parts(folder):  # new users have parts of their own
            plan.setdefault(part, Shard(None)).written.append(folder)


def _most_frequent_action(context: Context) -> str:
    return load_statistics(context.storage, context.folder("vocabulary")).actions[0]


def repeats(parts: list[str], times: float) -> dict[str, Shard]:
    """Shards that hold the events of `parts` again, `times` as many in all."""
    return {
        f"repeat-{number + 1}-{part}": Shard(part, share=min(1.0, times - number))
        for number in range(math.ceil(times))
        for part in parts
    }


@dataclass(frozen=True)
class _MergedPart:
    """Writes one shard of an arm; picklable, called for a part of the plan."""

    storage: Storage
    train: str
    filtered: str
    folder: str
    plan: dict[str, Shard]
    config: MergeConfig
    provenance: Provenance
    has_soft: bool = False
    """Whether soft targets were asked for: then all shards have columns for them."""

    def __call__(self, part: str) -> dict[str, Any]:
        shard = self.plan[part]
        real, schema, counts = self._real(shard), EVENT, {}
        if self.has_soft:
            outcomes = [self.storage.read_part(self.filtered, name) for name in shard.soft]
            real, num_soft = with_soft_targets(validate(real, EVENT, part), outcomes)
            schema, counts = SOFT_EVENT, {"soft": num_soft}
        synthetic = [*self._synthetic(shard), *self._written(shard, part)]
        events = order_events(pa.concat_tables([real, *synthetic], promote_options="permissive"))
        num_synthetic = pc.sum(pc.equal(events["origin"].cast(pa.string()), SYNTHETIC)).as_py() or 0
        counts |= {"real": events.num_rows - num_synthetic, "synthetic": num_synthetic}
        self.storage.write_part(validate(events, schema, part), counts, self.folder, part)
        return counts

    def _real(self, shard: Shard) -> pa.Table:
        """Events of the log: as they are, or as those of synthetic users."""
        if shard.real is None:
            return EVENT.empty_table()
        events = take_users(self.storage.read_part(self.train, shard.real), shard.share)
        return twins(events, self.config, self.provenance) if shard.twins else events

    def _synthetic(self, shard: Shard) -> list[pa.Table]:
        return [
            synthetic_events(
                self.storage.read_part(self.filtered, outcomes), self.config, self.provenance
            )
            for outcomes in shard.synthetic
        ]

    def _written(self, shard: Shard, part: str) -> list[pa.Table]:
        return [
            written_events(
                self.storage.read_part(folder, part),
                task=folder.split("/")[-2],
                action=self.provenance.action,
                weight=self.config.synthetic_weight,
            )
            for folder in shard.written
        ]


def take_users(events: pa.Table, share: float) -> pa.Table:
    """All events of some users: as near to `share` of the (N,) events as whole users allow.

    Who is taken depends on a hash of the user id: the same users in every run.
    """
    if share >= 1:
        return events
    user_ids = events["user_id"].combine_chunks()
    bounds = np.array(group_bounds(user_ids.to_numpy(zero_copy_only=False))).reshape(-1, 2)
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


_INPUTS = {
    REAL: ("split",),
    AUGMENTED: ("split", "vocabulary", "filtered"),
    NGRAM: ("split", "vocabulary", on_track(NGRAM, "filtered")),
    DUPLICATE: ("split",),
    OVERSAMPLED: ("split", f"merged/{AUGMENTED}"),
    REVIEWED: ("split",),
    WARMED: ("split", "vocabulary"),
}


def stage(shards: str, written: tuple[str, ...] = ()) -> Stage:
    """written: stages of text tasks whose rows stand beside the real events."""
    return Stage(
        name=f"merged/{shards}",
        run=partial(run, shards, written=written),
        asks=lambda config, on_gpus: TASKS,
        inputs=(*_INPUTS[shards], *written),
        settings=lambda config: None if shards in (REAL, OVERSAMPLED) else config.merge,
    )
