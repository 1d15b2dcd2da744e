"""Which generated events are kept, and why the others are not.

The rules of the config, in its order (`llmaug/filter/rules.py`): filters of events give each event
a reason to drop it or None, filters of outcomes reject one whole with (reason, detail).
Nothing is deleted: every event is written with its verdict. Soft targets are no events, and no rule
is asked about them: see `llmaug/filter/soft.py`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from llmaug.config import FiltersConfig, NewUsersConfig, OfUsersConfig, StrategyConfig
from llmaug.core.formats import OUTCOMES, UNITS
from llmaug.core.placing import TASKS
from llmaug.core.stage import Context, Stage, map_parts
from llmaug.core.storage import Storage
from llmaug.errors import UserError
from llmaug.filter.real_runs import REAL_RUNS, RealRuns, item_keys, shared_runs
from llmaug.filter.rules import Candidate, Items, items_seen, judge
from llmaug.filter.rules import roots_of as roots_of_rules
from llmaug.filter.soft import on_soft_targets
from llmaug.filter.times import NOBODY, History, histories_of, within
from llmaug.ingest.split import TRAIN
from llmaug.items.lives import Lives
from llmaug.items.vocabulary import (
    NUM_SPECIAL,
    Statistics,
    Vocabulary,
    load_statistics,
    load_vocabulary,
)
from llmaug.lm.generator import (
    Generator,
    generator_of,
    prompts_of,
    repeatable,
    roots_of,
    vocabulary_of,
)
from llmaug.lm.prompts import Prompts
from llmaug.plan.parts import PlanPart, read_parts
from llmaug.schema import ACCEPTED, FAILED, GENERATED, OUTCOME, REJECTED, validate


def run(context: Context) -> dict[str, Any]:
    counts = filter_parts(context, "plan", "outcomes", "filtered")
    units = context.manifest("outcomes")["counts"]["units"]
    assert units == counts["units"], counts
    context.progress.note(
        f"{units:,} units = {counts[ACCEPTED]:,} accepted + {counts[REJECTED]:,} rejected + "
        f"{counts[FAILED]:,} failed; {counts['events_kept']:,} of "
        f"{counts['events_generated']:,} events kept"
    )
    if context.config.plan.soft:
        context.progress.note(
            f"{counts['soft_events_kept']:,} of {counts['soft_events']:,} events of histories have "
            "soft targets"
        )
    return dict(counts)


def filter_parts(context: Context, plan: str, outcomes: str, name: str) -> Counter[str]:
    """Write the verdicts on all parts of `outcomes` into `name` (folders of the run)."""
    config, storage = context.config, context.storage
    folder = context.folder(name)
    generator = generator_of(context)
    groups = _groups(storage, context.folder(plan), storage.parts(context.folder(outcomes)))
    work = _OfGroups(
        storage=storage,
        groups=groups,
        plan=context.folder(plan),
        outcomes=context.folder(outcomes),
        folder=folder,
        train=f"{context.folder('split')}/{TRAIN}",
        statistics=context.folder("vocabulary"),
        real_runs=shared_runs(context),
        generator=generator,
        may_repeat=repeatable(context, generator),
        strategies=tuple(config.plan.strategies),
        filters=config.filters,
        seed=config.seed,
    )
    written = {group: [part.name for part in parts] for group, parts in groups.items()}
    counts = map_parts(context, folder, list(groups), work, outputs=written)
    counts["units"] = counts["rows"]
    for status in (ACCEPTED, REJECTED, FAILED):
        counts.setdefault(status, 0)
    assert counts["units"] == counts[ACCEPTED] + counts[REJECTED] + counts[FAILED], counts
    return counts


def _groups(storage: Storage, plan: str, outcomes: list[str]) -> dict[str, list[PlanPart]]:
    """{name: parts of outcomes} that share one part of the training events."""
    there = set(outcomes)
    groups: dict[str, list[PlanPart]] = {}
    for part in read_parts(storage, plan):
        if part.name in there:
            groups.setdefault(part.train_part or part.name, []).append(part)
    return groups


_ASKED = ["unit_id", "places", "candidates"]


def _places_of(places: list[int] | None, num_events: int) -> list[Any]:
    """The place of each event; the last one of a unit holds for all that follow."""
    if not places:
        return [None] * num_events
    return [places[min(number, len(places) - 1)] for number in range(num_events)]


@dataclass(frozen=True, kw_only=True)
class _OfGroups:
    """The verdicts on the parts of one group; picklable, called for a name of `groups`."""

    storage: Storage
    groups: dict[str, list[PlanPart]]
    plan: str
    outcomes: str
    folder: str
    train: str
    statistics: str
    real_runs: Callable[[], RealRuns]
    generator: Generator
    may_repeat: tuple[bool, ...]
    strategies: tuple[StrategyConfig, ...]
    filters: FiltersConfig
    seed: int

    def __call__(self, group: str) -> dict[str, Any]:
        """All parts of a group, so that its histories are read once."""
        storage, parts = self.storage, self.groups[group]
        vocabulary = vocabulary_of(storage, self.generator)
        own = load_vocabulary(storage, self.statistics)
        known = own.encode(vocabulary.item_ids)
        num_actions = max(1, len(vocabulary.actions))
        judging = _Judge(
            vocabulary=vocabulary,
            prompts=prompts_of(storage, self.generator),
            statistics=load_statistics(storage, self.statistics),
            lives=own.lives and own.lives.of_items(known, NUM_SPECIAL, num_actions),
            real_runs=self.real_runs(),
            item_keys=item_keys(vocabulary.items["item_id"]),
            items=items_seen(self.filters.rules, vocabulary),
            may_repeat=self.may_repeat,
            filters=self.filters,
            seed=self.seed,
        )
        histories: dict[str | None, History] = {}
        if parts[0].train_part is not None:
            histories = histories_of(storage, self.train, group, vocabulary)
        total: Counter[str] = Counter()
        for part in parts:
            if not storage.exists(self.folder, f"{part.name}.json"):
                soft = self.strategies[part.strategy].soft
                if soft:
                    total.update(self._judge_soft_part(part, histories, known, own.lives))
                else:
                    total.update(self._judge_part(part, judging, histories))
        return dict(total)

    def _judge_soft_part(
        self,
        part: PlanPart,
        histories: dict[str | None, History],
        known: np.ndarray,
        lives: Lives | None,
    ) -> Counter[str]:
        """In tokens of the run's own vocabulary, whatever the generator's is."""
        storage = self.storage
        outcomes = storage.read_part(self.outcomes, part.name, stored=OUTCOMES)
        verdicts, counts = on_soft_targets(outcomes, histories, known, lives)
        table = validate(verdicts, OUTCOME, part.name)
        storage.write_part(table, dict(counts), self.folder, part.name)
        return counts

    def _judge_part(
        self, part: PlanPart, judging: _Judge, histories: dict[str | None, History]
    ) -> Counter[str]:
        storage, strategy = self.storage, self.strategies[part.strategy]
        units = storage.read_part(self.plan, part.name, _ASKED, UNITS).to_pylist()
        asked = {unit["unit_id"]: unit for unit in units}
        rows = storage.read_part(self.outcomes, part.name, stored=OUTCOMES).to_pylist()
        counts: Counter[str] = Counter()
        for row in rows:
            if row["status"] == GENERATED:
                history = histories.get(row["user_id"], NOBODY)
                row.update(judging.verdict_on(row, asked[row["unit_id"]], strategy, history))
            counts.update(_counts_of(row))
        table = validate(pa.Table.from_pylist(rows, schema=OUTCOME), OUTCOME, part.name)
        storage.write_part(table, dict(counts), self.folder, part.name)
        return counts


@dataclass(frozen=True, kw_only=True)
class _Judge:
    """What a worker has at hand to judge outcomes."""

    vocabulary: Vocabulary
    prompts: Prompts
    statistics: Statistics
    lives: Lives | None
    """Of the generator's event tokens, as the run's own catalogue has them."""
    real_runs: RealRuns
    item_keys: np.ndarray
    items: Items | None
    may_repeat: tuple[bool, ...]
    filters: FiltersConfig
    seed: int

    def verdict_on(
        self, row: dict[str, Any], asked: dict[str, Any], strategy: StrategyConfig, history: History
    ) -> dict[str, Any]:
        """Final status, reason, detail and events of the generated outcome `row`."""
        try:
            return self._judged(row, asked, strategy, history)
        except UserError:  # of a filter: it would judge the others no better
            raise
        except Exception as error:  # one row that cannot be read is one failed outcome
            return {
                "status": FAILED,
                "reason": "unparsable",
                "detail": f"{error!r}"[:500],
                "events": None,
            }

    def _judged(
        self, row: dict[str, Any], asked: dict[str, Any], strategy: StrategyConfig, history: History
    ) -> dict[str, Any]:
        tokens = self.prompts.events(strategy, row["tokens"], asked["candidates"])
        places = _places_of(asked["places"], len(tokens))
        replaces = isinstance(strategy, OfUsersConfig) and strategy.replaces
        rng = np.random.default_rng([self.seed, int(row["unit_id"][:15], 16)])
        statistics = self.statistics
        if isinstance(strategy, NewUsersConfig) and strategy.window:
            statistics = within(statistics, *strategy.window.seconds())
        times = history.times_of(tokens, places, replaces, rng, statistics, self.lives)
        candidate = Candidate(
            unit_id=row["unit_id"],
            strategy=strategy,
            tokens=tokens,
            history=frozenset(history.tokens),
            num_items=self.vocabulary.num_items,
            real_runs=self.real_runs,
            item_keys=self.item_keys,
            may_repeat=self.may_repeat,
            items=self.items,
            gone=tuple(at is None for at in times),
        )
        reasons, verdict = judge(candidate, self.filters.rules)
        decoded = [self.vocabulary.decode_event(token) for token in tokens]
        reason, detail = verdict or (None, None)
        return {
            "status": REJECTED if verdict else ACCEPTED,
            "reason": reason,
            "detail": detail,
            "events": [
                {
                    "item_id": decoded[position][0],
                    "action": decoded[position][1],
                    "timestamp": times[position],
                    "position": position,
                    "place": places[position],
                    "logprob": None,
                    "keep": verdict is None and why is None,
                    "reason": why,
                }
                for position, why in enumerate(reasons)
            ],
        }


def _counts_of(row: dict[str, Any]) -> Counter[str]:
    counts = Counter([row["status"]])
    if row["reason"]:
        counts[f"{row['status']}.{row['reason']}"] += 1
    for event in row["events"] or []:
        counts["events_generated"] += 1
        counts["events_kept"] += event["keep"]
        if event["reason"]:
            counts[f"events_dropped.{event['reason']}"] += 1
    return counts


STAGE = Stage(
    name="filtered",
    run=run,
    asks=lambda config, on_gpus: TASKS,
    inputs=("outcomes", "plan", "split", "vocabulary", REAL_RUNS),
    roots=lambda config: (
        *roots_of(config),
        *roots_of_rules(config.filters),
        *config.plan.modules,
    ),  # fmt: skip
    settings=lambda config: [
        config.filters,
        config.privacy,
        [getattr(strategy, "window", None) for strategy in config.plan.strategies],
    ],
)
