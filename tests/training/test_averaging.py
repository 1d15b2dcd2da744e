"""Averages of the weights over the steps: by hand, in their place for a while, and kept."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import ray.train
import torch

from llmaug.config import OptimiserConfig
from llmaug.core.storage import Storage
from llmaug.training import averaging, loop


def model(weight: float) -> torch.nn.Linear:
    made = torch.nn.Linear(1, 1)
    with torch.no_grad():
        made.weight.fill_(weight)
    return made


def test_by_hand() -> None:
    """Early steps keep (1 + step) / (10 + step) of what was there, less than the decay."""
    learner, average = model(1.0), dict[str, torch.Tensor]()
    for step, weight in enumerate([1.0, 2.0, 4.0]):
        learner.weight.detach().fill_(weight)
        averaging.update(average, learner, 0.5, step)
    after_two = 1.0 + (1 - 2 / 11) * (2.0 - 1.0)
    after_three = after_two + (1 - 3 / 12) * (4.0 - after_two)
    assert average["weight"].item() == pytest.approx(after_three)
    assert set(average) == {"weight", "bias"}


def test_late_steps_are_averaged_as_the_decay_says() -> None:
    learner, average = model(0.0), dict[str, torch.Tensor]()
    averaging.update(average, learner, 0.9, 0)
    learner.weight.detach().fill_(1.0)
    for step in range(1000, 1010):
        averaging.update(average, learner, 0.9, step)
    assert average["weight"].item() == pytest.approx(1 - 0.9**10)


def test_what_does_not_learn_is_left_alone() -> None:
    learner, average = model(1.0), dict[str, torch.Tensor]()
    learner.bias.requires_grad_(False)
    averaging.update(average, learner, 0.9, 0)
    assert set(average) == {"weight"}


def test_a_model_has_the_average_for_a_while_and_its_own_weights_afterwards() -> None:
    learner = model(3.0)
    bias = learner.bias.item()
    with pytest.raises(RuntimeError), averaging.in_place(learner, {"weight": torch.ones(1, 1)}):
        assert learner.weight.item() == 1 and learner.bias.item() == bias
        raise RuntimeError  # even then
    assert learner.weight.item() == 3
    with averaging.in_place(learner, {}):
        assert learner.weight.item() == 3


class Quadratic:
    """A weight that is pulled to 1, from 0; the metric is how near it is."""

    metric, patient_until, private = "nearness", 0, None

    def __init__(self) -> None:
        self.model: Any = model(0.0)
        self.model.forward = lambda pulled: (self.model.weight - pulled).square().mean()
        self.validated: list[float] = []

    def batch(self, step: int, rank: int, world_size: int) -> tuple[Any, ...]:
        return ([1.0],)

    def weight(self, batch: tuple[Any, ...]) -> float:
        return 1.0

    def validate(self) -> float:
        self.validated.append(self.model.weight.item())
        return -abs(self.model.weight.item() - 1)

    def export(self) -> dict[str, Any]:
        return {"weight": self.model.weight.item()}


def trained(folder: Path, monkeypatch: pytest.MonkeyPatch, **config: Any) -> tuple[Quadratic, Any]:
    """The task and what its training wrote, without Ray's workers."""
    alone = SimpleNamespace(get_world_rank=lambda: 0, get_world_size=lambda: 1)
    monkeypatch.setattr(ray.train, "get_context", lambda: alone)
    monkeypatch.setattr(ray.train, "get_checkpoint", lambda: None)
    monkeypatch.setattr(ray.train, "report", lambda *_, **__: None)
    monkeypatch.setattr("ray.train.torch.prepare_model", lambda model, **_: model)
    optimiser = OptimiserConfig(
        num_steps=30, validate_every=10, warmup_steps=0, learning_rate=0.02, **config
    )
    task, storage = Quadratic(), Storage(str(folder))
    board = SimpleNamespace(put=SimpleNamespace(remote=lambda *_: None))
    loop.train({"optimiser": optimiser, "seed": 1, "build": lambda: task, "board": board,
                "storage": storage, "folder": "model"})  # fmt: skip
    return task, storage.read_json("model", "_trained.json")


def test_what_is_validated_is_what_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The weight moves steadily: its average lags behind it, and it trains as it would without."""
    plain, of_plain = trained(tmp_path, monkeypatch)
    averaged, of_average = trained(tmp_path, monkeypatch, average_decay=0.9)
    assert of_plain["weight"] == plain.validated[-1]
    assert of_average["weight"] == averaged.validated[-1] < of_plain["weight"]
    losses = [[point["loss"] for point in facts["curve"]] for facts in (of_plain, of_average)]
    assert losses[0] == losses[1]
