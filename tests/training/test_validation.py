"""What early stopping looks at, by hand."""

from __future__ import annotations

import math

import pytest
import torch

from llmaug.items.vocabulary import NUM_SPECIAL
from llmaug.training.validation import ValidationUsers

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
