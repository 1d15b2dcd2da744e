"""The shape of what stage `drift` finds: the counts of its manifest."""

from __future__ import annotations

from llmaug.core.contract import Contract


class Summary(Contract):
    """A night's training events, for later nights to be compared with."""

    events: int
    users: int
    actions: dict[str, int]
    """Events of each; `` where there is none."""
    lengths: list[int]
    """Users with 2**b up to 2**(b + 1) - 1 events, for each b."""


class Drift(Contract):
    """Tonight's training events against those of an earlier night. Distances `_js` and `_ks` are
    those of `Fidelity`, 0 is alike and 1 is apart; null: not measured."""

    against: str
    """Run id of the earlier night."""
    popularity_js: float | None
    """Of the items; null where the earlier vocabulary is gone."""
    popularity_js_expected: float | None
    """What it is by chance alone: the events of both nights dealt out at random to nights of these
    sizes."""
    action_js: float | None
    length_ks: float | None
    """Of histories, in powers of two."""
    events_ratio: float | None
    """Tonight's by the earlier ones; 1 is as many."""
    users_ratio: float | None
    events_per_user_ratio: float | None
    alarms: list[str]
    """In words: the figures beyond `gate.drift`."""
    stops: bool
    """The alarms keep CURRENT where it is (`gate.drift.stops_publish`)."""


class DriftCounts(Contract):
    """Counts of stage `drift`."""

    summary: Summary
    found: Drift | None
    unknown: str
    """Why nothing was found; else empty."""
