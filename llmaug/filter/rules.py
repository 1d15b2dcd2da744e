"""What makes a generated event, or a whole answer, unfit: a reason, or none."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from llmaug.config import FiltersConfig
from llmaug.filter.copied import is_among, run_hashes
from llmaug.items.vocabulary import NUM_SPECIAL


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
