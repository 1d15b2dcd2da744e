"""`llmaug schema`: the shape of what llmaug writes for other programs."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from llmaug.core.terminal import emit_json

if TYPE_CHECKING:
    from llmaug.core.contract import Contract


class Written(StrEnum):
    """What has a schema."""

    METRICS = "metrics"
    PUBLISHED = "published"
    MANIFESTS = "manifests"


def print_schema(
    of: Annotated[
        Written, typer.Argument(help="metrics.json, published.json, or the counts of manifests.")
    ],
) -> None:
    """JSON schema of metrics.json or published.json, or by stage of the counts in its manifest:
    every field with its meaning.

    Example: `llmaug schema metrics > metrics.schema.json`
    """
    from llmaug.publish.card import Card
    from llmaug.report.metrics import Metrics

    if of is Written.MANIFESTS:
        emit_json({stage: counts.model_json_schema() for stage, counts in _counts().items()})
    else:
        emit_json((Metrics if of is Written.METRICS else Card).model_json_schema())


def _counts() -> dict[str, type[Contract]]:
    from llmaug.evaluate.figures import Audit, Decision, FidelityCounts, Figures
    from llmaug.generate.counts import OutcomesCounts
    from llmaug.ingest.counts import IngestCounts, SplitCounts
    from llmaug.plan.counts import PlanCounts
    from llmaug.publish.card import Published
    from llmaug.publish.drift_figures import DriftCounts

    return {
        "ingest": IngestCounts,
        "split": SplitCounts,
        "plan": PlanCounts,
        "outcomes": OutcomesCounts,
        "privacy": Audit,
        "fidelity": FidelityCounts,
        "evaluation": Figures,
        "gate": Decision,
        "drift": DriftCounts,
        "publish": Published,
    }
