"""What stages ask Ray for, and whether the machines of a cluster have room for it."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from llmaug.config import OptimiserConfig
from llmaug.core.node_types import Machines, NodeType


@dataclass(frozen=True)
class Ask:
    """Tasks, actors or workers of a stage that are alike."""

    what: str
    """What one is called, in the singular."""
    cpus: float = 1
    """Ray CPUs of each."""
    gpus: float = 0
    """GPUs of each; a share of one below 1."""
    num: int | None = None
    """At the same time. None: as many as there are parts of the data and room for."""
    together: bool = False
    """Whether none can work before all are placed."""
    fields: str = ""
    """Of the config, that decide it."""
    memory: str = ""
    """What each needs of it, in words: Ray is asked for none."""

    def __str__(self) -> str:
        own = f"{self.cpus:g} CPU" + (f" and {self.gpus:g} GPU" if self.gpus else "")
        return f"{self.num or 'a'} {self.what}{'s' if (self.num or 1) > 1 else ''} of {own}"


TASKS = (Ask("task"),)
"""Of a stage that works part by part."""


def workers(section: str, optimiser: OptimiserConfig) -> Ask:
    """Of a training by steps; `section` of the config is where `optimiser` stands."""
    return Ask(
        "worker", optimiser.threads_per_worker, int(optimiser.use_gpu), optimiser.num_workers,
        together=True,
        fields=f"{section}.num_workers, {section}.threads_per_worker, {section}.use_gpu",
    )  # fmt: skip


def room(ask: Ask, machines: Machines) -> float:
    """How many such fit on `machines` at the same time, when nothing else is there."""
    return sum(each.max_nodes * fits(ask, each) for each in machines.types if each.max_nodes)


def fits(ask: Ask, node_type: NodeType) -> float:
    """How many such fit on one machine."""
    shares = [
        math.floor(node_type.resources.get(name, 0) / each + 1e-9)
        for name, each in (("CPU", ask.cpus), ("GPU", ask.gpus))
        if each
    ]
    if 0 < ask.gpus < 1:  # Ray does not join what is left of two GPUs
        shares[-1] = math.floor(node_type.resources.get("GPU", 0)) * math.floor(1 / ask.gpus + 1e-9)
    return min(shares, default=math.inf)


def places(ask: Ask, machines: Machines) -> dict[str, int]:
    """{node type: how many machines} that the stage needs when nothing else is there: those
    without GPUs first, as Ray takes them. One at least where there is no number; fewer than it
    takes where there is no room."""
    left, found = ask.num or 1, {}
    # Of those that do, the ones that are left with the least.
    sizes = sorted(machines.types, key=lambda each: (each.resources.get("GPU", 0), fits(ask, each)))
    for each in sizes:
        own = fits(ask, each)
        if own and each.max_nodes and left:
            count = int(min(each.max_nodes, math.ceil(left / own)))
            found[each.name] = count
            left = int(max(0, left - count * own))
    return found


def misfit(stage: str, ask: Ask, machines: Machines) -> str | None:
    """Why `machines` can never place what the stage asks for; None if they can."""
    if machines.unseen:
        return None
    most = room(ask, machines)
    if most >= (ask.num or 1):
        return None
    fields = f" ({ask.fields})" if ask.fields else ""
    if most:
        return f"{stage} asks for {ask}{fields}, and at most {most:g} fit on {machines}"
    return f"{stage} asks for {ask}{fields}, and no machine has room for one: {machines}"


def misfits(asked: Iterable[tuple[str, Ask]], machines: Machines) -> list[str]:
    """`misfit` of all that (stage, ask) name, once each."""
    found = (misfit(stage, ask, machines) for stage, ask in asked)
    return list(dict.fromkeys(text for text in found if text))
