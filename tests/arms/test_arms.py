"""Which arms are trained on what, and what a run does for them."""

from __future__ import annotations

from typing import Any, get_args

import pytest

from llmaug import pipeline
from llmaug.arms.arms import ARMS, chosen, needed_shards
from llmaug.arms.baseline import baseline_config
from llmaug.config import (
    ArmName,
    Config,
    EaseConfig,
    LinearConfig,
    PopularityConfig,
    parse_config,
)
from llmaug.errors import UserError
from llmaug.recommenders import train

GENERATED = {"strategies": [{"kind": "new_users", "num_users": 10}]}


def config_of(*arms: str, plan: Any = None, **sections: Any) -> Config:
    train_section = {**sections.pop("train", {}), "arms": list(arms)}
    return parse_config({"train": train_section, "plan": plan or GENERATED, **sections})


def stage_names(config: Config) -> list[str]:
    return [stage.name for _, stage in pipeline.stages(config)]


def test_every_arm_that_a_config_may_name_is_in_the_table() -> None:
    assert {arm.name for arm in ARMS} == set(get_args(ArmName))


def test_real_and_augmented_are_compared_unless_the_config_says_more() -> None:
    assert [arm.name for arm in chosen(parse_config({"plan": GENERATED}))] == ["real", "augmented"]


def test_without_generation_the_arms_that_need_it_fall_away() -> None:
    config = config_of("real", "oversampled", "duplicate", "fusion", "augmented",
                       plan={"strategies": []})  # fmt: skip
    assert [arm.name for arm in chosen(config)] == ["real", "duplicate", "fusion"]
    assert "outcomes" not in stage_names(config)


def test_the_control_needs_the_augmented_shards_even_when_nobody_trains_on_them() -> None:
    names = stage_names(config_of("real", "oversampled"))
    assert names.index("merged/augmented") < names.index("merged/oversampled")
    assert "outcomes" in names and "model/augmented" not in names


def test_nothing_is_generated_for_arms_that_do_not_need_it() -> None:
    names = stage_names(config_of("real", "duplicate", "fusion"))
    assert not {"lm/causal", "plan", "outcomes", "filtered", "merged/augmented"} & set(names)


def test_fusion_trains_on_the_shards_of_real() -> None:
    config = config_of("real", "fusion")
    assert needed_shards(chosen(config)) == ["real"]
    of = {arm.name: arm.train_config(config) for arm in chosen(config)}
    assert (of["real"].item_features, of["fusion"].item_features) == (False, True)
    # and differs in nothing else: above all not in its steps.
    assert of["fusion"].model_copy(update={"item_features": False}) == of["real"]


def test_started_trains_on_real_events_from_the_generators_vectors() -> None:
    config = config_of("real", "restarted", "started", plan={"strategies": []})
    of = {arm.name: arm for arm in chosen(config)}
    assert [arm.starts_from(config) for arm in of.values()] == [None, "real", "generator"]
    assert of["started"].control == "restarted" and of["started"].shards == "real"
    assert "lm/causal" in stage_names(config)  # is trained, although nothing is generated
    assert "outcomes" not in stage_names(config)
    assert "model/real" in train.stage(of["restarted"], config).inputs
    assert "lm/causal" in train.stage(of["started"], config).inputs
    assert "lm/causal" not in train.stage(of["real"], config).inputs


@pytest.mark.parametrize(
    ("sections", "told"),
    [
        ({"lm": {"model": "ngram"}, "plan": {"strategies": []}}, "ngram has no item vectors"),
        ({"train": {"model": "linear"}}, "linear has no start_from"),
        ({"train": {"start_from": "real"}}, "what the arm `restarted` does"),
    ],
)
def test_what_cannot_start_is_refused(sections: dict[str, Any], told: str) -> None:
    with pytest.raises(UserError, match=told):
        config_of("real", "started", **sections)


def test_one_more_arm_does_not_train_the_others_again() -> None:
    few, many = config_of("real", "augmented"), config_of("real", "fusion", "augmented")
    for arm in chosen(few):
        assert train.stage(arm, few).settings(few) == train.stage(arm, many).settings(many)


def test_yardsticks_are_other_models_on_real_events() -> None:
    yardsticks = {"popularity_days": 7, "ease_l2": 2.0}
    section = {"model": "linear", "seeds": [3, 4], "yardsticks": yardsticks}
    config = config_of("real", "popularity", "ease", train=section)
    assert {arm.name: (arm.shards, arm.train_config(config)) for arm in chosen(config)} == {
        "real": ("real", LinearConfig(seeds=[3, 4], arms=["real"])),
        "popularity": (
            "real", PopularityConfig(seeds=[3, 4], arms=["real"], popularity_days=7)
        ),
        "ease": ("real", EaseConfig(seeds=[3, 4], arms=["real"], ease_l2=2.0)),
    }  # fmt: skip


def test_options_of_the_yardsticks_train_no_other_arm_again() -> None:
    default = config_of("real", "ease")
    other = config_of("real", "ease", train={"yardsticks": {"ease_l2": 2.0}})
    again = {
        arm.name: train.stage(arm, default).settings(default)
        != train.stage(arm, other).settings(other)
        for arm in chosen(default)
    }
    assert again == {"real": False, "ease": True}


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"model": "two_tower", "loss": "mse"}, "train.loss: .*'sampled_softmax' or 'bpr'"),
        ({"arms": ["augmented"]}, "`real` is one of them"),
        ({"arms": ["real", "real"]}, "each arm once"),
        ({"arms": ["real", "everything"]}, "train.arms"),
        ({"arms": ["real", "fusion"], "model": "linear"}, "linear has no item_features"),
    ],
)
def test_arms_that_cannot_be(section: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        parse_config({"train": section})


@pytest.mark.parametrize("against", [["duplicate"], ["augmented"]])
def test_the_gate_compares_with_another_arm_that_is_trained(against: list[str]) -> None:
    with pytest.raises(UserError, match="gate.against"):
        config_of("real", "augmented", gate={"against": against})


@pytest.mark.parametrize(
    "sections",
    [
        {"train": {"start_from": "generator"}},
        {"merge": {"strategy_weights": {"infill": 0.5, "soft_events": 0.2}},
         "lm": {"directions": {"forward": 1, "infill": 1}},
         "plan": {"strategies": [
             *GENERATED["strategies"], {"kind": "infill"}, {"kind": "soft_events"}
         ]}},
        {"gate": {"arm": "started", "against": ["real", "augmented"]}},
    ],
    ids=["item vectors", "weights of strategies that counts do not know", "the gate"],
)  # fmt: skip
def test_counts_may_stand_beside_what_only_the_generator_can(sections: dict[str, Any]) -> None:
    arms = ("real", "ngram", "augmented", "started", "restarted", "augmented_started")
    config = config_of(*arms, **sections)
    assert {"ngram/lm/ngram", "model/started", "model/ngram"} <= set(stage_names(config))
    assert baseline_config(config).lm.model == "ngram"


def test_the_ngram_arm_is_asked_for_as_much_as_the_augmented_one() -> None:
    """Strategies that counts cannot do ask for as many events behind the same users' histories,
    and never twice for the same ones."""
    asked = [
        {"kind": "new_users", "num_users": 10, "num_events": 6},
        {"kind": "infill", "num_events": 2, "samples_per_user": 2},
        {"kind": "substitute", "num_events": 2},
        {"kind": "prefix", "num_events": 3, "max_history_len": 4},
        {"kind": "soft_events"},  # which are no events
    ]
    lm = {"directions": {"forward": 1, "reverse": 1, "infill": 1}}
    config = config_of("real", "ngram", plan={"strategies": asked}, lm=lm)
    baseline = baseline_config(config)
    assert (baseline.lm.model, baseline.lm.order) == ("ngram", 3)
    assert [
        (s.kind, s.num_events, getattr(s, "samples_per_user", None))
        for s in baseline.plan.strategies
    ] == [("new_users", 6, None), ("continue", 2, 3), ("continue", 3, 1)]
    assert baseline.plan.strategies[2].max_history_len == 4  # type: ignore[union-attr]

    names = stage_names(config)
    assert names.index("ngram/filtered") < names.index("merged/ngram") < names.index("model/ngram")
    assert "lm/causal" not in names, "nobody trains on what the other generator would write"
    both = stage_names(config_of("real", "ngram", "augmented"))
    assert {"plan", "ngram/plan", "filtered", "ngram/filtered"} <= set(both)
