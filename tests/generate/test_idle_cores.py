"""Somebody with a large machine is told that one engine on one core leaves it alone."""

from __future__ import annotations

import pytest

from llmaug.config import GenerateConfig
from llmaug.generate.engine_maker import idle_cores


@pytest.mark.parametrize(
    ("own", "cores", "said"),
    [
        ({}, 2, False),  # half of them work: the other is for what is around the engine
        ({}, 16, True),
        ({"num_actors": 8}, 16, False),
        ({"num_cpus": 12}, 16, False),
        ({"num_actors": 2, "num_cpus": 2}, 16, True),
    ],
)
def test_cores_that_no_engine_uses_are_named(own: dict, cores: int, said: bool) -> None:
    hint = idle_cores(GenerateConfig(**own), cores)
    assert bool(hint) == said
    if said:
        used = own.get("num_actors", 1) * own.get("num_cpus", 1)
        assert f"{used} of {cores} cores" in hint
        assert "generate.num_actors" in hint
