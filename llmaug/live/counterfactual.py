"""What a new policy would have earned, from the log of an old one that drew at random.

The log says what was shown, with what probability (the propensity), and the reward. Each row
is weighted by new probability / propensity:

    ips     mean of weight * reward: unbiased when the propensities are right
    snips   the same / mean weight: a little bias, less variance (Swaminathan and Joachims 2015)
    direct  what a reward model predicts for the new policy: as right as the model
    dr      direct + mean of weight * (reward - prediction): right when either is (Dudik,
            Langford and Li 2011)

A logging policy that always shows the same cannot be used: nothing tells what else would do.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa

from llmaug.errors import UserError
from llmaug.evaluate.significance import Ratio, interval, ratio, standard_error
from llmaug.schema import LOGGED_CHOICE, validate

Policy = Callable[[list[str], list[str]], np.ndarray]
"""(user ids, item ids) of the rows to the new policy's probability of showing them (rows,)."""

WEIGHT_ALPHA = 0.001
MIN_EFFECTIVE_ROWS = 100
MIN_EFFECTIVE_SHARE = 0.01


def estimate(
    log: pa.Table, policy: Policy | None = None, clip: float | None = None
) -> dict[str, Any]:
    """Mean reward of a shown item under the new policy, against what was logged.

    log: schema LOGGED_CHOICE, a row for each item shown; `new_probability` may be left out when
    `policy` gives it. With `predicted_reward` and `expected_reward` (of a model that was NOT
    trained on these rows) there are `direct` and `dr`, too. `clip`: largest weight (Ionides
    2008); less variance, and a bias towards 0 (ips), the common rows (snips) or the model (dr).
    Returns {"num_rows", "num_users", "logged": {value, low, high}, "estimates": {name: {value,
    low, high, "lift": {value, low, high, relative}}}, "weights": {...}, "warnings": [...]}.
    Intervals are 95%, normal, with users as the independent units; `weights` are before
    clipping but for `effective_rows` (Kish: (sum w)^2 / sum w^2), which is what is used.
    Raises UserError for probabilities that cannot be.
    """
    log = validate(log, LOGGED_CHOICE, "log")
    if policy is not None:
        chosen = policy(log["user_id"].to_pylist(), log["item_id"].to_pylist())
        at = log.column_names.index("new_probability")
        log = log.set_column(at, LOGGED_CHOICE.field(at), pa.array(chosen, pa.float32()))
    _check(log, clip)
    weights = _numbers(log, "new_probability") / _numbers(log, "propensity")
    used = np.minimum(weights, clip) if clip is not None else weights
    if not used.any():
        raise UserError("new_probability is 0 in every row: the new policy shows nothing of this")
    users, user = np.unique(log["user_id"].to_numpy(zero_copy_only=False), return_inverse=True)
    if len(users) < 2:
        raise UserError(f"{len(users)} users in the log: intervals need two at least")

    def over_users(numerators: np.ndarray, denominators: np.ndarray | None = None) -> Ratio:
        sizes = np.ones(log.num_rows) if denominators is None else denominators
        return ratio(np.bincount(user, numerators), np.bincount(user, sizes))

    rewards = _numbers(log, "reward")
    logged = over_users(rewards)
    found = {"ips": over_users(used * rewards), "snips": over_users(used * rewards, used)}
    if log["predicted_reward"].null_count < log.num_rows:
        predicted, expected = (_numbers(log, f"{name}_reward") for name in
                               ("predicted", "expected"))  # fmt: skip
        found["direct"] = over_users(expected)
        found["dr"] = over_users(expected + used * (rewards - predicted))
    facts = _weight_facts(weights, used, over_users(weights))
    return {
        "num_rows": log.num_rows,
        "num_users": len(users),
        "logged": interval(logged.value, logged.standard_error),
        "estimates": {
            name: interval(new.value, new.standard_error) | {"lift": _lift(new, logged)}
            for name, new in found.items()
        },
        "weights": facts,
        "warnings": _warnings(facts, log.num_rows),
    }


def _lift(new: Ratio, logged: Ratio) -> dict[str, Any]:
    """Of the same rows, so the difference is taken user by user."""
    found = interval(new.value - logged.value, standard_error(new.influence - logged.influence))
    relative = new.value / logged.value - 1 if logged.value > 0 else None
    return found | {"relative": relative}


def _check(log: pa.Table, clip: float | None) -> None:
    if not log.num_rows:
        raise UserError("no row of the log can be used")
    if clip is not None and not clip > 0:
        raise UserError(f"clip {clip} is not above 0")
    for name in ("new_probability", "predicted_reward", "expected_reward"):
        nulls = log[name].null_count
        if nulls == log.num_rows and name != "new_probability":
            continue
        if nulls:
            raise UserError(f"{name} is missing in {nulls:,} of {log.num_rows:,} rows; fill it in")
    predicted, expected = (
        log[name].null_count == 0 for name in ("predicted_reward", "expected_reward")
    )
    if predicted != expected:
        raise UserError("predicted_reward and expected_reward go together: both or neither")
    new, old = _numbers(log, "new_probability"), _numbers(log, "propensity")
    for name, wrong, where in (
        ("propensity", ~((old > 0) & (old <= 1)), "(0, 1]: what was shown had a chance to be"),
        ("new_probability", ~((new >= 0) & (new <= 1)), "[0, 1]"),
    ):
        if wrong.any():
            first = int(wrong.argmax())
            value = log[name][first].as_py()
            raise UserError(
                f"{name} is outside {where}; {int(wrong.sum()):,} of {log.num_rows:,} rows, the "
                f"first is {value} for user '{log['user_id'][first]}', item "
                f"'{log['item_id'][first]}'"
            )


def _weight_facts(weights: np.ndarray, used: np.ndarray, mean: Ratio) -> dict[str, Any]:
    around = interval(mean.value, mean.standard_error, WEIGHT_ALPHA)
    effective = float(used.sum() ** 2 / (used**2).sum())
    return {
        "mean": around["value"],
        "mean_low": around["low"],
        "mean_high": around["high"],
        "max": float(weights.max()),
        "clipped_rows": int((used < weights).sum()),
        "clipped_share": float(1 - used.sum() / weights.sum()),
        "effective_rows": effective,
    }


def _warnings(facts: dict[str, Any], num_rows: int) -> list[str]:
    warnings = []
    # Under the old policy a weight is 1 in the mean: a control variate whose truth is known.
    if not facts["mean_low"] <= 1 <= facts["mean_high"]:
        warnings.append(
            f"the mean weight is {facts['mean']:.3f} (99.9% interval {facts['mean_low']:.3f} to "
            f"{facts['mean_high']:.3f}) and not 1: propensities are wrong, or the new policy "
            "shows items that the old one never did"
        )
    effective = facts["effective_rows"]
    if effective < max(MIN_EFFECTIVE_ROWS, MIN_EFFECTIVE_SHARE * num_rows):
        warnings.append(
            f"{num_rows:,} rows are worth {effective:,.0f} (effective sample size): the policies "
            "are too far apart, and the intervals too narrow to believe"
        )
    if facts["clipped_rows"]:
        warnings.append(
            f"clipping took {facts['clipped_share']:.1%} of the weight, in "
            f"{facts['clipped_rows']:,} rows: ips is biased towards 0 by up to that"
        )
    return warnings


def _numbers(log: pa.Table, name: str) -> np.ndarray:
    return log[name].to_numpy().astype(float)
