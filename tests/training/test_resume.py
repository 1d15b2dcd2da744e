"""The steps of training: the same from a checkpoint as without a break."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import ray.train
import torch

from llmaug import recommenders
from llmaug.items.batches import Batches
from llmaug.items.sequences import of_events
from llmaug.recommenders import DataFacts
from llmaug.training import loop
from tests.recommenders.test_recommenders import config_of
from tests.tables import catalogue, events, histories

WORDS = catalogue("abcdef")
EVENTS = events(histories(u1="abcdef", u2="bcd", u3="fed", u4="ace", u5="bdf"))
CONFIG = config_of("sasrec", dropout=0.3, batch_size=3, learning_rate=0.01)


class SmallTask:
    """SASRec on five users, three in a batch."""

    metric = "ndcg"
    patient_until = 0
    private = None

    def __init__(self) -> None:
        torch.manual_seed(1)
        self.model = recommenders.build(CONFIG, DataFacts(WORDS))
        self.optimiser = loop.make_optimiser(self.model, CONFIG)
        self._batches = Batches(of_events(EVENTS, WORDS), 3, CONFIG.history_len, seed=1)

    def batch(self, step: int, rank: int, world_size: int) -> tuple[Any, Any]:
        return self._batches.at(step, rank, world_size)

    def weight(self, batch: tuple[Any, ...]) -> float:
        return float(batch[1].sum())

    def validate(self) -> float:
        return 0.0

    def export(self) -> dict[str, Any]:
        return {}

    def train(self, first: int, last: int) -> list[float]:
        """Losses of some steps."""
        return [
            loop.train_step(self, self.model, self.optimiser, CONFIG, seed=1, step=step)
            for step in range(first, last)
        ]


class Checkpoint:
    def __init__(self, folder: Path) -> None:
        self._folder = folder

    @contextlib.contextmanager
    def as_directory(self) -> Iterator[str]:
        yield str(self._folder)


def test_training_from_a_checkpoint_is_training_without_a_break(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every loss and every weight, with dropout and a warm-up that the break falls into."""
    undisturbed, killed, resumed = SmallTask(), SmallTask(), SmallTask()
    expected = undisturbed.train(0, 40)
    found = killed.train(0, 17)
    loop._save(str(tmp_path), killed.model, killed.optimiser, {"step": 17, "best_weights": {}})
    resumed.train(0, 3)  # whatever it was before
    monkeypatch.setattr(ray.train, "get_checkpoint", lambda: Checkpoint(tmp_path))
    state = loop._restore(resumed.model, resumed.optimiser)
    found += resumed.train(state["step"], 40)
    assert found == expected
    weights = resumed.model.state_dict()
    for name, weight in undisturbed.model.state_dict().items():
        assert torch.equal(weight, weights[name]), name
