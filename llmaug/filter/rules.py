"""What makes a generated event, or a whole answer, unfit: a reason, or none.

A filter is a pure function that a class of the config names (`FilterConfig`); `filters.rules`
says which are applied, and in which order.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import pyarrow as pa

from llmaug.config import (
    CopiedConfig,
    FilterConfig,
    FiltersConfig,
    IdentifyingConfig,
    NewUsersConfig,
    RepeatedConfig,
    StrategyConfig,
    TooShortConfig,
    imported,
    modules_of,
)
from llmaug.errors import UserError
from llmaug.filter.real_runs import RealRuns
from llmaug.items.vocabulary import NUM_SPECIAL, Vocabulary

Verdict = tuple[str, str]
"""(reason, detail) of an outcome that is rejected."""


@dataclass(frozen=True)
class Items:
    """What the catalogue says of the items of events."""

    titles: pa.Array
    """(I,) strings, in token order."""
    all_tags: pa.Array
    """(I,) lists of strings."""

    def title(self, token: int) -> str | None:
        """None: the item has none, or the token is no event."""
        place = self._place(token)
        return None if place is None else self.titles[place].as_py()

    def tags(self, token: int) -> list[str]:
        place = self._place(token)
        return [] if place is None else self.all_tags[place].as_py() or []

    def _place(self, token: int) -> int | None:
        if token < NUM_SPECIAL or not len(self.titles):
            return None
        return (token - NUM_SPECIAL) % len(self.titles)


def items_seen(rules: Sequence[FilterConfig], vocabulary: Vocabulary) -> Items | None:
    """What `rules` see of the items of `vocabulary`; None where no rule asks for it."""
    if not any(rule.sees_items for rule in rules):
        return None
    columns = (vocabulary.items[name].combine_chunks() for name in ("title", "tags"))
    return Items(*columns)


@dataclass(frozen=True)
class Candidate:
    """One outcome as the filters see it."""

    unit_id: str
    strategy: StrategyConfig
    """The one that its unit was made by."""
    tokens: list[int]
    """The generated events. One outside the catalogue is dropped, whatever else is said of it."""
    history: frozenset[int]
    """Event tokens of the user's training history; empty for new users."""
    num_items: int
    """Items of the vocabulary."""
    real_runs: RealRuns | None = None
    """How many training users have each run; None while events are still being generated."""
    item_keys: np.ndarray | None = None
    """(I,) uint64: what `real_runs` knows the items of the vocabulary by; None as well."""
    may_repeat: tuple[bool, ...] = (False,)
    """Whether an event of each action may come again."""
    items: Items | None = None
    """Titles and tags, where a filter `sees_items`."""
    gone: tuple[bool, ...] = ()
    """Of each event whether its item is not there when it would have been; empty while events are
    still being generated."""

    def keys(self, tokens: list[int]) -> np.ndarray:
        """(N,) events to (N,) uint64: what `real_runs` knows their items by, whatever was done
        with them."""
        assert self.item_keys is not None
        return self.item_keys[(np.array(tokens, np.int64) - NUM_SPECIAL) % self.num_items]

    def is_event(self, token: int) -> bool:
        """Whether it stands for an item of the catalogue (with an action)."""
        return NUM_SPECIAL <= token < NUM_SPECIAL + self.num_items * len(self.may_repeat)


def outside_catalogue(candidate: Candidate) -> list[str | None]:
    """Special tokens and token ids that no event has: no rule of the config, always applied."""
    return [
        None if candidate.is_event(token) else "outside_catalogue" for token in candidate.tokens
    ]


def not_there(candidate: Candidate) -> list[str | None]:
    """Items that are not there yet, or no longer: no rule of the config, either."""
    gone = candidate.gone or (False,) * len(candidate.tokens)
    return ["not_there" if each else None for each in gone]


def repeated(config: RepeatedConfig, candidate: Candidate) -> list[str | None]:
    """Events that the user had already, in the history or earlier in this outcome."""
    seen = set(candidate.history)
    reasons: list[str | None] = []
    for token in candidate.tokens:
        again = token in seen and candidate.is_event(token)
        if again:
            action = (token - NUM_SPECIAL) // candidate.num_items
            again = not candidate.may_repeat[action]
        reasons.append("repeated" if again else None)
        seen.add(token)
    return reasons


def too_short(config: TooShortConfig, candidate: Candidate, kept: list[int]) -> Verdict | None:
    """Too few events are left to learn from."""
    if len(kept) >= (1 if candidate.strategy.one_is_enough else config.min_events):
        return None
    return "too_short", f"{len(kept)} of {len(candidate.tokens)} events kept"


def copied(config: CopiedConfig, candidate: Candidate, kept: list[int]) -> Verdict | None:
    """A new user who is mostly runs of real people's histories."""
    runs = candidate.real_runs
    if runs is None or not isinstance(candidate.strategy, NewUsersConfig):
        return None
    users = runs.users_with(candidate.keys(kept))
    share = float((users > 0).mean()) if len(users) else 0.0
    if share <= config.max_copied_share:
        return None
    return "copied", f"{share:.0%} of the runs of {runs.length} events are in real histories"


def identifying(config: IdentifyingConfig, candidate: Candidate, kept: list[int]) -> Verdict | None:
    """A run of events that hardly any real user has."""
    runs = candidate.real_runs
    if runs is None:
        return None
    found = runs.identifying(candidate.keys(kept))
    if not found.any():
        return None
    return "identifying", f"{found.sum()} of {len(found)} runs are of {runs.few}"


def judge(
    candidate: Candidate, rules: Sequence[FilterConfig]
) -> tuple[list[str | None], Verdict | None]:
    """(a reason or None for each event, (reason, detail) or None for the outcome).

    The first filter that objects gives the reason; of an outcome it is the last one that is asked.
    Raises UserError where a filter fails, or says what cannot be used.
    """
    always = zip(outside_catalogue(candidate), not_there(candidate), strict=True)
    reasons = [outside or gone for outside, gone in always]
    for rule in rules:
        if rule.judges == "events":
            verdicts = _of_events(rule, candidate)
            reasons = [old or new for old, new in zip(reasons, verdicts, strict=True)]
        else:
            pairs = zip(candidate.tokens, reasons, strict=True)
            verdict = _of_outcome(rule, candidate, [token for token, reason in pairs if not reason])
            if verdict:
                return reasons, verdict
    return reasons, None


def _of_events(rule: FilterConfig, candidate: Candidate) -> Sequence[str | None]:
    found = _answer(rule, candidate)
    num_events = len(candidate.tokens)
    if not isinstance(found, list) or len(found) != num_events:
        given = f"{len(found)}" if isinstance(found, list) else repr(found)
        raise _fault(rule, candidate, f"a list of {num_events} verdicts is expected, not {given}")
    for reason in found:
        if reason is not None:
            _check_reason(rule, candidate, reason)
    return found


def _of_outcome(rule: FilterConfig, candidate: Candidate, kept: list[int]) -> Verdict | None:
    found = _answer(rule, candidate, kept)
    if found is None:
        return None
    if not isinstance(found, tuple) or len(found) != 2 or not isinstance(found[1], str):
        raise _fault(rule, candidate, f"(reason, detail) or None is expected, not {found!r}")
    _check_reason(rule, candidate, found[0])
    return found[0], found[1]


def _answer(rule: FilterConfig, *arguments: Any) -> Any:
    try:
        return _function(rule.implementation)(rule, *arguments)
    except Exception as error:  # a bug: the other outcomes would be judged by it, too
        at = traceback.extract_tb(error.__traceback__)[-1]
        what = f"{type(error).__name__}: {error} ({at.filename}, line {at.lineno})"
        raise _fault(rule, arguments[0], what) from error


def _check_reason(rule: FilterConfig, candidate: Candidate, reason: Any) -> None:
    """Reasons become names of counts."""
    if not isinstance(reason, str) or not reason.isidentifier():
        wrong = f"a reason is a word such as too_short, of letters, digits and _, not {reason!r}"
        raise _fault(rule, candidate, wrong)


def _fault(rule: FilterConfig, candidate: Candidate, what: str) -> UserError:
    return UserError(
        f"filter {rule.kind} ({rule.implementation}), unit {candidate.unit_id}: {what[:500]}; mend "
        "it, or take it out of filters.rules"
    )


@cache
def _function(path: str) -> Callable[..., Any]:
    return imported(path)  # type: ignore[no-any-return]


def roots_of(filters: FiltersConfig) -> tuple[str, ...]:
    """Modules that decide what the filters say: roots of a stage whose result depends on it."""
    return tuple(dict.fromkeys((__name__, *modules_of(*filters.rules))))
