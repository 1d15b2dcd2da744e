"""The shape of `metrics.json`, the figures of a run for machines.

`llmaug schema metrics` prints it as a JSON schema.
"""

from __future__ import annotations

from typing import Any

from llmaug.core.contract import Contract
from llmaug.evaluate.figures import (
    Audit,
    Decision,
    Fidelity,
    HeadlineLift,
    Interval,
    IntervalFacts,
    Labels,
    Lift,
    Private,
    Ratings,
    Reranked,
    Satisfaction,
    SegmentFigures,
)
from llmaug.generate.counts import Moment
from llmaug.publish.card import Published
from llmaug.publish.drift_figures import Drift


class Ledger(Contract):
    """Where every unit went."""

    units: int
    """With an outcome: accepted + rejected + failed."""
    planned: int
    left_out: int
    """Not asked: a limit was reached first."""
    not_needed: int
    """Not asked: their users had enough accepted outcomes."""
    cache_hits: int
    """Answered on an earlier night."""
    left_out_by_budget: int
    """Not even planned."""
    stopped: str
    """The limit that ended generation; else empty."""
    accepted: int
    rejected: int
    failed: int
    by_reason: dict[str, int]
    """`rejected.REASON`, `failed.REASON` (units) and `events_dropped.REASON` (events)."""


class TextLedger(Contract):
    """Where every question of a text task went, its judge's verdicts included."""

    units: int
    """accepted + rejected + failed."""
    accepted: int
    """Became rows."""
    rejected: int
    failed: int
    by_reason: dict[str, int]
    """`rejected.REASON`, `failed.REASON`."""
    parsed_share: float
    """Of all answers to its own question, those that were by the schema."""
    prompt_tokens: int
    cached_prompt_tokens: int
    """Of these, answered by the engine's prefix cache."""
    output_tokens: int
    cut_fields: int
    """Fields that were cut to `max_field_tokens`."""


class Events(Contract):
    """What the arm in question (or `real`, where that was not trained) was trained on."""

    real: int
    synthetic: int
    soft: int = 0
    """Of the real ones, those with soft targets."""


class Validation(Contract):
    """A point of a learning curve."""

    step: int
    loss: float
    """Of the batch of that step."""
    value: float | None
    """Of validation events, what `TrainedSeed.curve_of` says; null where nothing was held out."""


class TrainedSeed(Contract):
    """How the training of one model went."""

    seed: str
    model_digest: str
    num_targets: int
    """Events to be predicted, in one pass."""
    steps: int
    best_step: int
    real_passes: float | None = None
    """How often each history of real events was learned from; null where it is not counted."""
    validation_ndcg: float | None
    """Null where nothing was held out for validation."""
    curve: list[Validation] = []
    """Each validation; none of models that are not trained by steps."""
    curve_of: str = "NDCG@10"
    """What its values are, more being better."""


class Training(Events):
    """What an arm was trained on."""

    seeds: list[TrainedSeed]


class GeneratorFigures(Contract):
    """How the generator itself ranks the next real event."""

    validation_ndcg: float
    real_validation_ndcg: float
    """Of arm `real`, the mean of its seeds."""
    ahead: bool


class StageFigures(Contract):
    """What a stage cost."""

    seconds: float
    peak_rss_mb: float
    skipped: bool
    """It was unchanged."""


class Throughput(Contract):
    """What generation cost."""

    output_tokens_per_s: float
    events_per_s: float
    idle_share: float | None
    """Of the engines' time; null where no engine ran."""
    engine_hours: float
    cost: float
    """In the currency of budget.price_per_hour."""
    restarts: int
    repeated_parts: int
    utilisation: list[Moment]


class Predicted(Interval):
    """A figure of `llmaug forecast`, and what came of it."""

    figure: str
    actual: float
    ratio: float | None


class Metrics(Contract):
    """`runs/<run_id>/report/metrics.json`."""

    run_id: str
    ingest: dict[str, Any]
    """The ledger of rows; a count of each reason."""
    split: dict[str, Any]
    """Events and users of each fold."""
    ledger: Ledger
    texts: dict[str, TextLedger] = {}
    """By text task."""
    events: Events
    num_users: int
    arms: dict[str, dict[str, Interval]]
    by_seed: dict[str, dict[str, dict[str, float]]]
    lift: dict[str, HeadlineLift]
    lifts: list[Lift]
    interval: IntervalFacts
    lists: dict[str, dict[str, float | None]]
    satisfaction: dict[str, Satisfaction]
    labels: dict[str, Labels]
    ratings: dict[str, Ratings] = {}
    reranked: dict[str, Reranked] = {}
    """By text task `rerank`."""
    training: dict[str, Training]
    """By arm."""
    generator: GeneratorFigures | None
    """Null where it was not measured."""
    segments: list[SegmentFigures]
    gate: Decision
    privacy: Audit | None
    """Null where nothing was generated."""
    private: Private | None = None
    """Null where the generator was trained without noise."""
    fidelity: Fidelity | None
    """Null where nothing was generated."""
    drift: Drift | None = None
    """Tonight's training events against an earlier night's; null where there is none."""
    published: Published | None
    """Null where the arms were only compared."""
    stages: dict[str, StageFigures]
    throughput: Throughput
    forecast: list[Predicted]
    """Empty where none was made."""
