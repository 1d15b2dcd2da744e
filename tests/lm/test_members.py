"""Several models as one generator: which stages make them, and who they are."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from llmaug.config import Config, parse_config
from llmaug.core.stage import Context, fingerprint
from llmaug.errors import UserError
from llmaug.lm.generator import Member, generator_of
from llmaug.lm.members import member_config
from llmaug.pipeline import stages
from tests.tables import catalogue, write_finished, write_vocabulary

MakeContext = Callable[..., Context]
SOFT, NEW = {"kind": "soft_events"}, {"kind": "new_users", "num_users": 5}


def config(members: int, *strategies: dict[str, Any], **train: Any) -> dict[str, Any]:
    return {"seed": 7, "lm": {"members": members}, "train": train,
            "plan": {"strategies": list(strategies)}}  # fmt: skip


@pytest.mark.parametrize(
    ("raw", "trained"),
    [
        (config(3, SOFT, NEW), ["lm/causal", "lm/causal-2", "lm/causal-3"]),
        (config(1, SOFT), ["lm/causal"]),
        # Nobody would ask them.
        (config(3, NEW), ["lm/causal"]),
        (config(3, SOFT, arms=["real", "started"]), ["lm/causal"]),
    ],
    ids=["soft events", "one", "events alone", "item vectors alone"],
)
def test_as_many_are_trained_as_are_asked(raw: dict[str, Any], trained: list[str]) -> None:
    path = [stage for step, stage in stages(parse_config(raw)) if step == "lm"]
    assert [stage.name for stage in path] == trained


def test_each_is_of_another_seed_and_else_alike() -> None:
    whole = parse_config(config(3, SOFT))
    seeds = [member_config(whole, number).seed for number in (1, 2, 3)]
    assert seeds == [7, 8, 9]
    names = {"name": "causal-2", "members": 1}
    assert member_config(whole, 2).lm == whole.lm.model_copy(update=names)


def test_one_more_leaves_those_that_are_there(make_context: MakeContext) -> None:
    def fingerprints(members: int) -> dict[str, str]:
        context = make_context(**config(members, SOFT))
        for name in ("split", "vocabulary"):
            write_finished(context, name)
        path = [stage for step, stage in stages(context.config) if step == "lm"]
        return {stage.name: fingerprint(stage, context)["fingerprint"] for stage in path}

    one, two, three = (fingerprints(members) for members in (1, 2, 3))
    assert one.items() < two.items() < three.items()
    assert len(set(three.values())) == 3


def test_answers_are_those_of_all(make_context: MakeContext) -> None:
    """The generator's name is in the id of every unit, and so in the cache of their answers."""

    def name(*digests: str) -> str:
        context = make_context(**config(len(digests), SOFT))
        write_vocabulary(context, catalogue("ab"), {})
        for number, known in enumerate(digests, 1):
            own = "causal" if number == 1 else f"causal-{number}"
            write_finished(context, f"lm/{own}", model_digest=known)
        generator = generator_of(context)
        assert generator.model_digest == digests[0]
        assert generator.models[1:] == tuple(
            Member(context.folder(f"lm/causal-{number}"), known)
            for number, known in enumerate(digests[1:], 2)
        )
        return generator.name

    assert name("aa") == "causal@aa"
    names = [name("aa"), name("aa", "bb"), name("aa", "bb", "cc"), name("aa", "cc")]
    assert len(set(names)) == 4 and name("aa", "bb") == names[1]


def test_a_guarantee_is_of_one_model() -> None:
    raw = config(2, SOFT)
    raw["lm"]["private"] = {"epsilon": 8, "delta": 1e-4}
    with pytest.raises(UserError, match=r"lm\.members: each spends as much again"):
        parse_config(raw)
    assert isinstance(parse_config({**raw, "lm": {**raw["lm"], "members": 1}}), Config)
