"""The training loop: its rate, its pieces, and what it leaves behind when it cannot go on."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from llmaug.config import CausalConfig, OptimiserConfig, SasrecConfig
from llmaug.core.stage import Context
from llmaug.core.storage import Storage
from llmaug.errors import UserError
from llmaug.items.batches import Batches
from llmaug.items.sequences import of_events
from llmaug.recommenders import DataFacts
from llmaug.recommenders.sasrec import SASRec
from llmaug.training.loop import (
    FAILED_BATCH,
    NotFinite,
    _finished,
    backward,
    learning_rate,
    not_finite,
)
from llmaug.training.trainer import fit
from tests.tables import catalogue, events, histories

WORDS = catalogue("abcdef")


def rates(**config: Any) -> list[float]:
    optimiser = OptimiserConfig(learning_rate=1.0, num_steps=12, warmup_steps=4, **config)
    return [round(learning_rate(optimiser, step), 4) for step in range(12)]


def test_the_rate_warms_up_and_stays() -> None:
    assert rates() == [0.25, 0.5, 0.75, 1.0, *[1.0] * 8]


def test_a_cosine_falls_from_the_peak_towards_zero() -> None:
    falling = [round((1 + math.cos(math.pi * step / 8)) / 2, 4) for step in range(8)]
    assert rates(schedule="cosine") == [0.25, 0.5, 0.75, 1.0, *falling]
    assert falling[0] == 1 and falling[4] == 0.5 and 0 < falling[-1] < 0.05


class Task:
    """A small model on nine histories of different lengths."""

    metric = "ndcg"
    patient_until = 0
    private = None

    def __init__(self) -> None:
        torch.manual_seed(0)
        rows = {f"u{n}": "abcdef"[: 1 + n % 6] for n in range(9)}
        self._batches = Batches(of_events(events(histories(**rows)), WORDS), 9, 8, seed=1)
        shape = SasrecConfig(embedding_dim=8, num_layers=1, history_len=8, dropout=0.0)
        self.model: Any = SASRec(shape, DataFacts(WORDS))

    def batch(self, step: int, rank: int, world_size: int) -> tuple[Any, ...]:
        return self._batches.at(step, rank, world_size)

    def weight(self, batch: tuple[Any, ...]) -> float:
        return float(batch[1].sum())

    def validate(self) -> float:
        return math.nan

    def export(self) -> dict[str, Any]:
        return {}


def run(task: Task, **config: Any) -> tuple[float, list[torch.Tensor]]:
    """Loss and gradients of step 0."""
    loss = backward(OptimiserConfig(**config), task, task.model, step=0, rank=0, world_size=1)
    return loss, [parameter.grad for parameter in task.model.parameters()]


@pytest.mark.parametrize("num_accumulations", [2, 4, 9])
def test_pieces_of_a_batch_add_up_to_the_whole(num_accumulations: int) -> None:
    loss, gradients = run(Task())
    loss_of_pieces, of_pieces = run(Task(), num_accumulations=num_accumulations)
    assert loss_of_pieces == pytest.approx(loss, rel=1e-5)
    for whole, sum_of_pieces in zip(gradients, of_pieces, strict=True):
        assert torch.allclose(whole, sum_of_pieces, atol=1e-6)


def test_half_precision_is_close_and_keeps_float32_weights() -> None:
    task = Task()
    loss, _ = run(Task())
    in_half, gradients = run(task, precision="bfloat16")
    assert in_half != loss and in_half == pytest.approx(loss, rel=0.02)
    assert {tensor.dtype for tensor in gradients} == {torch.float32}
    assert CausalConfig().precision is None  # half precision where there is a GPU for it
    assert run(Task(), precision=None)[0] == loss  # and here there is none


def test_a_loss_that_is_no_number_stops_and_leaves_its_batch(tmp_path: Path) -> None:
    task = Task()
    with torch.no_grad():
        task.model.norm.weight.fill_(math.inf)
    with pytest.raises(NotFinite) as raised:
        run(task)
    storage, config = Storage(str(tmp_path)), OptimiserConfig(warmup_steps=0)
    told = not_finite(storage, "model", config, raised.value, step=0, rank=0)
    assert "loss is nan at step 0; the batch is in" in told.message
    assert "lower the learning rate" in told.message
    found = Storage(str(tmp_path)).read_json("model", FAILED_BATCH)
    assert (found["step"], found["rank"], found["loss"]) == (0, 0, "nan")
    assert found["learning_rate"] == 0.001
    tokens, weights = found["batch"]
    assert tokens == task.batch(0, 0, 1)[0].tolist()
    assert weights == task.batch(0, 0, 1)[1].tolist()


def test_workers_that_fit_nowhere_are_refused(
    ray_session: None, make_context: Callable[..., Context]
) -> None:
    """Each takes as many CPUs as it has threads; Ray would wait for them for ever."""
    much = OptimiserConfig(threads_per_worker=999)
    with pytest.raises(UserError, match="model/real asks for 1 worker of 999 CPU .*threads_per_"):
        fit(make_context(), "model/real", Task, much, seed=1)


def test_patience_begins_where_the_task_says() -> None:
    task, config = Task(), OptimiserConfig(num_steps=100, validate_every=10, patience=3)

    def stops_at(best_validation: int) -> int:
        """The step at which training ends when that validation is the best of all."""
        for validations in range(best_validation, 11):
            state = {"step": 10 * validations, "validations": validations,
                     "best_validation": best_validation}  # fmt: skip
            if _finished(task, state, config):
                return 10 * validations
        raise AssertionError("never")

    assert stops_at(best_validation=1) == 40
    task.patient_until = 50
    assert stops_at(best_validation=1) == 80
    assert stops_at(best_validation=7) == 100
