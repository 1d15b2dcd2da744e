"""Averages of weights over the steps: what a single step adds by chance is gone from them.

An exponential moving average (Polyak and Juditsky 1992; of deep models Tarvainen and Valpola 2017).
What is averaged is what learns, name by name; an empty average is none.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


def update(average: dict[str, Any], model: Any, decay: float, step: int) -> None:
    """Move `average`, which may be empty, to the weights of `model` after `step`, from 0. Early
    steps count more than `decay` says: otherwise the weights drawn at the start would stay for
    long."""
    share = 1 - min(decay, (1 + step) / (10 + step))
    for name, weight in model.named_parameters():
        if weight.requires_grad and name not in average:
            average[name] = weight.detach().clone()
        elif weight.requires_grad:
            average[name].lerp_(weight.detach(), share)


@contextmanager
def in_place(model: Any, average: dict[str, Any]) -> Iterator[None]:
    """Within it `model` has the weights of `average`."""
    own = {name: weight.detach() for name, weight in model.named_parameters() if name in average}
    kept = {name: weight.clone() for name, weight in own.items()}
    for name, weight in own.items():
        weight.copy_(average[name])
    try:
        yield
    finally:
        for name, weight in own.items():
            weight.copy_(kept[name])
