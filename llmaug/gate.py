"""May the augmented model go out? Decided from the table alone, with reasons.

When it may not, the model of the `real` arm is published in its place: a night never ends
without a fresh model.
"""

from __future__ import annotations

from typing import Any

from llmaug.config import EvaluateConfig, GateConfig
from llmaug.merge import AUGMENTED_ARM, REAL_ARM
from llmaug.stage import Context, Stage


def decide(figures: dict[str, Any], gate: GateConfig, evaluate: EvaluateConfig) -> dict[str, Any]:
    """figures: what `evaluate.compare` returns. Returns {passed, arm, reasons}."""
    if AUGMENTED_ARM not in figures["arms"]:
        return {
            "passed": False,
            "arm": REAL_ARM,
            "reasons": ["nothing was generated: plan is empty"],
        }
    if not figures["num_users"]:
        reason = "no held-out user with a history: a lift cannot be shown"
        return {"passed": False, "arm": REAL_ARM, "reasons": [reason]}
    metric = f"ndcg@{evaluate.cutoffs[0]}"
    lift = figures["lift"][metric]
    objections = []
    if lift["relative"] is None:
        objections.append(f"the real arm has {metric} 0: no lift can be computed")
    elif lift["low"] <= gate.min_lift:
        objections.append(
            f"lift of {metric} is {lift['relative']:+.1%}, interval {lift['low']:+.1%} to "
            f"{lift['high']:+.1%}: its lower end must be above {gate.min_lift:+.1%}"
        )
    for entry in figures["segments"]:
        worse = entry.get("difference")
        if entry["arm"] != AUGMENTED_ARM or entry["num_users"] < gate.min_segment_users:
            continue
        if worse and worse["high"] < -gate.max_segment_loss:
            objections.append(
                f"segment {entry['segment']} ({entry['num_users']} users) is worse: {metric} "
                f"{worse['mean']:+.4f}, interval {worse['low']:+.4f} to {worse['high']:+.4f}"
            )
    if objections:
        return {"passed": False, "arm": REAL_ARM, "reasons": objections}
    interval = f"{lift['low']:+.1%} to {lift['high']:+.1%}"
    shown = f"lift of {metric} is {lift['relative']:+.1%}, interval {interval}"
    return {
        "passed": True,
        "arm": AUGMENTED_ARM,
        "reasons": [shown, "no segment is significantly worse"],
    }


def run(context: Context) -> dict[str, Any]:
    config = context.config
    figures = context.manifest("evaluation")["counts"]
    decision = decide(figures, config.gate, config.evaluate)
    verdict = "[green]passed[/green]" if decision["passed"] else "[yellow]not passed[/yellow]"
    context.progress.note(f"gate {verdict}: publishing arm {decision['arm']}")
    for reason in decision["reasons"]:
        context.progress.note(f"- {reason}")
    return decision


STAGE = Stage(
    name="gate",
    run=run,
    inputs=("evaluation",),
    settings=lambda config: [config.gate, config.evaluate.cutoffs],
)
