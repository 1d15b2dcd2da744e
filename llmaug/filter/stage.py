"""Which generated events are kept, and why the others are not.

An ordered list of small pure functions. Event filters give each event a reason to drop it
or None; outcome filters then accept the rest or reject it whole with (reason, detail).
Nothing is deleted: every event is written with its verdict.
"""

from __future__ import annotations

from collections import Counter
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa

from llmaug.config import FiltersConfig
from llmaug.core.formats import OUTCOMES, UNITS
from llmaug.core.stage import Context, Stage, map_parts
from llmaug.core.storage import Storage
from llmaug.filter.copied import count_real_runs, real_runs
from llmaug.filter.rules import Candidate, judge
from llmaug.filter.times import NOBODY, History, histories_of
from llmaug.ingest.split import TRAIN
from llmaug.items.vocabulary import Statistics, Vocabulary, load_statistics
from llmaug.lm.generator import (
    Generator,
    generator_of,
    modules_of,
    prompts_of,
    repeatable,
    vocabulary_of,
)
from llmaug.lm.prompts import Prompts
from llmaug.plan.parts import read_parts
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
    return dict(counts)


def filter_parts(context: Context, plan: str, outcomes: str, name: str) -> Counter[str]:
    """Write the verdicts on all parts of `outcomes` into `name` (folders of the run)."""
    config, storage = context.config, context.storage
    folder = context.folder(name)
    train = f"{context.folder('split')}/{TRAIN}"
    generator = generator_of(context)
    runs = count_real_runs(context, folder, generator.vocabulary, config.filters.copied_ngram)
    groups = _groups(storage, context.folder(plan), storage.parts(context.folder(outcomes)))
    work = partial(
        _filter_group, groups, storage, context.folder(outcomes), folder, train, runs,
        generator, repeatable(context, generator), context.folder("vocabulary"),
        context.folder(plan), config.filters, config.seed,
    )  # fmt: skip
    counts = map_parts(context, folder, list(groups), work, outputs=groups)
    storage.delete(runs)
    counts["units"] = counts["rows"]
    for status in (ACCEPTED, REJECTED, FAILED):
        counts.setdefault(status, 0)
    assert counts["units"] == counts[ACCEPTED] + counts[REJECTED] + counts[FAILED], counts
    return counts


def _groups(storage: Storage, plan: str, outcomes: list[str]) -> dict[str, list[str]]:
    """{name: parts of outcomes} that share one part of the training events."""
    there = set(outcomes)
    groups: dict[str, list[str]] = {}
    for part in read_parts(storage, plan):
        if part.name in there:
            groups.setdefault(part.train_part or part.name, []).append(part.name)
    return groups


_ASKED = ["unit_id", "places", "candidates"]


def _places_of(places: list[int] | None, num_events: int) -> list[Any]:
    """The place of each event; the last one of a unit holds for all that follow."""
    if not places:
        return [None] * num_events
    return [places[min(number, len(places) - 1)] for number in range(num_events)]


def _filter_group(
    groups: dict[str, list[str]],
    storage: Storage,
    outcomes: str,
    folder: str,
    train: str,
    runs: str,
    generator: Generator,
    may_repeat: tuple[bool, ...],
    statistics_folder: str,
    plan: str,
    config: FiltersConfig,
    seed: int,
    group: str,
) -> dict[str, Any]:
    """All parts of a group, so that its histories are read once."""
    vocabulary = vocabulary_of(storage, generator)
    prompts = prompts_of(storage, generator)
    statistics = load_statistics(storage, statistics_folder)
    known_runs = real_runs(storage, runs)
    histories: dict[str | None, History] = {}
    if group not in groups[group]:
        histories = histories_of(storage, train, group, vocabulary)
    total: Counter[str] = Counter()
    for part in groups[group]:
        if storage.exists(folder, f"{part}.json"):
            continue
        units = storage.read_part(plan, part, _ASKED, UNITS).to_pylist()
        asked = {unit["unit_id"]: unit for unit in units}
        rows = storage.read_part(outcomes, part, stored=OUTCOMES).to_pylist()
        counts: Counter[str] = Counter()
        for row in rows:
            history = histories.get(row["user_id"], NOBODY)
            rng = np.random.default_rng([seed, int(row["unit_id"][:15], 16)])
            try:
                _finish(row, history, asked[row["unit_id"]], prompts, vocabulary, statistics,
                        known_runs, may_repeat, config, rng)  # fmt: skip
            except Exception as error:  # one row that cannot be read is one failed outcome
                row.update(status=FAILED, reason="unparsable", detail=f"{error!r}"[:500])
                row["events"] = None
            counts.update(_counts_of(row))
        table = validate(pa.Table.from_pylist(rows, schema=OUTCOME), OUTCOME, part)
        storage.write_part(table, dict(counts), folder, part)
        total.update(counts)
    return dict(total)


def _finish(
    row: dict[str, Any],
    history: History,
    asked: dict[str, Any],
    prompts: Prompts,
    vocabulary: Vocabulary,
    statistics: Statistics,
    real_runs: np.ndarray,
    may_repeat: tuple[bool, ...],
    config: FiltersConfig,
    rng: np.random.Generator,
) -> None:
    """Give the outcome `row` its final status, reason and events."""
    if row["status"] != GENERATED:
        return
    tokens = prompts.events(row["strategy"], row["tokens"], asked["candidates"])
    candidate = Candidate(
        strategy=row["strategy"],
        tokens=tokens,
        history=frozenset(history.tokens),
        num_items=vocabulary.num_items,
        real_runs=real_runs,
        may_repeat=may_repeat,
    )
    reasons, verdict = judge(candidate, config)
    of_event = _places_of(asked["places"], len(tokens))
    times = history.times_of(row["strategy"], of_event, rng, statistics)
    decoded = [vocabulary.decode_event(token) for token in tokens]
    row["status"] = REJECTED if verdict else ACCEPTED
    row["reason"], row["detail"] = verdict or (None, None)
    row["events"] = [
        {
            "item_id": decoded[position][0],
            "action": decoded[position][1],
            "timestamp": times[position],
            "position": position,
            "place": of_event[position],
            "logprob": None,
            "keep": verdict is None and reason is None,
            "reason": reason,
        }
        for position, reason in enumerate(reasons)
    ]


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
    inputs=("outcomes", "plan", "split", "vocabulary"),
    roots=lambda config: (*modules_of(config), "llmaug.filter.rules"),
    settings=lambda config: config.filters,
)
