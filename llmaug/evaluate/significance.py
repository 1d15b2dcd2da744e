"""Ratios of sums over users, what their difference is worth, and whether users were split well.

Users are what an experiment randomises, rows are not independent: all variances are over
users. A ratio such as clicks / exposures has its variance by the delta method (Deng, Knoblich
and Lu 2018, "Applying the Delta Method in Metric Analytics: A Practical Guide with Novel
Ideas"). Intervals and tests take the estimates as normal, which needs hundreds of users.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from statistics import NormalDist
from typing import Any, NamedTuple

import numpy as np

ALPHA = 0.05
SAMPLE_RATIO_ALPHA = 0.001
_NORMAL = NormalDist()


class Ratio(NamedTuple):
    """sum(numerators) / sum(denominators) and how much each user moves it."""

    value: float
    influence: np.ndarray  # (users,), mean 0; the variance of `value` is var(influence) / users

    @property
    def standard_error(self) -> float:
        return standard_error(self.influence)


def ratio(numerators: np.ndarray, denominators: np.ndarray) -> Ratio:
    """The ratio of the sums of two (users,) arrays; `denominators` must not sum to 0."""
    value = numerators.sum() / denominators.sum()
    influence = (numerators - value * denominators) / denominators.mean()
    return Ratio(float(value), influence)


def standard_error(influence: np.ndarray) -> float:
    """Of the mean of (users,) independent values; two users at least."""
    return float(influence.std(ddof=1) / math.sqrt(len(influence)))


def interval(value: float, error: float, alpha: float = ALPHA) -> dict[str, float]:
    """`value` with its two-sided normal interval {value, low, high}."""
    reach = _NORMAL.inv_cdf(1 - alpha / 2) * error
    return {"value": value, "low": value - reach, "high": value + reach}


def lift(treatment: Ratio, control: Ratio) -> dict[str, Any]:
    """Absolute and relative lift of two independent ratios with 95% intervals, and p-value.

    `relative` is null where the control's value is not positive: there is nothing to relate
    to. `p_value` (two-sided, of the absolute lift) is null where nothing varies.
    """
    new, old = treatment.value, control.value
    new_error, old_error = treatment.standard_error, control.standard_error
    error = math.hypot(new_error, old_error)
    relative = None
    if old > 0:
        # Delta method for new / old (Deng et al. 2018, percent changes).
        relative_error = math.hypot(new_error / old, new * old_error / old**2)
        relative = interval(new / old - 1, relative_error)
    return {
        "absolute": interval(new - old, error),
        "relative": relative,
        "standard_error": error,
        "p_value": two_sided_p((new - old) / error) if error else None,
    }


def two_sided_p(z: float) -> float:
    """Probability of a standard normal value at least as far from 0 as `z`."""
    return math.erfc(abs(z) / math.sqrt(2))


def power(effect: float, error: float, alpha: float = ALPHA) -> float:
    """Probability that a two-sided test finds a true absolute `effect`, given the standard
    error of the difference."""
    critical, z = _NORMAL.inv_cdf(1 - alpha / 2), effect / error
    return _NORMAL.cdf(z - critical) + _NORMAL.cdf(-z - critical)


def minimal_effect(error: float, target_power: float = 0.8, alpha: float = ALPHA) -> float:
    """The smallest absolute effect that a two-sided test finds with `target_power`."""
    return (_NORMAL.inv_cdf(1 - alpha / 2) + _NORMAL.inv_cdf(target_power)) * error


def holm(p_values: Mapping[Any, float]) -> dict[Any, float]:
    """p-values adjusted for their number (Holm 1979): comparing them to alpha keeps the chance
    of any false finding among them below alpha."""
    adjusted, highest = {}, 0.0
    for place, name in enumerate(sorted(p_values, key=lambda name: p_values[name])):
        highest = max(highest, min(1.0, (len(p_values) - place) * p_values[name]))
        adjusted[name] = highest
    return adjusted


def sample_ratio(num_treatment: int, num_control: int, expected_share: float) -> dict[str, Any]:
    """Were the users split as planned? Chi-square test with one degree of freedom.

    `expected_share`: of the treatment. A mismatch at 0.001 means that users were lost or
    doubled in a way that depends on the variant, and no other figure can be trusted (Fabijan
    et al. 2019, "Diagnosing Sample Ratio Mismatch in Online Controlled Experiments").
    """
    num_users = num_treatment + num_control
    expected = expected_share * num_users
    chi_square = (num_treatment - expected) ** 2 / (expected * (1 - expected_share))
    p_value = two_sided_p(math.sqrt(chi_square))  # chi-square with one degree is a squared normal
    return {
        "expected_treatment_share": expected_share,
        "treatment_share": num_treatment / num_users,
        "chi_square": chi_square,
        "p_value": p_value,
        "mismatch": p_value < SAMPLE_RATIO_ALPHA,
    }
