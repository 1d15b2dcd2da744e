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
from llmaug.arms.shard_events import (
    Provenance,
    order_events,
    synthetic_events,
    take_users,
    twins,
    with_soft_targets,
)
from llmaug.arms.written import written_events
from llmaug.config import MergeConfig
from llmaug.core.placing import TASKS
from llmaug.core.stage import Context, Stage, map_parts, on_track
from llmaug.core.storage import Storage
from llmaug.ingest.split import TRAIN
from llmaug.items.vocabulary import load_statistics
from llmaug.plan.parts import read_parts
from llmaug.schema import EVENT, SOFT_EVENT, SYNTHETIC, validate


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
