"""The gate: what may go out, and reasons that a person can read."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from llmaug.config import EvaluateConfig, GateConfig, parse_config
from llmaug.evaluate import gate
from llmaug.pipeline import stages
from tests.evaluate.test_comparison import compare, ranks


def lift(low: float = 0.05, high: float = 0.15, against: str = "real") -> dict[str, Any]:
    """A lift of 10% of the augmented arm."""
    return {"arm": "augmented", "against": against, "metric": "ndcg@10", "relative": 0.1,
            "low": low, "high": high}  # fmt: skip


def figures(
    *lifts: dict[str, Any], segments: list[dict[str, Any]] | None = None, **more: Any
) -> dict[str, Any]:
    """What `comparison.figures` returns."""
    found = list(lifts or [lift()])
    arms: dict[str, Any] = {"augmented": {}, **{entry["against"]: {} for entry in found}}
    return {"num_users": 500, "arms": arms, "lifts": found, "segments": segments or [], **more}


def segment(
    mean: float, error: float = 0.01, num_users: int = 100, arm: str = "augmented", name: str = "s"
) -> dict[str, Any]:
    change = {"mean": mean, "low": mean - 2 * error, "high": mean + 2 * error, "error": error}
    return {"segment": name, "arm": arm, "num_users": num_users, "difference": change}


def decide(found: dict[str, Any], **config: Any) -> dict[str, Any]:
    return gate.decide(found, GateConfig.model_validate(config), EvaluateConfig())


def test_a_clear_lift_passes() -> None:
    decision = decide(figures(segments=[segment(0.03)]))
    assert (decision["passed"], decision["arm"]) == (True, "augmented")
    assert decision["reasons"][:2] == [
        "lift of ndcg@10 over real: +10.0% (+5.0% to +15.0%)",
        "none of 1 segments is significantly worse",
    ]


@pytest.mark.parametrize(("low", "min_lift"), [(-0.01, 0.0), (0.0, 0.0), (0.05, 0.08)])
def test_a_lift_that_may_be_chance_is_refused_and_the_real_arm_goes_out(
    low: float, min_lift: float
) -> None:
    decision = decide(figures(lift(low=low)), min_lift=min_lift)
    assert (decision["passed"], decision["arm"]) == (False, "real")
    assert decision["reasons"] == [
        f"lift of ndcg@10 over real: +10.0% ({low:+.1%} to +15.0%); its lower end must be above "
        f"{min_lift:+.1%}"
    ]


# -- the control -------------------------------------------------------------------------------


def test_a_lift_that_repeating_real_events_gives_as_well_is_refused() -> None:
    decision = decide(figures(lift(), lift(low=-0.02, against="oversampled")))
    assert not decision["passed"]
    assert decision["reasons"] == [
        "lift of ndcg@10 over oversampled: +10.0% (-2.0% to +15.0%); its lower end must be above "
        "+0.0%"
    ]


def test_beating_the_control_alone_is_not_enough() -> None:
    """`real` is what would go out instead."""
    assert not decide(figures(lift(low=-0.02), lift(against="oversampled")))["passed"]
    assert decide(figures(lift(), lift(against="oversampled")))["passed"]


def test_the_config_may_name_the_arms_to_beat() -> None:
    found = figures(lift(), lift(low=-0.02, against="oversampled"), lift(-0.03, against="fusion"))
    assert decide(found, against=["real"])["passed"]
    assert len(decide(found, against=["real", "oversampled", "fusion"])["reasons"]) == 2


@pytest.mark.parametrize("against", [["augmented"], ["real", "augmented"]])
def test_a_rival_that_the_config_names_and_nobody_trained_is_not_beaten(against: list[str]) -> None:
    """Without plan.strategies the arm `augmented` falls away, whatever train.arms says."""
    found = figures(lift() | {"arm": "fusion"}, arms={"real": {}, "fusion": {}})
    assert decide(found, arm="fusion")["passed"]
    assert decide(found, arm="fusion", against=against)["reasons"] == [
        "arm `augmented`, which is to be beaten, was not trained: plan.strategies is empty, or "
        "train.arms leaves it out"
    ]


def test_other_arms_and_metrics_do_not_decide() -> None:
    others = [
        {**lift(low=-0.5), "arm": "fusion"},
        {**lift(low=-0.5), "metric": "hr@10"},
        lift(low=-0.5, against="fusion"),
    ]
    assert decide(figures(lift(), *others))["passed"]


# -- the audits --------------------------------------------------------------------------------


def passing(arm: str, **config: Any) -> dict[str, Any]:
    return decide(figures(lift() | {"arm": arm}, arms={"real": {}, arm: {}}), arm=arm, **config)


@pytest.mark.parametrize("arm", ["ngram", "reviewed", "warmed"])
def test_events_that_no_audit_looks_at_pass_and_are_told(arm: str) -> None:
    decision = passing(arm)
    assert decision["passed"]
    assert decision["reasons"][-1] == f"privacy: the synthetic events of arm {arm} were not audited"
    # A limit is kept, or nothing goes out.
    (why,) = passing(arm, max_membership_auc=0.6)["reasons"]
    assert "was not measured, and gate.max_membership_auc is set" in why
    (why,) = passing(arm, fidelity={"max_gap_ks": 0.5})["reasons"]
    assert "was not measured, and gate.fidelity.max_gap_ks" in why


@pytest.mark.parametrize("arm", ["fusion", "started"])
def test_limits_of_synthetic_events_are_nothing_to_an_arm_that_learns_from_none(arm: str) -> None:
    decision = passing(arm, max_membership_auc=0.6, fidelity={"max_gap_ks": 0.5})
    assert decision["passed"] and "privacy" not in " ".join(decision["reasons"])


@pytest.mark.parametrize(
    ("arm", "looked_at"),
    [("augmented", True), ("augmented_started", True), ("fusion", False), ("ngram", False)],
)
def test_the_audit_of_a_night_decides_on_an_arm_that_learned_from_those_events(
    arm: str, looked_at: bool
) -> None:
    """Each beside `augmented`, whose events are audited."""
    config = parse_config(
        {
            "plan": {"strategies": [{"kind": "new_users", "num_users": 10}]},
            "train": {"arms": ["real", "augmented", *({arm} - {"augmented"})]},
            "gate": {"arm": arm},
        },
        "night.yaml",
    )
    made = {stage.name: stage for _, stage in stages(config)}
    assert {"privacy", "fidelity"} <= set(made)
    assert made["gate"].inputs == ("evaluation", *(["privacy", "fidelity"] if looked_at else []))


# -- segments ----------------------------------------------------------------------------------


def test_a_segment_that_is_significantly_worse_is_refused() -> None:
    decision = decide(figures(segments=[segment(-0.03, name="history <=3")]))
    assert (decision["passed"], decision["arm"]) == (False, "real")
    assert decision["reasons"] == [
        "segment history <=3 (100 users) is worse: ndcg@10 -0.0300, interval -0.0500 to -0.0100, "
        "p 0.001 for 1 segments (Holm)"
    ]
    [tested] = decision["segments"]
    assert tested["p"] == pytest.approx(0.00135, rel=0.01)  # three standard errors, one side


def test_one_bad_segment_among_many_may_be_chance() -> None:
    """Two standard errors are p 0.023: clear for one segment, expected among seven."""
    bad, fine = segment(-0.02), [segment(0.0) for _ in range(6)]
    assert not decide(figures(segments=[bad]))["passed"]
    decision = decide(figures(segments=[bad, *fine]))
    assert decision["passed"]
    assert decision["segments"][0]["adjusted_p"] == pytest.approx(7 * 0.0228, rel=0.01)
    assert not decide(figures(segments=[segment(-0.03), *fine]))["passed"]


def test_a_small_loss_can_be_allowed() -> None:
    assert not decide(figures(segments=[segment(-0.03)]))["passed"]
    assert decide(figures(segments=[segment(-0.03)]), max_segment_loss=0.02)["passed"]


def test_a_loss_without_any_spread_leaves_no_doubt() -> None:
    assert not decide(figures(segments=[segment(-0.001, error=0.0)]))["passed"]
    assert decide(figures(segments=[segment(0.0, error=0.0)]))["passed"]


def test_random_segments_are_refused_as_seldom_as_the_config_says() -> None:
    """A model that is worse nowhere, 2,000 times: about one in twenty is refused."""
    rng = np.random.default_rng(0)
    refused = sum(
        not decide(figures(segments=[segment(m) for m in rng.normal(0, 0.01, 7)]))["passed"]
        for _ in range(2000)
    )
    assert 0.03 < refused / 2000 < 0.06


@pytest.mark.parametrize(
    "harmless",
    [
        segment(-0.015),  # may be chance
        segment(0.05),  # better
        segment(-0.05, num_users=29),  # too small to decide
        segment(-0.05, arm="duplicate"),  # not the arm in question
    ],
)
def test_segments_that_do_not_decide(harmless: dict[str, Any]) -> None:
    assert decide(figures(segments=[harmless]))["passed"]


def test_all_objections_are_told() -> None:
    found = figures(lift(low=-0.1), segments=[segment(-0.05)])
    assert len(decide(found)["reasons"]) == 2


def test_without_held_out_users_nothing_is_claimed() -> None:
    decision = decide(figures(num_users=0, lifts=[]))
    assert (decision["passed"], decision["arm"]) == (False, "real")
    assert decision["reasons"] == ["no held-out user with a history: a lift cannot be shown"]


def test_a_handful_of_held_out_users_cannot_show_a_lift() -> None:
    """All resamples of one user are that user: the interval is a point above zero, by chance."""
    found = compare(real=ranks([1]), augmented=ranks([0]))
    evaluate, asked = EvaluateConfig(cutoffs=[2]), GateConfig()
    assert found["lifts"][0]["low"] == found["lifts"][0]["high"] > 0
    assert gate.decide(found, asked, evaluate)["reasons"] == [
        "held-out users: only 1, too few to decide (gate.min_users is 30)"
    ]
    assert not decide(figures(num_users=29))["passed"]
    assert decide(figures(num_users=30))["passed"]
    assert decide(figures(num_users=5), min_users=5)["passed"]


def test_a_real_arm_without_hits_gives_no_lift() -> None:
    nothing = {**lift(), "relative": None, "low": None, "high": None}
    assert decide(figures(nothing))["reasons"] == [
        "arm real has ndcg@10 0: no lift can be computed"
    ]


def test_nothing_generated_is_nothing_to_decide() -> None:
    decision = decide(figures(arms={"real": {}}))
    assert (decision["passed"], decision["arm"]) == (False, "real")
    assert decision["reasons"] == [
        "no arm `augmented` was trained: plan.strategies is empty, or train.arms leaves it out"
    ]


def test_another_arm_may_be_in_question_and_its_own_control_is_to_be_beaten() -> None:
    over_real = lift() | {"arm": "started"}
    over_control = lift(low=-0.02, against="restarted") | {"arm": "started"}
    arms = {"real": {}, "restarted": {}, "started": {}}
    found = figures(over_real, over_control, arms=arms)
    decision = decide(found, arm="started")
    assert not decision["passed"] and decision["candidate"] == "started"
    assert "restarted" in decision["reasons"][0]
    better = figures(over_real, over_control | {"low": 0.01}, arms=arms)
    assert decide(better, arm="started")["arm"] == "started"
    assert "no arm `augmented` was trained" in decide(better)["reasons"][0]
