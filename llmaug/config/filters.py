"""Sections `filters` and `merge`."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from llmaug.config.base import Section

_Repeats = Literal["allow", "forbid"]


class FiltersConfig(Section):
    """What generated events must be."""

    repeats: _Repeats | dict[str, _Repeats] = "forbid"
    """forbid: an item already in the history (films); allow: news, groceries. With action
    tokens: the same item with the same action. Or by action, `{view: allow, buy: forbid}`; an
    action without an entry is forbidden."""
    min_events: int = Field(default=2, ge=1)
    """Outcomes with fewer kept events are rejected; of `infill` and `choose` one is enough."""
    copied_ngram: int = Field(default=5, ge=2)
    """Length of the runs of events by which copies of real people are recognised."""
    max_copied_share: float = Field(default=0.5, ge=0, lt=1)
    """New users of whose runs more than this share occur in training histories are rejected
    as copies of real people."""

    def may_repeat(self, action: str) -> bool:
        rule = self.repeats if isinstance(self.repeats, str) else self.repeats.get(action)
        return rule == "allow"


class MergeConfig(Section):
    """Real and synthetic events into training shards."""

    synthetic_weight: float = Field(default=1.0, gt=0)
    """Training weight of a synthetic event; a real one has 1."""
