"""Sections `filters` and `merge`."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from llmaug.config.base import Section
from llmaug.config.kinds import Kinds

_Repeats = Literal["allow", "forbid"]


class FilterConfig(Section):
    """A rule by which generated events, or whole outcomes, are dropped with a reason."""

    implementation: ClassVar[str]
    """`package.module:function`, called with this config and a `Candidate`; what it returns is
    said by `judges`."""
    judges: ClassVar[Literal["events", "outcome"]]
    """events: (config, candidate) to a list with a reason or None for each event. outcome: (config,
    candidate, kept event tokens) to (reason, detail), or None where it stays."""
    sees_items: ClassVar[bool] = False
    """Whether `candidate.items` is filled: title and tags of each event's item."""

    kind: str
    """The filter."""


class RepeatedConfig(FilterConfig):
    """Events that the user had already, in the history or earlier in the same outcome, where
    `filters.repeats` forbids it."""

    implementation = "llmaug.filter.rules:repeated"
    judges = "events"

    kind: Literal["repeated"] = "repeated"
    """The filter."""


class TooShortConfig(FilterConfig):
    """Outcomes of which too few events are left to learn from."""

    implementation = "llmaug.filter.rules:too_short"
    judges = "outcome"

    kind: Literal["too_short"] = "too_short"
    """The filter."""
    min_events: int = Field(default=2, ge=1)
    """Outcomes with fewer kept events are rejected; of `infill` and `choose` one is enough."""


class CopiedConfig(FilterConfig):
    """New users who are mostly runs of real people's histories."""

    implementation = "llmaug.filter.rules:copied"
    judges = "outcome"

    kind: Literal["copied"] = "copied"
    """The filter."""
    max_copied_share: float = Field(default=0.5, ge=0, lt=1)
    """New users of whose runs (`privacy.run_len`) more than this share occur in training
    histories are rejected as copies of real people."""


class IdentifyingConfig(FilterConfig):
    """Outcomes that hold a run of events by which somebody real is known: what the privacy audit
    counts, and the gate refuses, by section `privacy`."""

    implementation = "llmaug.filter.rules:identifying"
    judges = "outcome"

    kind: Literal["identifying"] = "identifying"
    """The filter."""


FILTERS: Kinds[FilterConfig] = Kinds(
    "filter", (FilterConfig,), "kind", "llmaug.filters",
    RepeatedConfig, TooShortConfig, CopiedConfig, IdentifyingConfig,
)  # fmt: skip


class FiltersConfig(Section):
    """What generated events must be."""

    rules: list[Annotated[FilterConfig, FILTERS]] = [
        RepeatedConfig(), TooShortConfig(), CopiedConfig(), IdentifyingConfig()
    ]  # fmt: skip
    """The filters, in this order: the first that objects gives the reason. What lies outside the
    catalogue is always dropped, before all others."""
    repeats: _Repeats | dict[str, _Repeats] = "forbid"
    """forbid: an item already in the history (films); allow: news, groceries. With action
    tokens: the same item with the same action. Or by action, `{view: allow, buy: forbid}`; an
    action without an entry is forbidden. Counts while events are drawn, too."""

    @model_validator(mode="after")
    def _each_once(self) -> FiltersConfig:
        kinds = [rule.kind for rule in self.rules]
        twice = sorted({kind for kind in kinds if kinds.count(kind) > 1})
        if twice:
            raise ValueError(f"filters.rules names {', '.join(twice)} twice")
        return self

    @model_validator(mode="after")
    def _runs_are_final(self) -> FiltersConfig:
        kinds = [rule.kind for rule in self.rules]
        if "identifying" in kinds:
            for rule in self.rules[kinds.index("identifying") :]:
                if rule.judges == "events":
                    raise ValueError(
                        f"filters.rules: {rule.kind} stands after identifying and drops events, "
                        "so that others come together to runs: let identifying be the last"
                    )
        return self

    def may_repeat(self, action: str) -> bool:
        rule = self.repeats if isinstance(self.repeats, str) else self.repeats.get(action)
        return rule == "allow"


class MergeConfig(Section):
    """Real and synthetic events into training shards."""

    synthetic_weight: float = Field(default=1.0, gt=0)
    """Training weight of a synthetic event; a real one has 1."""
    strategy_weights: dict[str, Annotated[float, Field(gt=0)]] = {}
    """{strategy: factor}: more or less than `synthetic_weight` for what it wrote. `llmaug
    influence` says which strategies would help."""

    def weight_of(self, strategy: str) -> float:
        return self.synthetic_weight * self.strategy_weights.get(strategy, 1.0)
