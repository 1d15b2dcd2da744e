"""Who gets how much when the budget is smaller than the demand: pure arithmetic.

Demand is counted in classes: all users with histories of one length, and (unless a user's
samples stay together) one sample number. The classes are put in order, filled while the budget
lasts, and the class on which it runs out gets a part of its users.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from llmaug.config import BudgetConfig, OfUsersConfig

ALL_SAMPLES = -1

Class = tuple[int, int]
"""(history length, sample number, or ALL_SAMPLES where a user's samples stay together)"""


@dataclass(frozen=True)
class Share:
    """The part of one strategy's demand that is paid for."""

    whole: frozenset[Class] | None = None
    """Classes of which all users get their units. None: all classes, nothing is cut."""
    cut: Class | None = None
    """The class on which the budget ran out."""
    cut_users: dict[str, int] = field(default_factory=dict)
    """How many of its users each training part may serve."""

    def takes(self, cls: Class) -> bool:
        return self.whole is None or cls in self.whole


def fraction(budget: BudgetConfig, demands: list[tuple[int, int]]) -> float:
    """The share of every strategy's demand that fits; demands: (units, tokens a unit)."""
    units = sum(number for number, _ in demands)
    tokens = sum(number * size for number, size in demands)
    share = 1.0
    if budget.max_units is not None and units:
        share = min(share, budget.max_units / units)
    if budget.max_tokens is not None and tokens:
        share = min(share, budget.max_tokens / tokens)
    return share


def stays_together(strategy: OfUsersConfig, allocation: str) -> bool:
    """Do all samples of a user come in one piece?"""
    return allocation == "sparse_first" or strategy.accepted_per_user is not None


def order(allocation: str) -> Callable[[Class], tuple[float, ...]]:
    """The sort key of a class: what is served first."""
    if allocation == "sparse_first":
        return lambda cls: (cls[0], cls[1])
    if allocation == "uniform":
        return lambda cls: (cls[1], cls[0])
    # Webster's (Sainte-Lague) method: seats to parties, here samples to histories.
    return lambda cls: ((max(cls[1], 0) + 0.5) / max(cls[0], 1), cls[0])


def share_of(
    strategy: OfUsersConfig, allocation: str, users: dict[str, dict[int, int]], num_units: int
) -> Share:
    """Spend `num_units` on the users of all training parts.

    users: {part: {history length: users}}. The cut class is given out part by part.
    """
    together = stays_together(strategy, allocation)
    samples = [ALL_SAMPLES] if together else list(range(strategy.samples_per_user))
    units_each = strategy.samples_per_user if together else 1
    lengths = sorted({length for counts in users.values() for length in counts})
    classes = sorted(((n, s) for n in lengths for s in samples), key=order(allocation))
    whole: set[Class] = set()
    for cls in classes:
        size = sum(counts.get(cls[0], 0) for counts in users.values())
        if size * units_each > num_units:
            left, cut_users = num_units // units_each, {}
            for part, counts in users.items():
                cut_users[part] = min(left, counts.get(cls[0], 0))
                left -= cut_users[part]
            return Share(frozenset(whole), cls, cut_users)
        whole.add(cls)
        num_units -= size * units_each
    return Share(frozenset(whole))
