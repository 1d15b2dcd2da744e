"""May the model of the arm in question (`gate.arm`) go out? Decided from the table
alone, with reasons.

When it may not, the model of the `real` arm is published in its place: a night never ends
without a fresh model.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import Any

from llmaug.arms.arms import CONTROLS, REAL, REAL_ALONE, SHARDS
from llmaug.config import EvaluateConfig, FidelityLimits, GateConfig
from llmaug.core.stage import Context, Stage
from llmaug.evaluate.bootstrap import lift_text
from llmaug.evaluate.figures import (
    Decision,
    identifying_text,
    measured_value,
    membership_text,
)
from llmaug.evaluate.significance import holm


def decide(
    figures: dict[str, Any],
    gate: GateConfig,
    evaluate: EvaluateConfig,
    audit: dict[str, Any] | None = None,
    fidelity: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """figures: what `comparison.figures` returns; audit: what stage `privacy` found, fidelity: what
    stage `fidelity` did; None where these did not look at the events of the arm in question.

    Returns {passed, candidate, arm, reasons, segments: [{segment, p, adjusted_p}]}.
    """
    if gate.arm not in figures["arms"]:
        return _refused(
            gate,
            f"no arm `{gate.arm}` was trained: plan.strategies is empty, or train.arms leaves it "
            "out",
        )
    if not figures["num_users"]:
        return _refused(gate, "no held-out user with a history: a lift cannot be shown")
    metric = f"ndcg@{evaluate.cutoffs[0]}"
    against: tuple[str, ...] = tuple(gate.against or (REAL, CONTROLS[gate.arm]))
    lifts = [
        entry
        for entry in figures["lifts"]
        if (entry["arm"], entry["metric"]) == (gate.arm, metric) and entry["against"] in against
    ]
    # The control may be left out of train.arms; what the config names, and `real`, may not.
    named, measured = gate.against or (REAL,), {lift["against"] for lift in lifts}
    objections = [
        f"arm `{arm}`, which is to be beaten, was not trained: plan.strategies is empty, or "
        "train.arms leaves it out"
        for arm in named
        if arm not in measured
    ]
    objections += [reason for lift in lifts for reason in _objections(lift, gate)]
    if figures["num_users"] < gate.min_users:
        objections.append(
            f"held-out users: only {figures['num_users']}, too few to decide (gate.min_users is "
            f"{gate.min_users})"
        )
    segments = worse_segments(figures["segments"], gate)
    worse = [entry for entry in segments if entry["adjusted_p"] < gate.segment_alpha]
    for entry in worse:
        change = entry["difference"]
        objections.append(
            f"segment {entry['segment']} ({entry['num_users']} users) is worse: {metric} "
            f"{change['mean']:+.4f}, interval {change['low']:+.4f} to {change['high']:+.4f}, "
            f"p {entry['adjusted_p']:.3f} for {len(segments)} segments (Holm)"
        )
    if audit and audit["identifying_share"] > gate.max_identifying_share:
        objections.append(
            f"privacy: {identifying_text(audit)}; at most {gate.max_identifying_share:.2%} may"
        )
    has_synthetic = SHARDS[gate.arm] not in REAL_ALONE
    if has_synthetic:
        objections += membership_objections(audit, gate)
        objections += unlike(fidelity, gate.fidelity)
    tested = [{name: e[name] for name in ("segment", "p", "adjusted_p")} for e in segments]
    if objections:
        return {**_refused(gate, *objections), "segments": tested}
    shown = [_shown(lift) for lift in lifts]
    reasons = [*shown, f"none of {len(segments)} segments is significantly worse"]
    if audit:
        reasons.append(f"privacy: {identifying_text(audit)}")
    elif has_synthetic:
        reasons.append(f"privacy: the synthetic events of arm {gate.arm} were not audited")
    decided = {"passed": True, "candidate": gate.arm, "arm": gate.arm}
    return {**decided, "reasons": reasons, "segments": tested}


def unlike(fidelity: dict[str, Any] | None, limits: FidelityLimits) -> list[str]:
    """In words, the limits that the synthetic events break."""
    found: list[str] = []
    for field, limit in limits.model_dump(exclude_none=True).items():
        side, name = field.split("_", 1)
        value = measured_value(fidelity, name)
        limited = f"gate.fidelity.{field} is {limit:g}"
        if value is None:
            found.append(f"fidelity: {name} was not measured, and {limited}")
        elif value > limit if side == "max" else value < limit:
            found.append(f"fidelity: {name} is {value:.3f}, and {limited}")
    return found


def _objections(lift: dict[str, Any], gate: GateConfig) -> list[str]:
    if lift["relative"] is None:
        return [f"arm {lift['against']} has {lift['metric']} 0: no lift can be computed"]
    if lift["low"] <= gate.min_lift:
        return [f"{_shown(lift)}; its lower end must be above {gate.min_lift:+.1%}"]
    return []


def membership_objections(audit: dict[str, Any] | None, gate: GateConfig) -> list[str]:
    """Why the synthetic events give their users away, where a limit is set and there are any."""
    limit = gate.max_membership_auc
    if limit is None or (audit and not audit["synthetic"]):
        return []
    found = audit and audit.get("membership")
    if found is None:
        return [
            "privacy: whether members can be told was not measured, and gate.max_membership_auc is "
            "set: it takes events of plan.strategies, split.kind temporal and 20 held-out users "
            "without training events"
        ]
    if found["low"] > limit:
        return [f"privacy: {membership_text(found)}; its lower end may be {limit:.3f} at most"]
    return []


def _shown(lift: dict[str, Any]) -> str:
    return f"lift of {lift['metric']} over {lift['against']}: {lift_text(lift)}"


def _refused(gate: GateConfig, *reasons: str) -> dict[str, Any]:
    decided = {"passed": False, "candidate": gate.arm, "arm": REAL}
    return {**decided, "reasons": list(reasons), "segments": []}


def worse_segments(segments: Sequence[dict[str, Any]], gate: GateConfig) -> list[dict[str, Any]]:
    """The segments that decide, with `p` and `adjusted_p` added.

    p: chance of so low a difference to `real` (or a lower one) if the arm were
    worse there by exactly `gate.max_segment_loss`; normal, with the bootstrap's standard
    error. One-sided: a better segment is no objection.
    """
    found = []
    for entry in segments:
        if entry["arm"] != gate.arm or entry["num_users"] < gate.min_segment_users:
            continue
        change = entry["difference"]
        above = change["mean"] + gate.max_segment_loss
        # Without any spread there is no doubt either.
        z = above / change["error"] if change["error"] else math.copysign(math.inf, above)
        found.append({**entry, "p": 0.5 * math.erfc(-z / math.sqrt(2))})
    adjusted = holm({number: entry["p"] for number, entry in enumerate(found)})
    return [{**entry, "adjusted_p": adjusted[number]} for number, entry in enumerate(found)]


def run(audited: bool, context: Context) -> dict[str, Any]:
    config = context.config
    figures = context.manifest("evaluation")["counts"]
    audit = context.manifest("privacy")["counts"] if audited else None
    fidelity = context.manifest("fidelity")["counts"]["found"] if audited else None
    decision = decide(figures, config.gate, config.evaluate, audit, fidelity)
    verdict, style = ("passed", "green") if decision["passed"] else ("not passed", "yellow")
    context.progress.note(f"gate {verdict}: publishing arm {decision['arm']}", style)
    for reason in decision["reasons"]:
        context.progress.note(f"- {reason}")
    return Decision.keeps(decision)


def stage(audited: bool) -> Stage:
    """audited: whether the arm in question learns from the events that stages `privacy` and
    `fidelity` look at."""
    return Stage(
        name="gate",
        run=partial(run, audited),
        inputs=("evaluation", *(["privacy", "fidelity"] if audited else [])),
        settings=lambda config: [config.gate, config.evaluate.cutoffs],
    )
