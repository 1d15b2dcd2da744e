"""Which generated events are kept, and why the others are not.

An ordered list of small pure functions. Event filters give each event a reason to drop it
or None; outcome filters then accept the rest or reject it whole with (reason, detail).
Nothing is deleted: every event is written with its verdict.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa

from llmaug.config import FiltersConfig
from llmaug.core.stage import Context, Stage, map_parts
from llmaug.core.storage import Storage
from llmaug.filter.copied import count_real_runs, is_among, real_runs, run_hashes
from llmaug.ingest.split import TRAIN
from llmaug.items.sequences import group_bounds
from llmaug.items.vocabulary import NUM_SPECIAL, Statistics, Vocabulary, load_statistics
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


@dataclass(frozen=True)
class Candidate:
    """One outcome as the filters see it."""

    strategy: str
    tokens: list[int]
    """The generated events."""
    history: frozenset[int]
    """Event tokens of the user's training history; empty for new users."""
    num_items: int
    """Items of the vocabulary."""
    real_runs: np.ndarray
    """Sorted hashes of the runs of `copied_ngram` items in all training histories."""
    may_repeat: tuple[bool, ...] = (False,)
    """Whether an event of each action may come again."""


EventFilter = Callable[[Candidate, FiltersConfig], list[str | None]]
OutcomeFilter = Callable[[Candidate, list[int], FiltersConfig], tuple[str, str] | None]


def outside_catalogue(candidate: Candidate, config: FiltersConfig) -> list[str | None]:
    """Special tokens and token ids that no event has."""
    end = NUM_SPECIAL + candidate.num_items * len(candidate.may_repeat)
    return [
        None if NUM_SPECIAL <= token < end else "outside_catalogue" for token in candidate.tokens
    ]


def repeated(candidate: Candidate, config: FiltersConfig) -> list[str | None]:
    """Events that the user had already, in the history or earlier in this outcome."""
    seen = set(candidate.history)
    reasons: list[str | None] = []
    for token in candidate.tokens:
        action = (token - NUM_SPECIAL) // candidate.num_items
        again = token in seen and not candidate.may_repeat[action]
        reasons.append("repeated" if again else None)
        seen.add(token)
    return reasons


def too_short(
    candidate: Candidate, kept: list[int], config: FiltersConfig
) -> tuple[str, str] | None:
    """Too few events are left to learn from."""
    # A chat model chooses one event, and a gap may end after one: with its history about it, that
    # is enough.
    if len(kept) >= (1 if candidate.strategy in ("choose", "infill") else config.min_events):
        return None
    return "too_short", f"{len(kept)} of {len(candidate.tokens)} events kept"


def copied(candidate: Candidate, kept: list[int], config: FiltersConfig) -> tuple[str, str] | None:
    """A new user who is mostly runs of real people's histories."""
    if candidate.strategy != "new_users" or len(kept) < config.copied_ngram:
        return None
    items = (np.array(kept) - NUM_SPECIAL) % candidate.num_items + NUM_SPECIAL
    share = float(is_among(run_hashes(items, config.copied_ngram), candidate.real_runs).mean())
    if share <= config.max_copied_share:
        return None
    return (
        "copied",
        f"{share:.0%} of the runs of {config.copied_ngram} events are in real histories",
    )


EVENT_FILTERS: list[EventFilter] = [outside_catalogue, repeated]
OUTCOME_FILTERS: list[OutcomeFilter] = [too_short, copied]


def judge(
    candidate: Candidate, config: FiltersConfig
) -> tuple[list[str | None], tuple[str, str] | None]:
    """(a reason or None for each event, (reason, detail) or None for the outcome).

    The first filter that objects gives the reason.
    """
    reasons: list[str | None] = [None] * len(candidate.tokens)
    for event_filter in EVENT_FILTERS:
        verdicts = event_filter(candidate, config)
        reasons = [old or new for old, new in zip(reasons, verdicts, strict=True)]
    kept = [t for t, reason in zip(candidate.tokens, reasons, strict=True) if reason is None]
    for outcome_filter in OUTCOME_FILTERS:
        verdict = outcome_filter(candidate, kept, config)
        if verdict:
            return reasons, verdict
    return reasons, None


def event_times(
    rng: np.random.Generator,
    num_events: int,
    after: datetime | None,
    before: datetime | None,
    statistics: Statistics,
) -> list[datetime]:
    """Increasing times for generated events, gaps drawn from the training gaps.

    They start after the event `after` them, and end by the one `before` which they stand or,
    without one, by the last training event of all; squeezed where they would not. Without an
    `after` they end at `before`, and begin no earlier than any training user; new users, with
    neither, start at a training user's start.
    """

    def draw(quantiles: list[float], size: int) -> np.ndarray:
        place = rng.random(size) * (len(quantiles) - 1)
        return np.interp(place, np.arange(len(quantiles)), quantiles)

    offsets = np.cumsum(draw(statistics.gap_s, num_events))
    end = before.timestamp() if before else statistics.window_end_s
    if after is not None:
        start = after.timestamp()
    elif before is None:
        start = float(draw(statistics.start_s, 1)[0])
    else:
        start = max(end - float(offsets[-1]), min(end, statistics.start_s[0]))
    room = max(end - start, 0.0)
    if offsets[-1] > room:
        offsets *= room / offsets[-1]
    return [datetime.fromtimestamp(start + offset, UTC) for offset in offsets]


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


@dataclass(frozen=True)
class _History:
    """A user's training events: tokens (-1 for those the generator does not know), times."""

    tokens: list[int]
    times: list[datetime]

    def times_of(
        self,
        strategy: str,
        places: list[int] | list[None],
        rng: np.random.Generator,
        statistics: Statistics,
    ) -> list[datetime]:
        """Times of the events that go to `places`; a substitute takes that of the original."""
        if not places:
            return []
        first = places[0]
        if first is None:
            return event_times(rng, len(places), None, None, statistics)
        if strategy == "substitute":
            return [self.times[place] for place in places if place is not None]
        after = self.times[first - 1] if first > 0 else None
        before = self.times[first] if first < len(self.times) else None
        return event_times(rng, len(places), after, before, statistics)


_NOBODY = _History([], [])
_ASKED = ["unit_id", "places", "candidates"]


def _histories(
    storage: Storage, train: str, part: str, vocabulary: Vocabulary
) -> dict[str | None, _History]:
    columns = ["user_id", "timestamp", *vocabulary.event_columns]
    events = storage.read_part(train, part, columns=columns)
    tokens = vocabulary.encode_events(events)
    times = events["timestamp"]
    users = events["user_id"].to_numpy(zero_copy_only=False)
    return {
        users[start]: _History(tokens[start:end].tolist(), times[start:end].to_pylist())
        for start, end in group_bounds(users)
    }


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
    histories: dict[str | None, _History] = {}
    if group not in groups[group]:
        histories = _histories(storage, train, group, vocabulary)
    total: Counter[str] = Counter()
    for part in groups[group]:
        if storage.exists(folder, f"{part}.json"):
            continue
        units = storage.read_part(plan, part, columns=_ASKED).to_pylist()
        asked = {unit["unit_id"]: unit for unit in units}
        rows = storage.read_part(outcomes, part).to_pylist()
        counts: Counter[str] = Counter()
        for row in rows:
            history = histories.get(row["user_id"], _NOBODY)
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
    history: _History,
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
    roots=modules_of,
    settings=lambda config: config.filters,
)
