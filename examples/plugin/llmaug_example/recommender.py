"""Item neighbours whose events fade: what stands with the last events of a history counts most.

The config class is imported wherever a config is read, so torch is not: it stands in `model`.
"""

from __future__ import annotations

from pydantic import Field

from llmaug.config import ClosedFormConfig


class FadedNeighboursConfig(ClosedFormConfig):
    """Items that were taken by the same users, most of all by those of the last events."""

    implementation = "llmaug_example.model:FadedNeighbours"

    fade: float = Field(default=0.8, gt=0, le=1)
    """What an event counts less than the one after it."""
