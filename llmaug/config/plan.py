"""Section `plan`: strategies, and how their units are drawn."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from llmaug.config.base import Section


class SamplingConfig(Section):
    """How tokens are drawn."""

    temperature: float = Field(default=0.8, gt=0)
    """Below 1: closer to the likeliest items."""
    top_p: float = Field(default=1.0, gt=0, le=1)
    """Nucleus sampling."""
    top_k: int = Field(default=-1, ge=-1)
    """Draw among the k likeliest tokens; -1: all."""


class _OfUsers(SamplingConfig):
    """What strategies for users that exist share."""

    samples_per_user: int = Field(default=1, ge=1)
    """Units for each history."""
    num_events: int = Field(default=5, ge=1)
    """Events of each unit."""
    max_history_len: int | None = Field(default=None, ge=1)
    """Only users with at most this many training events: the sparse ones. None: all."""
    accepted_per_user: int | None = Field(default=None, ge=1)
    """Stop asking for a user once so many of its outcomes would be accepted;
    `samples_per_user` is then the most tries. None: all samples are generated."""

    @property
    def min_history_len(self) -> int:
        """Training events that a user must have."""
        return 1


class ContinueConfig(_OfUsers):
    """Events after a user's training history."""

    kind: Literal["continue"]


class PrefixConfig(_OfUsers):
    """Events before a user's training history: the reverse, for short ones."""

    kind: Literal["prefix"]
    max_history_len: int | None = Field(default=10, ge=1)
    """Only users with at most this many training events. None: all."""


class InfillConfig(_OfUsers):
    """Events between two events of a user's training history, drawn anew for each unit."""

    kind: Literal["infill"]
    num_events: int = Field(default=2, ge=1)
    """Events at most: a causal model may end the gap earlier."""

    @property
    def min_history_len(self) -> int:
        return 2


class SubstituteConfig(_OfUsers):
    """Some events of a user's training history, drawn for each unit, replaced by others."""

    kind: Literal["substitute"]
    num_events: int = Field(default=2, ge=1)
    """Events that are replaced. A causal model replaces neighbours."""

    @property
    def min_history_len(self) -> int:
        return self.num_events + 1


class ChooseConfig(_OfUsers):
    """The next event of users with few, chosen by a chat model among what others took, too."""

    kind: Literal["choose"]
    num_events: Literal[1] = 1
    """One: the next."""
    num_candidates: int = Field(default=8, ge=2, le=20)
    """Items to choose among."""
    max_history_len: int | None = Field(default=10, ge=1)
    """Only users with at most this many training events. None: all."""


OfUsersConfig = ContinueConfig | PrefixConfig | InfillConfig | SubstituteConfig | ChooseConfig


class NewUsersConfig(SamplingConfig):
    """Whole histories of users who do not exist."""

    kind: Literal["new_users"]
    num_users: int = Field(default=1000, ge=1)
    """How many."""
    num_events: int = Field(default=10, ge=2)
    """Events of each."""


class PlanConfig(Section):
    """Which Units are generated."""

    strategies: list[Annotated[OfUsersConfig | NewUsersConfig, Field(discriminator="kind")]] = (
        Field(default=[], max_length=16)
    )
    """What to generate; empty: nothing, only the arm `real` is trained."""
    units_per_part: int = Field(default=512, ge=1)
    """Units in one part, the piece of work that is committed as a whole."""
    allocation: Literal["sparse_first", "uniform", "proportional"] = "sparse_first"
    """Who comes first, and who gets what when the budget is smaller than the demand.
    sparse_first: users with the shortest histories, all their samples; uniform: a first sample
    for everyone before anyone gets a second; proportional: samples in proportion to the
    history (Webster's method)."""

    @model_validator(mode="after")
    def _no_question_twice(self) -> PlanConfig:
        # A unit's id is made from its question: a repeated strategy repeats the units.
        asked = [
            strategy.model_dump(
                exclude={"num_users", "samples_per_user", "max_history_len", "accepted_per_user"}
            )
            for strategy in self.strategies
        ]
        for number, question in enumerate(asked):
            if question in asked[:number]:
                raise ValueError(
                    f"plan.strategies {asked.index(question)} and {number} ask the same questions; "
                    "raise num_users or samples_per_user of one, or change its sampling"
                )
        return self


DIRECTION_OF = {
    "new_users": "forward",
    "continue": "forward",
    "prefix": "reverse",
    "infill": "infill",
    "substitute": "infill",
    "choose": "forward",
}
"""Strategy of a unit: the direction in which a causal model answers it."""

STRATEGIES_OF = {
    "causal": ("continue", "prefix", "infill", "substitute", "new_users"),
    "masked": ("continue", "prefix", "infill", "substitute"),
    "ngram": ("continue", "new_users"),
    "instruct": ("choose",),
}
