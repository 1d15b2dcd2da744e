"""Stages `merged/<arm>`: real training events, and accepted synthetic ones, into shards.

The shards of `real` are the training parts themselves, cut to the same schema. Those of
`augmented` hold, for each part, its users' real events, then their continuations (one run
of events a unit), and further parts with the new users.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from llmaug.config import MergeConfig
from llmaug.plan import read_parts
from llmaug.schema import ACCEPTED, EVENT, SYNTHETIC, validate
from llmaug.split import TRAIN
from llmaug.stage import Context, Stage, map_parts
from llmaug.storage import Storage
from llmaug.vocabulary import load_statistics

REAL_ARM, AUGMENTED_ARM = "real", "augmented"


def run(arm: str, context: Context) -> dict[str, Any]:
    storage = context.storage
    train, filtered = f"{context.folder('split')}/{TRAIN}", context.folder("filtered")
    real_parts = storage.parts(train)
    shards = {part: Shard(part) for part in real_parts}
    generator, action = "", ""
    if arm == AUGMENTED_ARM:
        generator = context.manifest("plan")["counts"]["generator"]
        action = load_statistics(storage, context.folder("vocabulary")).action
        there = set(storage.parts(filtered))
        for planned in sorted(read_parts(storage, context.folder("plan")), key=lambda p: p.name):
            if planned.name in there:  # continuations lie beside the users they continue
                shard = shards.setdefault(planned.train_part or planned.name, Shard(None))
                shard.synthetic.append(planned.name)
    folder = context.folder(f"merged/{arm}")
    work = partial(
        _merge_part, storage, train, filtered, folder, shards, context.config.merge,
        context.run_id, generator, action,
    )  # fmt: skip
    return dict(map_parts(context, folder, list(shards), work))


@dataclass(frozen=True)
class Shard:
    """What one shard is merged from."""

    real: str | None
    """Part of the training events."""
    synthetic: list[str] = field(default_factory=list)
    """Parts of the filtered outcomes."""


def _merge_part(
    storage: Storage,
    train: str,
    filtered: str,
    folder: str,
    shards: dict[str, Shard],
    config: MergeConfig,
    run_id: str,
    generator: str,
    action: str,
    part: str,
) -> dict[str, Any]:
    shard = shards[part]
    real = storage.read_part(train, shard.real) if shard.real else EVENT.empty_table()
    synthetic = [
        synthetic_events(storage.read_part(filtered, source), config, run_id, generator, action)
        for source in shard.synthetic
    ]
    events = order_events(pa.concat_tables([real, *synthetic], promote_options="permissive"))
    counts = {"real": real.num_rows, "synthetic": events.num_rows - real.num_rows}
    storage.write_part(validate(events, EVENT, part), counts, folder, part)
    return counts


def synthetic_events(
    outcomes: pa.Table, config: MergeConfig, run_id: str, generator: str, action: str
) -> pa.Table:
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
                        "action": action,
                        "timestamp": event["timestamp"],
                        "value": None,
                        "weight": config.synthetic_weight,
                        "origin": SYNTHETIC,
                        "run_id": run_id,
                        "unit_id": outcome["unit_id"],
                        "strategy": outcome["strategy"],
                        "generator": generator,
                        "position": event["position"],
                        "logprob": event["logprob"],
                    }
                )
    return pa.Table.from_pylist(rows, schema=EVENT)


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


def stage(arm: str) -> Stage:
    return Stage(
        name=f"merged/{arm}",
        run=partial(run, arm),
        inputs=("split", "vocabulary", "filtered") if arm == AUGMENTED_ARM else ("split",),
        settings=lambda config: config.merge if arm == AUGMENTED_ARM else None,
    )
