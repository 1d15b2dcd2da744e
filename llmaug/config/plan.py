"""Section `plan`: strategies, and how their units are drawn."""

from __future__ import annotations

from datetime import UTC, date, datetime, time, timedelta
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from llmaug.config.base import Section
from llmaug.config.kinds import Kinds
from llmaug.config.lm import Ability

if TYPE_CHECKING:
    from numpy.random import Generator as Rng


class SamplingConfig(Section):
    """How tokens are drawn."""

    temperature: float = Field(default=0.8, gt=0)
    """Below 1: closer to the likeliest items."""
    top_p: float = Field(default=1.0, gt=0, le=1)
    """Nucleus sampling."""
    top_k: int = Field(default=-1, ge=-1)
    """Draw among the k likeliest tokens; -1: all."""


class StrategyConfig(SamplingConfig):
    """What all strategies share: events that a generator is asked for."""

    needs: ClassVar[Ability]
    """What its generator must be able to do."""
    one_is_enough: ClassVar[bool] = False
    """Whether an outcome of a single event is worth keeping: with the history about it, it is."""
    soft: ClassVar[bool] = False
    """Whether chances of items are asked for, at the events that there are, and no events."""

    kind: str
    """The strategy."""
    num_events: int = Field(ge=1)
    """Events of each unit."""

    @property
    def sampling(self) -> SamplingConfig:
        """What units say of how tokens are drawn."""
        return self


class OfUsersConfig(StrategyConfig):
    """What strategies for users that exist share: new events about their training histories."""

    replaces: ClassVar[bool] = False
    """Whether events of the history are replaced, and not others put between them."""

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

    def draw_places(self, history_len: int, rng: Rng) -> list[int]:
        """Where the events of a unit go in a history of so many: before the event of that
        number, or (`replaces`) in its stead; the last one holds for all that follow."""
        raise NotImplementedError(type(self).__name__)


class ContinueConfig(OfUsersConfig):
    """Events after a user's training history."""

    needs = "forward"

    kind: Literal["continue"] = "continue"
    """The strategy."""

    def draw_places(self, history_len: int, rng: Rng) -> list[int]:
        return [history_len]


class PrefixConfig(OfUsersConfig):
    """Events before a user's training history: the reverse, for short ones."""

    needs = "reverse"

    kind: Literal["prefix"] = "prefix"
    """The strategy."""
    max_history_len: int | None = Field(default=10, ge=1)
    """Only users with at most this many training events. None: all."""

    def draw_places(self, history_len: int, rng: Rng) -> list[int]:
        return [0]


class InfillConfig(OfUsersConfig):
    """Events between two events of a user's training history, drawn anew for each unit."""

    needs = "infill"
    one_is_enough = True

    kind: Literal["infill"] = "infill"
    """The strategy."""
    num_events: int = Field(default=2, ge=1)
    """Events at most: a causal model may end the gap earlier."""

    @property
    def min_history_len(self) -> int:
        return 2

    def draw_places(self, history_len: int, rng: Rng) -> list[int]:
        return [int(rng.integers(1, history_len))]


class SubstituteConfig(OfUsersConfig):
    """Some events of a user's training history, drawn for each unit, replaced by others."""

    needs = "infill"
    replaces = True

    kind: Literal["substitute"] = "substitute"
    """The strategy."""
    num_events: int = Field(default=2, ge=1)
    """Events that are replaced. A causal model replaces neighbours."""

    @property
    def min_history_len(self) -> int:
        return self.num_events + 1

    def draw_places(self, history_len: int, rng: Rng) -> list[int]:
        first = int(rng.integers(history_len - self.num_events + 1))
        return list(range(first, first + self.num_events))


class ChooseConfig(OfUsersConfig):
    """The next event of users with few, chosen by a chat model among what others took, too."""

    needs = "choice"
    one_is_enough = True

    kind: Literal["choose"] = "choose"
    """The strategy."""
    num_events: Literal[1] = 1
    """One: the next."""
    num_candidates: int = Field(default=8, ge=2, le=20)
    """Items to choose among."""
    max_history_len: int | None = Field(default=10, ge=1)
    """Only users with at most this many training events. None: all."""

    def draw_places(self, history_len: int, rng: Rng) -> list[int]:
        return [history_len]


class SoftEventsConfig(OfUsersConfig):
    """Which items could as well have come at each event of a user's training history, and how
    likely: no events, but targets for the recommender beside the real ones (`train.soft_share`).
    Nothing is drawn: temperature, top_p and top_k do not count."""

    needs = "next_chances"
    soft = True

    kind: Literal["soft_events"] = "soft_events"
    """The strategy."""
    num_events: Literal[1] = 1
    """Fixed: a unit counts as one token of `budget.max_tokens`."""
    samples_per_user: Literal[1] = 1
    """Fixed: a second answer would be the same."""
    accepted_per_user: None = None
    """None."""
    num_candidates: int = Field(default=50, ge=1, le=1000)
    """The likeliest items that are kept of each event."""

    @property
    def sampling(self) -> SamplingConfig:
        return SamplingConfig(temperature=1.0, top_p=1.0, top_k=self.num_candidates)

    def draw_places(self, history_len: int, rng: Rng) -> list[int]:
        return [history_len]


class WindowConfig(Section):
    """A span of days (UTC), such as a shopping festival that is still to come."""

    start: date
    """The first day."""
    end: date
    """The last day, included."""

    @model_validator(mode="after")
    def _in_order(self) -> WindowConfig:
        if self.end < self.start:
            raise ValueError(f"end {self.end} is before start {self.start}")
        return self

    def seconds(self) -> tuple[float, float]:
        """From and to, in seconds since 1970."""
        begin = datetime.combine(self.start, time.min, UTC)
        return begin.timestamp(), (
            datetime.combine(self.end, time.min, UTC) + timedelta(days=1, microseconds=-1)
        ).timestamp()


class NewUsersConfig(StrategyConfig):
    """Whole histories of users who do not exist."""

    needs = "new_user"

    kind: Literal["new_users"] = "new_users"
    """The strategy."""
    num_users: int = Field(default=1000, ge=1)
    """How many."""
    num_events: int = Field(default=10, ge=2)
    """Events of each; with `lengths: training` at most."""
    lengths: Literal["fixed", "training"] = "fixed"
    """fixed: each has num_events; training: as many as a training user drawn at random, and 2 at
    least."""
    window: WindowConfig | None = None
    """When their events happen. None: when those of training users did."""


Strategy = OfUsersConfig | NewUsersConfig

STRATEGIES: Kinds[StrategyConfig] = Kinds(
    "strategy", (OfUsersConfig, NewUsersConfig), "kind", "llmaug.strategies",
    ContinueConfig, PrefixConfig, InfillConfig, SubstituteConfig, ChooseConfig, SoftEventsConfig,
    NewUsersConfig,
)  # fmt: skip


class PlanConfig(Section):
    """Which Units are generated."""

    strategies: Annotated[list[Annotated[Strategy, STRATEGIES]], Field(max_length=16)] = []
    """What to generate; empty: nothing, and the arms that would learn from it fall away."""
    units_per_part: int = Field(default=512, ge=1)
    """Units in one part, the piece of work that is committed as a whole."""
    allocation: Literal["sparse_first", "uniform", "proportional"] = "sparse_first"
    """Who comes first, and who gets what when the budget is smaller than the demand.
    sparse_first: users with the shortest histories, all their samples; uniform: a first sample
    for everyone before anyone gets a second; proportional: samples in proportion to the
    history (Webster's method)."""

    @property
    def modules(self) -> tuple[str, ...]:
        """Those of the strategies' classes: what these draw and say is code, and no value of the
        config."""
        return tuple(dict.fromkeys(type(strategy).__module__ for strategy in self.strategies))

    @property
    def most_candidates(self) -> int:
        """Items among which any strategy asks to choose, at most; those of `choose` without one."""
        asked = [s.num_candidates for s in self.strategies if isinstance(s, ChooseConfig)]
        return max(asked, default=8)

    @property
    def soft(self) -> bool:
        """Whether chances of items are asked for."""
        return any(strategy.soft for strategy in self.strategies)

    @property
    def has_events(self) -> bool:
        """Whether events are asked for."""
        return not all(strategy.soft for strategy in self.strategies)

    @model_validator(mode="after")
    def _one_set_of_soft_targets(self) -> PlanConfig:
        if sum(strategy.soft for strategy in self.strategies) > 1:
            raise ValueError(
                "plan.strategies: an event has one set of soft targets: leave one soft_events"
            )
        return self

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
