"""Sections `evaluate` and `gate`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from llmaug.config.base import Name, Section
from llmaug.config.train import ArmName


class EvaluateConfig(Section):
    """Before and after, on held-out real events."""

    cutoffs: list[Annotated[int, Field(ge=1)]] = Field(default=[10, 20], min_length=1)
    """k of the metrics; the first is the one that gate and lift look at."""
    targets: Literal["first", "all"] = "first"
    """Which held-out events of a user are to be found: the first one after the cut-off, or
    all (each item once). With leave_one_out there is one, or `split.num_test_events`."""
    exclude_seen: bool = True
    """Leave items of the history out of the ranking (false where repeats are normal)."""
    liked_value: float = 4.0
    """A recommended item that its user rated at least this later was liked. Ratings are the
    column `value` of the held-out events; where they have none, nothing is judged."""
    num_bootstrap: int = Field(default=2000, ge=100)
    """Paired bootstrap samples over users (and over seeds, where there are several)."""
    max_users: int | None = Field(default=None, ge=1)
    """Evaluate at most so many held-out users, drawn at random by a hash of their ids: the same
    for every arm and seed. The intervals are those of the sample, and the report says so. None:
    all of them, which costs users x items x models."""
    min_users: int = Field(default=100, ge=1)
    """Warn below this many held-out users."""


class FidelityLimits(Section):
    """How unlike real behaviour the synthetic events may be; none: that is shown and does not
    decide. What a limit is set on and was not measured is refused."""

    max_popularity_js: float | None = Field(default=None, ge=0, le=1)
    """Jensen-Shannon distance of the items' popularity."""
    min_popularity_spearman: float | None = Field(default=None, ge=-1, le=1)
    """Rank correlation of the items' popularity."""
    max_action_js: float | None = Field(default=None, ge=0, le=1)
    """Jensen-Shannon distance of the mix of actions."""
    max_hour_js: float | None = Field(default=None, ge=0, le=1)
    """Jensen-Shannon distance of the hours of the day."""
    max_gap_ks: float | None = Field(default=None, ge=0, le=1)
    """Kolmogorov-Smirnov distance of the gaps between neighbouring events."""
    max_length_ks: float | None = Field(default=None, ge=0, le=1)
    """Kolmogorov-Smirnov distance of the lengths of histories."""
    max_transition_js: float | None = Field(default=None, ge=0, le=1)
    """Jensen-Shannon distance of pairs of neighbouring items. Sparse: look first at what two halves
    of the real users have."""
    min_tail_coverage: float | None = Field(default=None, ge=0, le=1)
    """Share of the tail items that are generated at all."""
    max_classifier_auc: float | None = Field(default=None, ge=0.5, le=1)
    """AUC of a classifier that tells synthetic histories from real ones."""


class DriftLimits(Section):
    """How unlike those of the last night tonight's training events may be before an alarm is
    raised. Ratios hold both ways: of 1.5, half as many again and two thirds."""

    against: Name | None = None
    """Run id of the night to compare with. None: the one whose model is current."""
    max_popularity_js: float | None = Field(default=0.5, ge=0, le=1)
    """Jensen-Shannon distance of the items' popularity; an alarm needs more than chance would give,
    too. Nights whose logs overlap are near 0."""
    max_action_js: float | None = Field(default=0.2, ge=0, le=1)
    """Jensen-Shannon distance of the mix of actions."""
    max_length_ks: float | None = Field(default=0.2, ge=0, le=1)
    """Kolmogorov-Smirnov distance of the lengths of training histories."""
    max_events_ratio: float | None = Field(default=1.5, gt=1)
    """Training events of both nights."""
    max_users_ratio: float | None = Field(default=1.5, gt=1)
    """Users with training events."""
    max_events_per_user_ratio: float | None = Field(default=1.5, gt=1)
    """Training events a user."""
    stops_publish: bool = False
    """An alarm keeps the current model: tonight's is written and not made current, whatever the
    gate decided, until `llmaug publish RUN --force --reason ...`. Else it is raised, and nothing
    more."""


class GateConfig(Section):
    """When the model of an arm may go out in place of that of `real`."""

    arm: ArmName = "augmented"
    """The arm in question."""
    against: list[ArmName] | None = None
    """Arms that it must beat, each by the rule of `min_lift`. None: `real` (what goes out
    otherwise), and the arm's control where it is trained: `oversampled` of augmented, `restarted`
    of started, `fusion` of augmented_fusion, `started` of augmented_started."""
    min_lift: float = Field(default=0.0, ge=-1)
    """The whole 95% interval of the relative NDCG lift must lie above this."""
    min_users: int = Field(default=30, ge=1)
    """Fewer held-out users are too few to decide, and the gate refuses: of very few the interval is
    too narrow, of one it is a point."""
    max_segment_loss: float = Field(default=0.0, ge=0)
    """A segment fails the gate when it is significantly worse than `real` by more than this
    (absolute NDCG)."""
    segment_alpha: float = Field(default=0.05, gt=0, lt=1)
    """Chance, over all segments together (Holm's correction), of refusing a model that is
    worse in none."""
    min_segment_users: int = Field(default=30, ge=1)
    """Segments with fewer users are shown but do not decide."""
    max_identifying_share: float = Field(default=0.01, ge=0, le=1)
    """A larger share of synthetic histories that hold a run by which a real user is known (section
    `privacy`) fails the gate. The filter `identifying` takes them out before."""
    max_membership_auc: float | None = Field(default=None, ge=0.5, le=1)
    """Refused is a model by whose synthetic events training users are told from held-out ones with
    an AUC whose whole 95% interval lies above this (0.5 is chance), and one of which that cannot
    be measured. None: it is shown, and decides nothing."""
    fidelity: FidelityLimits = FidelityLimits()
    """How like real behaviour the synthetic events must be."""
    drift: DriftLimits = DriftLimits()
    """How like the last night's training events tonight's must be."""
