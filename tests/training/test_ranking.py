"""Ranks and NDCG by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from llmaug.training.ranking import (
    best_tokens,
    hide,
    mean_ndcg_at_10,
    ndcg,
    rank_targets,
    target_ranks,
    users_at_once,
)

A, B, C, D = range(3, 7)  # four items behind the three special tokens


class Fixed:
    """Gives every user the same scores of items a, b, c and d; special tokens score highest."""

    def __init__(self, *scores: float) -> None:
        self._row = torch.tensor([99.0, 99.0, 99.0, *scores])

    def __call__(self, users: list[str], histories: list[list[int]]) -> torch.Tensor:
        return self._row.repeat(len(users), 1)


def rank(score: Fixed, history: list[int], target: int, exclude_seen: bool = True) -> int:
    return int(target_ranks(score, ["u"], [history], [target], exclude_seen)[0])


def test_the_rank_is_the_number_of_better_items() -> None:
    score = Fixed(0.4, 0.3, 0.2, 0.1)
    assert [rank(score, [], target) for target in (A, B, C, D)] == [0, 1, 2, 3]


def test_special_tokens_are_no_competitors() -> None:
    assert rank(Fixed(0.4, 0.3, 0.2, 0.1), [], A) == 0


def test_seen_items_step_aside_unless_repeats_are_normal() -> None:
    score = Fixed(0.4, 0.3, 0.2, 0.1)
    assert rank(score, [A, B], C) == 0
    assert rank(score, [A, B], C, exclude_seen=False) == 2


def test_a_target_that_was_seen_before_keeps_its_place() -> None:
    assert rank(Fixed(0.4, 0.3, 0.2, 0.1), [C], C) == 2
    assert rank(Fixed(0.4, 0.3, 0.2, 0.1), [A, C], C) == 1


def test_ties_count_against_the_target() -> None:
    assert rank(Fixed(0.5, 0.5, 0.5, 0.1), [], B) == 2


@pytest.mark.parametrize("value", [0.0, -math.inf, math.nan])
def test_a_model_that_says_nothing_is_last(value: float) -> None:
    score = Fixed(value, value, value, value)
    assert all(rank(score, [], target) >= 3 for target in (A, B, C, D))


def test_batches_do_not_change_the_ranks() -> None:
    users, histories, targets = [f"u{i}" for i in range(7)], [[A]] * 7, [A, B, C, D, A, B, C]
    score = Fixed(0.1, 0.4, 0.3, 0.2)
    whole = target_ranks(score, users, histories, targets)
    assert whole.tolist() == [3, 0, 1, 2, 3, 0, 1]
    assert target_ranks(score, users, histories, targets, batch_size=3).tolist() == whole.tolist()
    assert target_ranks(score, [], [], []).tolist() == []


def test_several_targets_of_one_user_each_have_their_rank() -> None:
    score = Fixed(0.4, 0.3, 0.2, 0.1)
    targets = [[A, D], [C], [B, A, D]]
    for batch_size in (1, 2, 256):
        ranks, _ = rank_targets(score, ["u"] * 3, [[], [A], [B]], targets, batch_size=batch_size)
        assert ranks.tolist() == [0, 3, 1, 1, 0, 2]


def test_the_best_items_leave_out_what_was_seen() -> None:
    score = Fixed(0.4, 0.3, 0.2, 0.1)
    _, best = rank_targets(score, ["u", "v"], [[A], []], [[D], [D]], num_best=3)
    assert best.tolist() == [[B, C, D], [A, B, C]]


def test_where_items_run_out_the_list_ends() -> None:
    scores = torch.tensor([[9.0, 9.0, 9.0, 0.1, 0.3, 0.2, 0.4]])
    hide(scores, [[C, D]])
    assert best_tokens(scores, 3).tolist() == [[B, A, -1]]
    assert best_tokens(scores, 9).tolist() == [[B, A, *[-1] * 7]]


def test_hidden_scores_are_minus_infinity() -> None:
    scores = torch.ones(2, 7)
    hide(scores, [[A], [B, C]])
    assert torch.isinf(scores).int().tolist() == [[1, 1, 1, 1, 0, 0, 0], [1, 1, 1, 0, 1, 1, 0]]


def test_ndcg_by_hand() -> None:
    ranks = np.array([0, 1, 2, 3, 9, 10])
    expected = [1.0, 0.6309298, 0.5, 0.4306766, 0.2890648, 0.0]  # 1 / log2(rank + 2) up to 10
    assert ndcg(ranks, 10) == pytest.approx(expected)
    assert ndcg(ranks, 2).tolist()[2:] == [0, 0, 0, 0]
    assert mean_ndcg_at_10(np.array([0, 2])) == pytest.approx(0.75)
    assert math.isnan(mean_ndcg_at_10(np.array([], dtype=int)))


def test_of_a_million_items_fewer_users_are_scored_at_once() -> None:
    assert users_at_once(1_000) == 256
    assert users_at_once(1_000_000) == 67  # 268 MB of scores
    assert users_at_once(10**9) == 1
