"""The shape of what evaluation, gate and privacy audit find: the counts of their manifests."""

from __future__ import annotations

from typing import Any

from llmaug.arms.arms import AUGMENTED
from llmaug.core.contract import Contract


class Interval(Contract):
    """A mean and its 95% interval."""

    mean: float
    low: float
    high: float


class HeadlineLift(Contract):
    """By how much one arm is better than another, relative to the other."""

    relative: float | None
    """0.1: by a tenth; null where the other has 0."""
    low: float | None
    """Lower end of the 95% interval."""
    high: float | None
    """Upper end; null where there is none."""
    against: str
    """The other arm."""


class Lift(HeadlineLift):
    """One of all comparisons of two arms."""

    arm: str
    metric: str
    p: float
    """Two-sided p-value of a gain."""


class Difference(Interval):
    """Of an arm to `real`, absolute."""

    error: float
    """Standard error, by the bootstrap."""


class SegmentFigures(Interval):
    """One arm on a part of the held-out events."""

    segment: str
    """`history <=3`, `items tail` and the like."""
    arm: str
    metric: str
    num_users: int
    difference: Difference | None = None
    """Not there for arm `real`."""


class IntervalFacts(Contract):
    """What all intervals are about."""

    level: float
    covers: str
    """`users`, or `users and seeds`."""
    num_seeds: int
    sampled_from: int | None = None
    """Held-out users of whom those evaluated are a random sample (`evaluate.max_users`); null: all
    of them are evaluated."""


class Satisfaction(Contract):
    """How users rated later what an arm would have recommended: see satisfaction.py."""

    num_users: int
    num_users_with_ratings: int
    num_users_rated: int
    num_users_with_own_mean: int
    num_rated: int
    rated_share: Interval | None
    rating: Interval | None
    liked_share: Interval | None
    held_out_rating: Interval | None
    at_least_own_mean_share: Interval | None
    over_own_mean: Interval | None


class Labels(Contract):
    """How good an arm's probabilities are, where it judges pairs: see labels.py."""

    log_loss: Interval
    rmse: Interval


class Ratings(Contract):
    """How far an arm's ratings are from those of held-out events: see ratings.py."""

    num_ratings: int
    rmse: Interval
    difference: Interval | None
    """To the RMSE of `real`; null of `real`."""


class BothOrders(Contract):
    """NDCG@10 of lists as they were and as a chat model would have them."""

    before: Interval
    after: Interval
    difference: Interval


class Reranked(Contract):
    """Counts of stage `text/<task>/measured`."""

    users: int
    """Held-out users who were asked about."""
    reordered: int
    """Of these, those with an answer that was kept; the lists of the others stay."""
    ndcg_at_10: BothOrders | None
    """Null where nobody was asked about."""


class Figures(Contract):
    """Counts of stage `evaluation`."""

    num_users: int
    """Held-out users with a history."""
    interval: IntervalFacts
    arms: dict[str, dict[str, Interval]]
    """By arm and metric (`ndcg@10`)."""
    by_seed: dict[str, dict[str, dict[str, float]]]
    """Means by arm, seed and metric."""
    lists: dict[str, dict[str, float | None]]
    """Coverage, novelty, diversity and Gini by arm; null where there is nothing to say."""
    lift: dict[str, HeadlineLift]
    """Of the augmented arm over its control, by metric."""
    lifts: list[Lift]
    segments: list[SegmentFigures]
    satisfaction: dict[str, Satisfaction]
    """By arm; empty where nobody rated anything later."""
    labels: dict[str, Labels]
    """By arm; of models that judge pairs."""
    ratings: dict[str, Ratings] = {}
    """By arm; of models that predict ratings."""


class SegmentTest(Contract):
    """A segment in which the gate looked for a loss."""

    segment: str
    p: float
    adjusted_p: float
    """By Holm, for all of them."""


class Decision(Contract):
    """Counts of stage `gate`."""

    passed: bool
    candidate: str = AUGMENTED
    """The arm in question (`gate.arm`)."""
    arm: str
    """The one to be published."""
    reasons: list[str]
    segments: list[SegmentTest]


class Membership(Contract):
    """How well the training users are told from held-out ones by the synthetic events."""

    pairs: int
    """Of a training user and a held-out one."""
    auc: float
    """0.5 is chance."""
    low: float
    """Lower end of the 95% interval."""
    high: float
    tpr: float
    """Share of the training users that are found where 1% of the others are taken for such, too;
    0.01 is chance."""
    tpr_low: float | None = None
    """Lower end of its 95% interval; null in the manifests of earlier versions."""
    tpr_high: float | None = None


class Audit(Contract):
    """Counts of stage `privacy`."""

    synthetic: int
    """Histories."""
    identifying: int
    """Of these, with a run of events that hardly any real user has."""
    identifying_share: float
    run_len: int
    min_run_users: int
    max_skips: int = 0
    """Events that a run may leave out."""
    membership: Membership | None = None
    """Null where there is nothing synthetic, or where too few users are held out."""


class Private(Contract):
    """What the training of the behaviour model spent, in the counts of `lm/<name>`."""

    epsilon: float
    delta: float
    unit: str
    """What is protected: a user."""
    clipping: float
    noise_multiplier: float
    sample_rate: float
    """Chance of each user to take part in a step."""
    steps: int
    users: int
    accountant: str


class Pair(Contract):
    """How far synthetic behaviour is from real behaviour."""

    value: float
    halves: float | None
    """How far two halves of the real users are from each other: what may be expected."""


class Shares(Contract):
    """The same figure of both sides."""

    real: float | None
    synthetic: float | None


class Bin(Contract):
    """A bar of a distribution: shares of both sides."""

    label: str
    real: float
    synthetic: float


class TwoSample(Contract):
    """How well a classifier tells synthetic histories from real ones of the same length."""

    pairs: int
    auc: float
    """0.5: not at all; 1: always."""
    low: float
    """Lower end of the 95% interval."""
    high: float


class Fidelity(Contract):
    """How like real behaviour the synthetic events are: training events against what was generated.

    A distance `_js` is Jensen-Shannon's (square root, base 2) and one `_ks` Kolmogorov and
    Smirnov's: 0 is alike, 1 is apart. Null: there is nothing to compare.
    """

    synthetic_events: int
    synthetic_histories: int
    """Of new users; lengths and whole histories are theirs."""
    popularity_js: Pair | None
    """Of the items."""
    popularity_spearman: Pair | None
    """Rank correlation of the items' events: 1 is the same order."""
    action_js: Pair | None
    hour_js: Pair | None
    """Of the day, UTC."""
    gap_ks: Pair | None
    """Between neighbouring events, on powers of two seconds."""
    length_ks: Pair | None
    """Of histories."""
    transition_js: Pair | None
    """Of pairs of neighbouring events, among the 1,000 most popular items."""
    tail_share: Shares
    """Of events: with the least popular items that have a third of the training events."""
    tail_coverage: float | None
    """Share of those items that were generated at all."""
    tail_coverage_expected: float | None
    """What as many draws from the real popularity would reach."""
    effective_items: Shares
    """How many equally popular items would be as diverse: exp of the entropy."""
    distinct_histories: Shares
    """Share of histories that differ from each other, in a sample."""
    classifier: TwoSample | None
    """Null below 50 pairs."""
    distributions: dict[str, list[Bin]]
    """What the report draws: popularity (items by their real rank), action, hour, gap, length."""


class FidelityCounts(Contract):
    """Counts of stage `fidelity`."""

    found: Fidelity | None
    """Null where nothing was generated."""


def membership_text(found: dict[str, Any]) -> str:
    interval = ""
    if found.get("tpr_low") is not None:
        interval = f" ({found['tpr_low']:.1%} to {found['tpr_high']:.1%})"
    return (
        f"by their likeness to synthetic histories {found['pairs']:,} training users are told from "
        f"as many held-out ones with an AUC of {found['auc']:.3f} ({found['low']:.3f} to "
        f"{found['high']:.3f}; chance: 0.5), and {found['tpr']:.1%}{interval} of them at 1% false "
        "alarms"
    )


def private_text(found: dict[str, Any]) -> str:
    return (
        f"the generator was trained by DP-SGD: epsilon {found['epsilon']:.2f} at delta "
        f"{found['delta']:g} for each {found['unit']} in this training ({found['accountant']}; "
        "docs/privacy.md says what that covers)"
    )


def identifying_text(audit: dict[str, Any]) -> str:
    """What stage `privacy` found, in words."""
    skips = audit.get("max_skips", 0)
    gaps = f" (leaving out up to {skips})" if skips else ""
    return (
        f"{audit['identifying']:,} of {audit['synthetic']:,} synthetic histories "
        f"({audit['identifying_share']:.2%}) hold a run of {audit['run_len']} events{gaps} that "
        f"fewer than {audit['min_run_users']} real users have"
    )


def candidate_of(decision: dict[str, Any]) -> str:
    """The arm that was decided on; runs of earlier versions do not say it."""
    return str(decision.get("candidate", AUGMENTED))


def measured_value(fidelity: dict[str, Any] | None, name: str) -> float | None:
    """A figure of `Fidelity` that has one value, None where it was not measured."""
    if fidelity is None:
        return None
    if name == "classifier_auc":
        return fidelity["classifier"] and float(fidelity["classifier"]["auc"])
    found = fidelity[name]
    return found["value"] if isinstance(found, dict) else found
