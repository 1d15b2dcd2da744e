"""Two arms on the validation events of a run, by hand."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from llmaug import recommenders
from llmaug.commands.validation_lift import validation_lift
from llmaug.config import parse_config
from llmaug.core.storage import Storage
from llmaug.items.vocabulary import ITEMS_PART
from llmaug.testing.tables import catalogue, events, histories

WORDS = catalogue("abcd")
USERS = [f"u{number}" for number in range(60)]


class Likes:
    """Likes one item best, and the others in the order of the catalogue."""

    def __init__(self, item: str) -> None:
        self._best = 3 + "abcd".index(item)

    def score(self, users: list[str], histories: list[list[int]]) -> torch.Tensor:
        scores = -torch.arange(7.0).repeat(len(users), 1)
        scores[:, self._best] = 1.0
        return scores


@pytest.fixture
def storage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Storage:
    """Sixty users took a; then half of them took c, and half d. `real` likes b; seed 1 of
    `started` likes c, seed 2 likes d."""
    storage = Storage(str(tmp_path))
    storage.write_part(
        WORDS.items, {"vocabulary_digest": WORDS.digest}, "runs/night/vocabulary", ITEMS_PART
    )
    next_item = {user: "cd"[number % 2] for number, user in enumerate(USERS)}
    train = events(histories(**dict.fromkeys(USERS, "a")))
    storage.write_part(train, {}, "runs/night/split/train", "part-0")
    storage.write_part(events(histories(**next_item)), {}, "runs/night/split/validation", "part-0")
    likes = {"real/seed-1": "b", "real/seed-2": "b", "started/seed-1": "c", "started/seed-2": "d"}

    def load(storage: Storage, folder: str) -> tuple[Likes, None, None]:
        return Likes(likes[folder.removeprefix("runs/night/model/")]), None, None

    monkeypatch.setattr(recommenders, "load_recommender", load)
    return storage


def lift(storage: Storage, arm: str, seeds: list[int], **options: int) -> dict[str, float]:
    config = parse_config({"train": {"seeds": seeds}, "evaluate": {"num_bootstrap": 400}})
    return validation_lift(storage, "night", config, arm, "real", **options)


def test_the_lift_is_paired_over_users_and_seeds(storage: Storage) -> None:
    # a was seen. real: b, c, d: c is second (0.6309), d third (0.5).
    # started, seed 1: c, b, d: c is first, d third; seed 2: d, b, c: c third, d first.
    found = lift(storage, "started", [1, 2])
    second, third = 0.63093, 0.5
    real, started = (second + third) / 2, (1 + third) / 2
    assert found["num_users"] == 60
    assert found["relative"] == pytest.approx(started / real - 1, abs=1e-4)
    assert 0 < found["low"] < found["relative"] < found["high"]


def test_an_arm_has_no_lift_over_itself(storage: Storage) -> None:
    found = lift(storage, "real", [1])
    assert (found["relative"], found["low"], found["high"]) == (0.0, 0.0, 0.0)


def test_many_users_are_sampled(storage: Storage) -> None:
    assert lift(storage, "started", [1], max_users=25)["num_users"] == 25
