"""Units in, Outcomes out: a fixed pool of engines, spread by Ray Data.

One part of the plan is one Ray Data row. An actor keeps several parts in its engine, so that
the engine never waits for storage, and writes each part's outcomes: exactly one outcome a
unit, failures with their reason. A part that is written is never generated again; answers of
an unfinished part are put aside every half minute, so a killed run repeats little.

Before any engine starts, the outcomes cache answers what it can. A limit of the budget ends
the stage with what is there; SIGTERM or Ctrl-C keeps what is finished for the next run.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Any

from llmaug.config import BudgetConfig, Config, modules_of
from llmaug.core.cluster import address_of, connect
from llmaug.core.placing import TASKS
from llmaug.core.stage import Context, Stage, content_of, map_parts, total_counts
from llmaug.core.storage import Storage
from llmaug.errors import UserError
from llmaug.filter.rules import roots_of as roots_of_filters
from llmaug.generate.board import Board, Limits
from llmaug.generate.counts import OutcomesCounts
from llmaug.generate.earlier_nights import answer_from_cache
from llmaug.generate.engine_maker import engine_maker, engines, idle_cores, num_gpus
from llmaug.generate.engines import EngineMaker
from llmaug.generate.ledger import check_units
from llmaug.generate.look import EventLook, Look
from llmaug.generate.part_answer import KEPT, OutcomeFolders, commit, kept_of
from llmaug.generate.part_worker import PartWorker
from llmaug.generate.watch import Spent, Watch, interruptible
from llmaug.ingest.split import TRAIN
from llmaug.lm.generator import generator_of, repeatable, roots_of
from llmaug.plan.parts import PlanPart, read_parts
from llmaug.schema import FAILED, GENERATED

if TYPE_CHECKING:
    from ray.data import Dataset

_LOOKED_AT = 10_000  # units are judged while it runs, about
_ALWAYS_COUNTED = (
    "units", GENERATED, FAILED, "cache_hits", "not_needed",
    "output_tokens", "prompt_tokens", "cached_prompt_tokens",
)  # fmt: skip


@dataclass(frozen=True)
class Asked:
    """What generation has to know of who is asked."""

    generator: str
    """Its name: of the outcomes cache."""
    engine: Callable[[list[PlanPart]], EngineMaker]
    """For parts that are to be answered: what an actor calls to start its engine."""
    look: Callable[[int], Callable[[], Look]]
    """For the number of units: what an actor calls to have who looks at answers."""
    num_gpus: Callable[[], float]
    """Of each engine."""


def run(context: Context) -> dict[str, Any]:
    return answer_plan(context, of_generator(context))


def of_generator(context: Context) -> Asked:
    """The behaviour model that the config names."""
    config, storage, generator = context.config, context.storage, generator_of(context)
    strategies = config.plan.strategies
    return Asked(
        generator.name,
        lambda parts: engine_maker(
            context, generator, [strategies[n] for n in {part.strategy for part in parts}]
        ),
        lambda num_units: partial(
            EventLook, storage, generator, strategies, config.filters,
            repeatable(context, generator), f"{context.folder('split')}/{TRAIN}",
            max(1, num_units // _LOOKED_AT),
        ),
        lambda: num_gpus(context),
    )  # fmt: skip


def answer_plan(context: Context, asked: Asked) -> dict[str, Any]:
    """One outcome for each unit of the plan; returns the counts of the stage."""
    storage, folder = context.storage, context.folder("outcomes")
    parts = read_parts(storage, context.folder("plan"))
    folders = OutcomeFolders(
        storage, context.folder("plan"), folder, context.run_id, asked.generator
    )
    if context.config.generate.use_cache:
        answer_from_cache(context, folders, parts)
    stopped, seen = run_engines(context, folders, asked, parts)
    done = set(storage.parts(folder))
    if stopped:
        _commit_kept(context, folders, [part for part in parts if part.name not in done])
        done = set(storage.parts(folder))
    counts = total_counts(storage, folder)
    planned = context.manifest("plan")["counts"]["units"]
    missing = sum(part.num_units for part in parts if part.name not in done)
    left_out = counts["left_out"] + missing
    answered = counts["units"]
    assert answered == counts[GENERATED] + counts[FAILED], counts
    assert planned == answered + left_out + counts["not_needed"], (planned, left_out, counts)
    check_units(storage, context.folder("plan"), folder, [p.name for p in parts if p.name in done])
    if answered and counts[FAILED] == answered:
        raise UserError(f"all {answered} units failed: {_first_failure(storage, folder)}")
    if left_out:
        context.progress.warn(
            f"{stopped or 'limit'} reached: {left_out:,} of {planned:,} units are left "
            f"out, {answered:,} are answered"
        )
    own = {"planned": planned, "left_out": left_out, "stopped": stopped}
    return OutcomesCounts.keeps({**_figures(counts), **own, **seen})


def _figures(counts: Counter[str]) -> dict[str, Any]:
    seconds = counts["engine_ms"] / 1000
    figures = {name: n for name, n in counts.items() if name not in ("engine_ms", "rows")}
    for name in _ALWAYS_COUNTED:
        figures.setdefault(name, 0)
    rate = round(counts["output_tokens"] / seconds, 1) if seconds else 0.0
    return {**figures, "engine_seconds": round(seconds, 2), "output_tokens_per_s": rate}


# -- engines -----------------------------------------------------------------------------


def run_engines(
    context: Context, folders: OutcomeFolders, asked: Asked, parts: list[PlanPart]
) -> tuple[str, dict[str, Any]]:
    """Run all parts that are not done; (why it stopped early or '', what the board saw)."""
    config, storage = context.config, context.storage
    done = set(storage.parts(folders.outcomes))
    pending = [part for part in parts if part.name not in done]
    if not pending:
        return "", {}
    connect(config.ray)
    alone = address_of(config.ray) is None and not asked.num_gpus()
    if alone and (hint := idle_cores(config.generate, os.cpu_count() or 1)):
        context.progress.note(hint)
    spent = Spent(storage, folders.outcomes)
    board = _start_board(context, spent)
    num_units = sum(part.num_units for part in parts)
    worker = {
        "folders": folders,
        "engine": asked.engine(pending),
        "board": board,
        "look": asked.look(num_units),
    }
    finished = total_counts(storage, folders.outcomes)
    hits = total_counts(storage, f"{folders.outcomes}/_cache")["cache_hits"]
    board.add.remote({"cache_hits": hits})
    watch = Watch(context, board, spent, num_units, finished, hits)
    with watch, interruptible(watch.interrupt, context):
        for row in _answered(context, asked, pending, worker).iter_rows():
            if context.lease:
                context.lease.check()
            watch.finished.update(json.loads(row["counts"]))
    return watch.verdict(), watch.seen()


def _answered(
    context: Context, asked: Asked, pending: list[PlanPart], worker: dict[str, Any]
) -> Dataset:
    """A row for each part that an engine of the pool has answered."""
    import ray.data

    config = context.config.generate
    rows = ray.data.from_items([vars(part) for part in pending], override_num_blocks=len(pending))
    # Ray's guard sees parts, and one of long answers may take an hour. When a machine is lost,
    # its parts wait for another one, or for an engine that has no more parts to make room.
    rows.context.execution_no_progress_timeout_s = -1
    return rows.map(
        PartWorker,  # type: ignore[arg-type]
        fn_constructor_kwargs=worker,
        compute=ray.data.ActorPoolStrategy(
            size=min(config.num_actors, len(pending)),
            max_tasks_in_flight_per_actor=config.parts_in_flight,
            max_concurrent_calls_per_actor=config.parts_in_flight,
            enable_true_multi_threading=True,
        ),
        num_cpus=config.num_cpus,
        num_gpus=asked.num_gpus(),
    )


def _start_board(context: Context, spent: Spent) -> Any:
    """On the driver's machine: it must not go with a spot node."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=True)
    limits = limits_of(context.config.budget, spent.before, datetime.now(UTC))
    actor = ray.remote(Board).options(  # type: ignore[call-overload]
        num_cpus=0, max_restarts=-1, scheduling_strategy=here
    )
    return actor.remote(limits, context.run_id, context.config.budget.price_per_hour, True)


def limits_of(budget: BudgetConfig, spent_before_s: float, now: datetime) -> Limits:
    """The budget's deadline and engine hours as the board keeps them."""
    deadline = budget.deadline
    if deadline is not None and not isinstance(deadline, datetime):
        today = now.replace(
            hour=deadline.hour, minute=deadline.minute, second=deadline.second, microsecond=0
        )
        deadline = today if today > now else today + timedelta(days=1)
    seconds = None if budget.max_gpu_hours is None else budget.max_gpu_hours * 3600
    return Limits(
        deadline=deadline.timestamp() if deadline else None,
        engine_seconds=None if seconds is None else max(seconds - spent_before_s, 0.0),
    )


def _has_quotas(config: Config) -> bool:
    """Whether a strategy ends with a number of accepted outcomes a user."""
    quotas = (getattr(each, "accepted_per_user", None) for each in config.plan.strategies)
    return any(quota is not None for quota in quotas)


def _commit_kept(context: Context, folders: OutcomeFolders, parts: list[PlanPart]) -> None:
    """After a limit: what is there of unfinished parts becomes smaller parts."""
    kept = set(context.storage.parts(f"{folders.outcomes}/{KEPT}"))
    wanted = {part.name: part for part in parts if part.name in kept}
    map_parts(context, folders.outcomes, list(wanted), partial(_commit_part, folders, wanted))


def _commit_part(folders: OutcomeFolders, parts: dict[str, PlanPart], name: str) -> dict[str, int]:
    outcomes, counts, _ = kept_of(folders, name)
    answered = outcomes.num_rows + counts.get("not_needed", 0)
    extra = {**counts, "left_out": parts[name].num_units - answered}
    return commit(folders, parts[name].source, name, outcomes, extra)


def _first_failure(storage: Storage, folder: str) -> str:
    first = storage.read_part(folder, storage.parts(folder)[0]).slice(0, 1).to_pylist()[0]
    return f"{first['reason']}: {first['detail']}"


def _roots(config: Config) -> tuple[str, ...]:
    """Filters decide under quotas alone: what is shown of them while it runs is no result."""
    filters: tuple[str, ...] = ()
    if _has_quotas(config):
        filters = (*roots_of_filters(config.filters), *config.plan.modules)
    roots = (*roots_of(config), *filters)
    if config.generate.engine == "uniform":
        return roots
    if config.plan.soft:
        roots = *roots, *modules_of(config.lm, named=["chances"])
    if config.plan.has_events:
        roots = *roots, *modules_of(config.lm, named=["answering"]), *config.lm.by_name
    return roots


STAGE = Stage(
    name="outcomes",
    run=run,
    asks=lambda config, on_gpus: (engines(config, on_gpus), *TASKS),
    inputs=("plan", "vocabulary"),
    independent=True,
    roots=_roots,
    measured=(
        "repeated",
        "cached_prompt_tokens",
        "cache_hits",
        "engine_seconds",
        "output_tokens_per_s",
        "span_s",
        "span_tokens_per_s",
        "idle_share",
        "engine_hours",
        "deaths",
        "utilisation",
    ),
    # Quotas are counted against the histories; the plan holds what else is known of users.
    outside=lambda context: (
        content_of(context.manifest("split")) if _has_quotas(context.config) else None
    ),
    settings=lambda config: [
        config.generate,
        config.budget.max_gpu_hours,
        str(config.budget.deadline),
        config.filters if _has_quotas(config) else None,
    ],
)
