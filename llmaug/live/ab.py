"""A live A/B test: which variant serves users better, and may one believe it?

exposures, feedback -- experiment (sums of each user) -- sample ratio
                                                      -- ratios, lift, Holm, power
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from llmaug.errors import UserError
from llmaug.evaluate.significance import (
    ALPHA,
    SAMPLE_RATIO_ALPHA,
    Ratio,
    holm,
    interval,
    lift,
    minimal_effect,
    power,
    ratio,
    sample_ratio,
)
from llmaug.live.experiment import Experiment, user_sums

if TYPE_CHECKING:
    import pandas as pd

FEW_USERS = 30
# metric: (numerator, denominator), columns of UserSums.users
METRICS = {
    "click_through_rate": ("clicked_exposures", "exposures"),
    "conversion_rate": ("converted", "users"),
    "satisfaction": ("score_sum", "scores"),
}


def analyse(logs: Iterable[tuple[pa.Table, pa.Table]], experiment: Experiment) -> dict[str, Any]:
    """All figures of the test, for the metrics that `experiment` names actions for.

    logs: as `user_sums` takes them. click_through_rate: exposures with a click / exposures;
    conversion_rate: users who converted / users; satisfaction: mean of all scores. Intervals
    are 95%, each for itself; `p_adjusted` is Holm's over the metrics and decides `significant`.
    `minimal_detectable`: the absolute (and relative) lift that so many users show with a power
    of 80%. `trusted` is false when the sample ratio is wrong; then nothing is significant.
    Raises UserError when the logs do not hold the experiment.
    """
    sums = user_sums(logs, experiment)
    pair = (experiment.control, sums.treatment)
    control, treatment = (sums.users[sums.users["variant"] == variant] for variant in pair)
    for variant, side in zip(pair, (control, treatment), strict=True):
        if len(side) < 2:
            raise UserError(f"variant '{variant}' has {len(side)} users who saw no other one")
    split = sample_ratio(len(treatment), len(control), experiment.treatment_share)
    trusted, warnings = not split["mismatch"], []
    if not trusted:
        warnings.append(
            f"sample ratio mismatch: {split['treatment_share']:.2%} of the users are in "
            f"'{sums.treatment}', planned {experiment.treatment_share:.2%} (p = "
            f"{split['p_value']:.1e}); find the missing users before you believe a figure"
        )
    if sums.num_quarantined:
        warnings.append(f"{sums.num_quarantined:,} users saw several variants: left out")
    metrics: dict[str, Any] = {}
    for name in _wanted(experiment):
        found, notes = _compare(name, treatment, control, experiment)
        metrics |= {name: found} if found else {}
        warnings += notes
    adjusted = holm({name: m["p_value"] for name, m in metrics.items() if m["p_value"] is not None})
    for name, metric in metrics.items():
        metric["p_adjusted"] = adjusted.get(name)
        metric["significant"] = trusted and adjusted.get(name, 1.0) < ALPHA
    return {
        "control": experiment.control,
        "treatment": sums.treatment,
        "trusted": trusted,
        "warnings": warnings,
        "sample_ratio": split,
        "quarantined_users": sums.num_quarantined,
        "ledger": {"exposures": sums.exposures, "feedback": sums.feedback},
        "variants": {
            variant: _figures(side, experiment)
            for variant, side in zip(pair, (control, treatment), strict=True)
        },
        "metrics": metrics,
    }


def _wanted(experiment: Experiment) -> list[str]:
    actions = (experiment.clicks, experiment.conversions, experiment.scores)
    return [name for name, named in zip(METRICS, actions, strict=True) if named]


def _compare(
    name: str, treatment: pd.DataFrame, control: pd.DataFrame, experiment: Experiment
) -> tuple[dict[str, Any] | None, list[str]]:
    """The lift of one metric (None when a side has nothing to divide by), and warnings."""
    numerator, denominator = METRICS[name]
    if not (treatment[denominator].any() and control[denominator].any()):
        return None, [f"{name}: a variant has no {denominator}; nothing to compare"]
    new, old = (_ratio(side, name) for side in (treatment, control))
    found = lift(new, old)
    error = found.pop("standard_error")
    smallest = minimal_effect(error)
    planned = experiment.expected_lift if old.value > 0 and error else None
    found["minimal_detectable"] = {
        "absolute": smallest,
        "relative": smallest / old.value if old.value > 0 else None,
    }
    found["power"] = None if planned is None else power(planned * old.value, error)
    warnings = []
    if found["p_value"] is None:
        warnings.append(f"{name}: no user differs from another within the variants; no test")
    fewest = min(int((side[numerator] != 0).sum()) for side in (treatment, control))
    if fewest < FEW_USERS:
        warnings.append(
            f"{name}: only {fewest} users of a variant have any {numerator}: intervals and "
            "p-values, which take sums as normal, are rough"
        )
    shares = [ratio(side[denominator].to_numpy(), side["users"].to_numpy()) for side in
              (treatment, control)]  # fmt: skip
    uneven = lift(*shares)["p_value"]
    if uneven is not None and uneven < SAMPLE_RATIO_ALPHA:
        warnings.append(
            f"{name}: {denominator} per user differ ({shares[0].value:.3g} in the treatment, "
            f"{shares[1].value:.3g} in the control): the metric compares different situations"
        )
    return found, warnings


def _ratio(side: pd.DataFrame, name: str) -> Ratio:
    numerator, denominator = METRICS[name]
    return ratio(side[numerator].to_numpy(float), side[denominator].to_numpy(float))


def _figures(side: pd.DataFrame, experiment: Experiment) -> dict[str, Any]:
    """One variant: sizes, and each metric with its interval (null without a denominator)."""
    figures: dict[str, Any] = {"users": len(side), "exposures": int(side["exposures"].sum())}
    for name in _wanted(experiment):
        figures[name] = None
        if side[METRICS[name][1]].any():
            found = _ratio(side, name)
            figures[name] = interval(found.value, found.standard_error)
    if experiment.scores:
        figures["users_with_score"] = int((side["scores"] > 0).sum())
    return figures
