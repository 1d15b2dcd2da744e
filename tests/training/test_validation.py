"""What early stopping looks at, by hand."""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path

import pytest
import torch

from llmaug.core.storage import Storage
from llmaug.items.vocabulary import NUM_SPECIAL
from llmaug.testing.tables import catalogue, events, histories
from llmaug.training.validation import ValidationUsers, load_validation

A, B, C = range(NUM_SPECIAL, NUM_SPECIAL + 3)
LOGS = [math.log(x) for x in (0.5, 0.25, 0.25)]


def score(users: list[str], histories: list[list[int]]) -> torch.Tensor:
    """Everyone likes a twice as much as b and c; special tokens are no items."""
    return torch.tensor([[9.0] * NUM_SPECIAL + LOGS] * len(users))


def test_the_likelihood_is_over_the_catalogue_or_over_what_is_new() -> None:
    users = ValidationUsers(["u1", "u2"], [[A], [B]], [B, A])
    both = (math.log(1 / 4) + math.log(1 / 2)) / 2
    assert users.log_likelihood(score) == pytest.approx(both)
    # Without a, b has one half; without b, a has two thirds.
    unseen = (math.log(1 / 2) + math.log(2 / 3)) / 2
    assert users.log_likelihood(score, exclude_seen=True) == pytest.approx(unseen)


def test_a_target_that_was_seen_before_still_counts() -> None:
    users = ValidationUsers(["u"], [[A, B]], [B])
    assert users.log_likelihood(score, exclude_seen=True) == pytest.approx(math.log(1 / 2))


def test_many_users_are_scored_in_pieces() -> None:
    users = ValidationUsers(["u"] * 600, [[]] * 600, [A] * 300 + [B] * 300)
    expected = (math.log(1 / 2) + math.log(1 / 4)) / 2
    assert users.log_likelihood(score) == pytest.approx(expected)


def test_nobody_has_no_likelihood() -> None:
    assert math.isnan(ValidationUsers([], [], []).log_likelihood(score))


def test_a_sample_is_drawn_from_all_parts_alike(tmp_path: Path) -> None:
    """Three parts of ten users; those without a validation event cannot be among them."""
    storage = Storage(str(tmp_path))
    for part in range(3):
        users = [f"u{part}{number}" for number in range(10)]
        train = histories(**dict.fromkeys(users, "ab"))
        held_out = histories(**dict.fromkeys(users[:-1], "c"))
        storage.write_part(events(train), {}, "train", f"part-{part}")
        storage.write_part(events(held_out), {}, "validation", f"part-{part}")

    def drawn(seed: int, max_users: int) -> ValidationUsers:
        return load_validation(storage, "train", "validation", catalogue("abc"), seed, max_users)

    everyone = drawn(1, 27)
    assert len(set(everyone.user_ids)) == 27 and everyone.user_ids == sorted(everyone.user_ids)
    assert everyone.histories == [[A, B]] * 27 and everyone.targets == [C] * 27
    assert drawn(1, 5) == drawn(1, 5) != drawn(2, 5)
    counts = Counter(user[:2] for seed in range(60) for user in drawn(seed, 9).user_ids)
    assert sum(counts.values()) == 540
    assert all(140 < number < 220 for number in counts.values())  # 180 each, give or take
