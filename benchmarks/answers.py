"""What chat models answered in a run, and means over it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from llmaug.core.stage import Context

_ROUNDS = 2000


def rows_of(context: Context, folder: str) -> Iterator[dict[str, Any]]:
    """Of all parts of a stage's folder, one part in memory at a time."""
    place = context.folder(folder)
    for part in context.storage.parts(place):
        yield from context.storage.read_part(place, part).to_pylist()


def interval(values: np.ndarray) -> dict[str, float] | None:
    """Mean of (N,) values, with a bootstrap interval; None without any."""
    if not len(values):
        return None
    drawn = np.random.default_rng(7).integers(len(values), size=(_ROUNDS, len(values)))
    low, high = np.quantile(values[drawn].mean(1), (0.025, 0.975))
    return {"mean": round(float(values.mean()), 4), "low": round(float(low), 4),
            "high": round(float(high), 4)}  # fmt: skip
