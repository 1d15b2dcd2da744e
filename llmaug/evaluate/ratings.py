"""How far predicted ratings are from those that held-out real events have.

Of models that predict them. Every held-out event with a `value` counts, and a mistake is its
difference; the interval is over users, whose events go together.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from llmaug.arms.arms import REAL
from llmaug.evaluate.bootstrap import interval, resampled_sums
from llmaug.items.vocabulary import Vocabulary
from llmaug.recommenders import PredictsRatings

ERRORS = pa.schema(
    [
        pa.field("user_id", pa.string(), nullable=False),
        pa.field("item_id", pa.string(), nullable=False),
        pa.field("value", pa.float64(), nullable=False),
        pa.field("predicted", pa.float64(), nullable=False),
    ]
)


def predicted(model: PredictsRatings, vocabulary: Vocabulary, held_out: pa.Table) -> pa.Table:
    """Each held-out event with a `value`, and what the model says of it (schema ERRORS)."""
    import torch

    rated = held_out.select(["user_id", "item_id", "value"]).filter(pc.is_valid(held_out["value"]))
    tokens = vocabulary.encode(rated["item_id"]).tolist()
    with torch.inference_mode():
        found = model.ratings(rated["user_id"].to_pylist(), tokens) if tokens else torch.empty(0)
    columns = [*rated.columns[:2], rated["value"].cast(pa.float64()), found.double().cpu().numpy()]
    return pa.table(columns, schema=ERRORS)


def sum_errors(table: pa.Table, num_bootstrap: int, seed: int) -> np.ndarray:
    """Bootstrap sums (1 + num_bootstrap, 3) of users, ratings and squared errors; they add up over
    parts."""
    users, place = np.unique(table["user_id"].to_numpy(), return_inverse=True)
    squared = (table["predicted"].to_numpy() - table["value"].to_numpy()) ** 2
    own = np.stack([np.bincount(place), np.bincount(place, squared)], axis=1)
    return resampled_sums(users.tolist(), [(np.arange(len(users)), own)], num_bootstrap, seed)[0]


def from_sums(sums: Mapping[str, np.ndarray]) -> dict[str, dict[str, Any]]:
    """{arm: {"num_ratings", "rmse", "difference": to `real`, null of `real`}}; both with their 95%
    intervals over users, who are the same in all arms. Empty where no held-out event has a
    rating."""
    with np.errstate(invalid="ignore", divide="ignore"):  # a resample may have none
        rmse = {arm: np.sqrt(own[:, 2] / own[:, 1]) for arm, own in sums.items() if own[0, 1]}
    return {
        arm: {
            "num_ratings": int(sums[arm][0, 1]),
            "rmse": interval(own),
            "difference": None if arm == REAL else interval(own - rmse[REAL]),
        }
        for arm, own in rmse.items()
    }
