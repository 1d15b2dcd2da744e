"""`llmaug forecast`: what a night of generation will cost, before it is paid.

The job is run up to the plan, a sample of the plan goes through the real engine and the real
filters, and the rest is extrapolated strategy by strategy. What the probe generates is put into
the outcomes cache, so it is not paid for a second time.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from scipy import stats

from llmaug.config import Config
from llmaug.config.names import check_name, run_folder
from llmaug.core.formats import UNITS
from llmaug.core.lease import Lease
from llmaug.core.progress import Progress
from llmaug.core.stage import Context
from llmaug.core.storage import Storage
from llmaug.errors import UserError
from llmaug.filter.stage import filter_parts
from llmaug.generate.outcome_cache import cache_folder, recall
from llmaug.generate.part_answer import OutcomeFolders
from llmaug.generate.stage import STAGE as generate
from llmaug.generate.stage import of_generator, run_engines
from llmaug.lm.generator import generator_of
from llmaug.pipeline import check_engines
from llmaug.pipeline import run as run_pipeline
from llmaug.plan.parts import PlanPart, Source, read_parts, write_source
from llmaug.report.stage import FORECAST
from llmaug.schema import ACCEPTED

NUM_PIECES = 4  # of a probe: their differences give the interval


def forecast(
    config: Config,
    storage: Storage,
    run_id: str,
    num_units: int | None = None,
    progress: Callable[[Callable[[dict], None]], Progress] | None = None,
) -> dict[str, Any]:
    """Predict units, tokens, engine hours, cost and accepted outcomes of generation.

    `num_units` go through the engine (default: twice `generate.max_num_seqs`, so that it is as
    full as it will be). Intervals are 95%: Student's t over the probe's pieces for time,
    Wilson's score interval for accepted shares. Written to `runs/<run_id>/forecast.json`.
    Raises UserError when the plan is empty.
    """
    if not config.plan.strategies:
        raise UserError("plan.strategies is empty: there is nothing to forecast")
    run_id, folder = check_name(run_id, "run id"), run_folder(run_id)
    check_engines(config, [generate])
    run_pipeline(config, storage, run_id, "plan", progress)
    shown = progress(lambda state: None) if progress else Progress()
    with Lease(storage, folder, tell=shown.note) as lease:
        context = Context(storage, config, run_id, shown, lease)
        parts = read_parts(storage, context.folder("plan"))
        if not parts:
            raise UserError("the plan has no units: check plan.strategies and the budget")
        storage.delete(context.folder("forecast"))
        hits = _cached_shares(context, parts)
        _write_probe(context, parts, num_units or 2 * config.generate.max_num_seqs)
        seen = _run_probe(context)
        predicted = _predict(context, parts, hits, seen)
        storage.write_json(predicted, folder, FORECAST)
        return predicted


def _cached_shares(context: Context, parts: list[PlanPart]) -> dict[int, float]:
    """{strategy: share of its units that the outcomes cache answers}, from a few parts."""
    storage, generator = context.storage, generator_of(context).name
    known = storage.names(cache_folder(generator))
    shares = {}
    for strategy, own in _by_strategy(parts).items():
        hits = units = 0
        for part in own[:: max(1, len(own) // 4)] if known else []:
            plan = context.folder("plan")
            asked = storage.read_part(plan, part.name, ["unit_id"], UNITS)["unit_id"]
            wanted = asked.combine_chunks()
            hits += recall(storage, generator, part.source, known, wanted).num_rows
            units += len(asked)
        shares[strategy] = hits / units if units else 0.0
    return shares


def _write_probe(context: Context, parts: list[PlanPart], num_units: int) -> None:
    """A small plan of units spread evenly over the whole one, in `NUM_PIECES` pieces or more."""
    storage, plan = context.storage, context.folder("plan")
    total = sum(part.num_units for part in parts)
    for strategy, own in _by_strategy(parts).items():
        want = max(NUM_PIECES, round(num_units * sum(p.num_units for p in own) / total))
        used = own[:: max(1, len(own) // 8)]
        pieces = max(1, NUM_PIECES // len(used))
        for part in used:
            table = storage.read_part(plan, part.name, stored=UNITS)
            step = max(1, round(table.num_rows * len(used) / want))
            picked = table.take(pa.array(range(0, table.num_rows, step), pa.int64()))
            size = -(-picked.num_rows // pieces)
            # The same source as in the plan: the cache will be asked for these answers there.
            source = Source(f"{part.name}-probe", part.source, strategy, part.train_part, size)
            write_source(storage, context.folder("forecast/plan"), source, picked.to_pylist())


def _run_probe(context: Context) -> dict[str, Any]:
    """Generate and filter the probe; what was seen of the engines."""
    storage, asked = context.storage, of_generator(context)
    folders = OutcomeFolders(
        storage, context.folder("forecast/plan"), context.folder("forecast/outcomes"),
        f"{context.run_id}-forecast", asked.generator,
    )  # fmt: skip
    context.progress.start("forecast")
    stopped, seen = run_engines(context, folders, asked, read_parts(storage, folders.plan))
    if stopped:
        raise UserError(f"the probe was stopped by budget ({stopped}): no forecast")
    filter_parts(context, "forecast/plan", "forecast/outcomes", "forecast/filtered")
    return seen


def _predict(
    context: Context, parts: list[PlanPart], hits: dict[int, float], seen: dict[str, Any]
) -> dict[str, Any]:
    storage, budget = context.storage, context.config.budget
    probe = read_parts(storage, context.folder("forecast/plan"))
    strategies = {}
    for strategy, own in _by_strategy(parts).items():
        tables = [
            storage.read_part(context.folder("forecast/filtered"), part.name)
            for part in probe
            if part.strategy == strategy
        ]
        units = sum(part.num_units for part in own)
        kind = context.config.plan.strategies[strategy].kind
        strategies[f"{strategy}-{kind}"] = _of_strategy(tables, units, hits[strategy])
    total = {
        name: {
            bound: sum(found[name][bound] for found in strategies.values())
            for bound in ("mean", "low", "high")
        }
        for name in ("output_tokens", "engine_seconds", "accepted")
    }
    engines = context.config.generate.num_actors
    up = max(min(engines, len(probe)), 1)  # engines of the probe, each of which had to start
    start_up_h = max(seen["engine_hours"] / up - seen["span_s"] / 3600, 0)
    new = sum(found["new_share_seconds"] for found in strategies.values())
    paid = new / max(total["engine_seconds"]["mean"], 1e-9)  # the cache answers the rest
    hours = {
        bound: value * paid / 3600 + start_up_h * engines
        for bound, value in total["engine_seconds"].items()
    }
    return {
        "units": sum(part.num_units for part in parts),
        "probe_units": sum(part.num_units for part in probe),
        "cache_hits": round(sum(found["cache_hits"] for found in strategies.values())),
        **total,
        "engine_hours": hours,
        "wall_hours": {bound: value / engines for bound, value in hours.items()},
        "cost": {bound: value * budget.price_per_hour for bound, value in hours.items()},
        "strategies": strategies,
    }


def _of_strategy(tables: list[pa.Table], num_units: int, hit_share: float) -> dict[str, Any]:
    """Extrapolate the probe's outcomes of one strategy to `num_units`."""
    outcomes = pa.concat_tables(tables)
    accepted = int(pc.sum(pc.equal(outcomes["status"], ACCEPTED)).as_py() or 0)
    size = outcomes.num_rows
    wilson = stats.binomtest(accepted, size).proportion_ci(method="wilson")
    tokens = pc.mean(outcomes["num_generated_tokens"]).as_py()
    each = np.array([pc.mean(table["engine_seconds"]).as_py() for table in tables])
    seconds = float(pc.mean(outcomes["engine_seconds"]).as_py())
    spread = 0.0
    if len(each) > 1:
        spread = float(stats.t.ppf(0.975, len(each) - 1) * stats.sem(each))
    return {
        "units": num_units,
        "cache_hits": hit_share * num_units,
        "output_tokens": _range(tokens * num_units, 0.0),
        "engine_seconds": _range(seconds * num_units, spread * num_units),
        "new_share_seconds": seconds * num_units * (1 - hit_share),
        "accepted": {
            "mean": accepted / size * num_units,
            "low": wilson.low * num_units,
            "high": wilson.high * num_units,
        },
    }


def _range(mean: float, spread: float) -> dict[str, float]:
    return {"mean": mean, "low": max(mean - spread, 0.0), "high": mean + spread}


def _by_strategy(parts: list[PlanPart]) -> dict[int, list[PlanPart]]:
    found: dict[int, list[PlanPart]] = {}
    for part in parts:
        found.setdefault(part.strategy, []).append(part)
    return found
