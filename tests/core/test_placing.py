"""How many of what stages ask for fit on the machines that may be there."""

from __future__ import annotations

import math

import pytest

from llmaug.core.node_types import Machines, NodeType
from llmaug.core.placing import Ask, misfit, misfits, room

CLUSTER = Machines(
    (NodeType("head", {"CPU": 4}, 1), NodeType("gpu", {"CPU": 8, "GPU": 2}, 3)),
)


@pytest.mark.parametrize(
    ("ask", "most"),
    [
        (Ask("task"), 4 + 3 * 8),
        (Ask("engine", gpus=1), 3 * 2),
        (Ask("engine", cpus=6, gpus=1), 3),  # the CPUs decide
        (Ask("engine", gpus=2), 3),
        (Ask("engine", gpus=4), 0),  # an engine lies on one machine
        (Ask("engine", cpus=0, gpus=0.25), 3 * 2 * 4),
        (Ask("engine", cpus=0, gpus=0.4), 3 * 2 * 2),  # two fifths of two GPUs are no place
        (Ask("board", cpus=0), math.inf),
    ],
)
def test_room_is_counted_machine_by_machine(ask: Ask, most: float) -> None:
    assert room(ask, CLUSTER) == most


def test_types_of_which_none_may_come_have_no_room() -> None:
    none = Machines((NodeType("gpu", {"CPU": 8, "GPU": 8}, 0),))
    assert room(Ask("engine", cpus=0), none) == room(Ask("engine", gpus=1), none) == 0
    assert none.most("GPU") == 0


def test_a_misfit_names_stage_fields_and_machines() -> None:
    found = misfit("outcomes", Ask("engine", gpus=4, num=2, fields="generate.num_gpus"), CLUSTER)
    assert found == (
        "outcomes asks for 2 engines of 1 CPU and 4 GPU (generate.num_gpus), and no machine has "
        "room for one: head (up to 1 of 4 CPU, 0 GPU), gpu (up to 3 of 8 CPU, 2 GPU)"
    )
    many = misfit("outcomes", Ask("engine", gpus=1, num=9), CLUSTER)
    assert many and "9 engines of 1 CPU and 1 GPU, and at most 6 fit on head" in many
    assert misfit("outcomes", Ask("engine", gpus=1, num=6), CLUSTER) is None


def test_what_cannot_be_seen_is_not_refused() -> None:
    unseen = Machines((NodeType("head", {"CPU": 4}, 1),), unseen="the head could not say")
    assert misfit("outcomes", Ask("engine", gpus=1), unseen) is None


def test_each_misfit_is_told_once() -> None:
    asked = [("train", Ask("worker", gpus=4)), ("train", Ask("worker", gpus=4)), ("a", Ask("b"))]
    assert len(misfits(asked, CLUSTER)) == 1
