"""The gate: what may go out, and reasons that a person can read."""

from __future__ import annotations

from typing import Any

import pytest

from llmaug import gate
from llmaug.config import EvaluateConfig, GateConfig


def figures(
    low: float = 0.05, high: float = 0.15, segments: list[dict[str, Any]] | None = None
) -> dict[str, Any]:
    """What `evaluate.compare` returns, with a lift of 10%."""
    lift = {"relative": 0.1, "low": low, "high": high, "against": "real"}
    arms: dict[str, Any] = {"real": {}, "augmented": {}}
    return {
        "num_users": 500,
        "arms": arms,
        "lift": {"ndcg@10": lift},
        "segments": segments or [],
    }


def segment(high: float, num_users: int = 100, arm: str = "augmented") -> dict[str, Any]:
    change = {"mean": high - 0.01, "low": high - 0.02, "high": high}
    return {"segment": "history <=3", "arm": arm, "num_users": num_users, "difference": change}


def decide(found: dict[str, Any], **config: float) -> dict[str, Any]:
    return gate.decide(found, GateConfig.model_validate(config), EvaluateConfig())


def test_a_clear_lift_passes() -> None:
    decision = decide(figures(segments=[segment(high=0.03)]))
    assert decision == {
        "passed": True,
        "arm": "augmented",
        "reasons": [
            "lift of ndcg@10 is +10.0%, interval +5.0% to +15.0%",
            "no segment is significantly worse",
        ],
    }


@pytest.mark.parametrize(("low", "min_lift"), [(-0.01, 0.0), (0.0, 0.0), (0.05, 0.08)])
def test_a_lift_that_may_be_chance_is_refused_and_the_real_arm_goes_out(
    low: float, min_lift: float
) -> None:
    decision = decide(figures(low=low), min_lift=min_lift)
    assert (decision["passed"], decision["arm"]) == (False, "real")
    assert decision["reasons"] == [
        f"lift of ndcg@10 is +10.0%, interval {low:+.1%} to +15.0%: its lower end must be above "
        f"{min_lift:+.1%}"
    ]


def test_a_segment_that_is_significantly_worse_is_refused() -> None:
    decision = decide(figures(segments=[segment(high=-0.01)]))
    assert (decision["passed"], decision["arm"]) == (False, "real")
    assert decision["reasons"] == [
        "segment history <=3 (100 users) is worse: ndcg@10 -0.0200, interval -0.0300 to -0.0100"
    ]


def test_a_small_loss_can_be_allowed() -> None:
    assert decide(figures(segments=[segment(high=-0.01)]), max_segment_loss=0.02)["passed"]


@pytest.mark.parametrize(
    "harmless",
    [
        segment(high=0.001),  # may be chance
        segment(high=-0.01, num_users=29),  # too small to decide
        segment(high=-0.01, arm="duplicate"),  # not the arm in question
    ],
)
def test_segments_that_do_not_decide(harmless: dict[str, Any]) -> None:
    assert decide(figures(segments=[harmless]))["passed"]


def test_all_objections_are_told() -> None:
    assert len(decide(figures(low=-0.1, segments=[segment(high=-0.01)]))["reasons"]) == 2


def test_without_held_out_users_nothing_is_claimed() -> None:
    decision = decide({**figures(), "num_users": 0, "lift": {}})
    assert (decision["passed"], decision["arm"]) == (False, "real")
    assert decision["reasons"] == ["no held-out user with a history: a lift cannot be shown"]


def test_a_real_arm_without_hits_gives_no_lift() -> None:
    found = figures()
    found["lift"]["ndcg@10"] = {"relative": None, "low": None, "high": None, "against": "real"}
    assert decide(found)["reasons"] == ["the real arm has ndcg@10 0: no lift can be computed"]


def test_nothing_generated_is_nothing_to_decide() -> None:
    decision = decide({**figures(), "arms": {"real": {}}})
    assert (decision["passed"], decision["arm"]) == (False, "real")
    assert decision["reasons"] == ["nothing was generated: plan is empty"]
