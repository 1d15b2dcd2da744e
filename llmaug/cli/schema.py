"""`llmaug schema`: the shape of what llmaug writes for other programs."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

from llmaug.core.terminal import emit_json


class Written(StrEnum):
    """What has a schema."""

    METRICS = "metrics"
    PUBLISHED = "published"


def print_schema(
    of: Annotated[Written, typer.Argument(help="metrics.json, or published.json.")],
) -> None:
    """JSON schema of metrics.json or published.json: every field with its meaning.

    Example: `llmaug schema metrics > metrics.schema.json`
    """
    from llmaug.publish.card import Card
    from llmaug.report.metrics import Metrics

    emit_json((Metrics if of is Written.METRICS else Card).model_json_schema())
