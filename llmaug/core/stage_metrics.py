"""What each stage took, for Prometheus, through Ray's metrics export."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from llmaug.core.cluster import is_connected

GAUGES = {
    "stage_seconds": "Seconds that a stage took when it ran last",
    "stage_peak_mb": "Memory of the driver at its highest during the stage, in MB",
}


def export(run_id: str, stage: str, manifest: dict[str, Any]) -> None:
    """A stage that ran to its end; without a Ray in this process nobody could look."""
    if not is_connected():
        return
    tags = {"run_id": run_id, "stage": stage}
    values = manifest["seconds"], manifest["peak_rss_mb"]
    for gauge, value in zip(_gauges(), values, strict=True):
        gauge.set(value, tags=tags)


@lru_cache
def _gauges() -> list[Any]:
    from ray.util.metrics import Gauge

    keys = ("run_id", "stage")
    return [
        Gauge(f"llmaug_{name}", description=text, tag_keys=keys) for name, text in GAUGES.items()
    ]
