"""A behaviour model whose engines ask for a GPU and do without it: counts, found by their path."""

from __future__ import annotations

from llmaug.config import NgramConfig

PATH = f"{__name__}:OnGpuConfig"


class OnGpuConfig(NgramConfig):
    """Counts that say that a GPU is of use to them."""

    is_neural = True

    model: str  # type: ignore[assignment]
