"""Intervals by a bootstrap whose parts add up.

Each user's weight in resample b is drawn from Poisson(1) by a generator that the user's id
seeds (Chamandy et al. 2012, "Estimating uncertainty for massive data streams"). So every
part of the users is summed up by itself, wherever it lies, and one user has the same weights
in every arm: that is what pairs them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from llmaug.ingest.cleaning import id_hash

_USERS_AT_ONCE = 512


def resampled_sums(
    user_ids: Sequence[str],
    groups: Sequence[tuple[np.ndarray, np.ndarray]],
    num_samples: int,
    seed: int,
) -> list[np.ndarray]:
    """For each group of users the sums of their values in the data and in each resample.

    groups: (users (n,) ascending row numbers of `user_ids`, values (n, K)). Returns for each
    group (1 + num_samples, 1 + K): row 0 is the data, the others are resamples; column 0 is
    the number of users (the sum of their weights), the others are weighted sums.
    """
    hashes = id_hash(pa.array(user_ids, pa.string()))
    out = [np.zeros((1 + num_samples, 1 + values.shape[1])) for _, values in groups]
    for start in range(0, len(user_ids), _USERS_AT_ONCE):
        weights = _weights(hashes[start : start + _USERS_AT_ONCE], num_samples, seed)
        for sums, (users, values) in zip(out, groups, strict=True):
            here = slice(*np.searchsorted(users, [start, start + _USERS_AT_ONCE]))
            own = weights[users[here] - start].T  # (1 + S, n)
            sums[:, 0] += own.sum(1)
            sums[:, 1:] += own @ values[here]
    return out


def _weights(hashes: np.ndarray, num_samples: int, seed: int) -> np.ndarray:
    """(N, 1 + S): 1 for the data, then Poisson(1) draws."""
    out = np.ones((len(hashes), 1 + num_samples))
    for row, hashed in enumerate(hashes):
        generator = np.random.Generator(np.random.Philox(key=[seed, int(hashed)]))
        out[row, 1:] = generator.poisson(1.0, num_samples)
    return out


def means(sums: np.ndarray) -> np.ndarray:
    """(1 + S, 1 + K) sums to (1 + S, K) means; NaN where a resample has no user."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return sums[:, 1:] / sums[:, :1]


def mean_over_seeds(values: np.ndarray, seed: Sequence[int]) -> np.ndarray:
    """(1 + S, seeds, M) means of one arm's models to (1 + S, M) means over its seeds.

    With several seeds a resample also draws seeds, n - 1 of n with replacement: that gives
    the mean's variance over seeds without bias (Rao and Wu 1988), where n of n would give too
    little for few seeds.
    """
    num_rows, num_seeds, _ = values.shape
    if num_seeds == 1:
        return values[:, 0]
    drawn = np.random.default_rng(seed).integers(num_seeds, size=(num_rows, num_seeds - 1))
    out = np.take_along_axis(values, drawn[:, :, None], axis=1).mean(1)
    out[0] = values[0].mean(0)
    return out


def interval(values: np.ndarray) -> dict[str, float]:
    """Mean and 95% percentile interval of (1 + S,) values, the first being that of the data."""
    low, high = np.nanquantile(values[1:], [0.025, 0.975])
    return {"mean": float(values[0]), "low": float(low), "high": float(high)}


def relative_lift(new: np.ndarray, old: np.ndarray) -> dict[str, Any]:
    """Relative lift of (1 + S,) means over others of the same resamples, with 95% interval.

    All null where the old mean is 0: there is nothing to relate to. `high` is null where more
    than a fortieth of the resamples rise from 0: the interval has no upper end.
    """
    if not old[0]:
        return {"relative": None, "low": None, "high": None}
    with np.errstate(divide="ignore", invalid="ignore"):
        lift = (new - old) / old
    lift[(new == 0) & (old == 0)] = 0  # no change
    # Of ordered values, not between them: an endless one would spoil its neighbours.
    low = np.nanquantile(lift[1:], 0.025, method="lower")
    high = np.nanquantile(lift[1:], 0.975, method="higher")
    return {
        "relative": float(lift[0]),
        "low": float(low),
        "high": float(high) if np.isfinite(high) else None,
    }


def p_of_gain(new: np.ndarray, old: np.ndarray) -> float:
    """Two-sided p-value that (1 + S,) means are above others of the same resamples: twice the
    share of resamples without a gain, so below 0.05 where the 95% interval is above 0. No less
    than 2 / (1 + S), 1 for a loss."""
    without = np.count_nonzero(~(new[1:] > old[1:]))  # NaN is no gain
    return float(min(1.0, 2 * (1 + without) / len(new)))


def lift_text(lift: dict[str, Any]) -> str:
    """`+10.0% (+5.0% to +15.0%)`."""
    if lift["relative"] is None:
        return "n/a"
    return f"{lift['relative']:+.1%} ({interval_text(lift)})"


def interval_text(lift: dict[str, Any]) -> str:
    """`+5.0% to +15.0%`, of a lift that there is."""
    high = "no upper end" if lift["high"] is None else f"{lift['high']:+.1%}"
    return f"{lift['low']:+.1%} to {high}"
