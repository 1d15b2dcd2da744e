"""Metrics by hand, and in agreement with torchmetrics on random data."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from llmaug.evaluate import metrics
from llmaug.training.ranking import rank_targets
from tests.tables import catalogue


def of_users(*ranks: list[int], k: int) -> dict[str, list[float]]:
    """Each user's metrics, given the ranks of the relevant items."""
    first_row = np.cumsum([0, *(len(own) for own in ranks)])[:-1]
    num_ranked = np.full(len(ranks), 10)
    values = metrics.user_metrics(first_row, np.concatenate(ranks), num_ranked, [k])
    return dict(zip([*metrics.ACCURACY, metrics.AUC], values.T.tolist(), strict=True))


def test_one_relevant_item_by_hand() -> None:
    found = of_users([0], [1], [2], [9], k=3)
    assert found["ndcg"] == pytest.approx([1, 1 / math.log2(3), 0.5, 0])
    assert found["hr"] == found["recall"] == [1, 1, 1, 0]
    assert found["mrr"] == pytest.approx([1, 1 / 2, 1 / 3, 0])
    assert found["auc"] == pytest.approx([1, 8 / 9, 7 / 9, 0])  # of nine other items, those behind


def test_several_relevant_items_by_hand() -> None:
    # The second user has three relevant items, of which two can be in a list of two.
    found = of_users([4, 1], [0, 7, 1], k=2)
    assert found["ndcg"] == pytest.approx([(1 / math.log2(3)) / (1 + 1 / math.log2(3)), 1])
    assert found["hr"] == [1, 1]
    assert found["mrr"] == [1 / 2, 1]
    assert found["recall"] == pytest.approx([1 / 2, 2 / 3])
    # Eight others; four stand before one of the first user's items (1 and 3 of them).
    assert found["auc"] == pytest.approx([1 - 4 / 16, 1 - 5 / 21])


def test_without_users_there_are_no_figures() -> None:
    none = np.empty(0, int)
    assert metrics.user_metrics(none, none, none, [10, 20]).shape == (0, 9)


def test_an_item_without_rivals_is_ranked_by_chance() -> None:
    zero, one = np.array([0]), np.array([1])
    assert metrics.user_metrics(zero, zero, one, [1])[0, -1] == 0.5


def test_columns_are_in_the_order_of_their_names() -> None:
    assert metrics.accuracy_names([1, 5]) == [
        "ndcg@1", "hr@1", "mrr@1", "recall@1", "ndcg@5", "hr@5", "mrr@5", "recall@5", "auc"
    ]  # fmt: skip


@pytest.mark.parametrize("num_relevant", [1, 7])
def test_random_rankings_agree_with_torchmetrics(num_relevant: int) -> None:
    """Scores go through our ranking on one side, and as they are into torchmetrics."""
    from torchmetrics.functional import retrieval
    from torchmetrics.functional.classification import binary_auroc

    num_users, num_items, special = 50, 40, 3
    rng = np.random.default_rng(num_relevant)
    scores = torch.tensor(rng.random((num_users, special + num_items)) + 0.01)
    relevant = [
        rng.choice(num_items, rng.integers(1, num_relevant + 1), replace=False) + special
        for _ in range(num_users)
    ]
    users = [str(user) for user in range(num_users)]
    ranks, _ = rank_targets(
        lambda some, _: scores[[int(user) for user in some]].clone(),
        users, [[]] * num_users, [own.tolist() for own in relevant], batch_size=16,
    )  # fmt: skip
    first_row = np.cumsum([0, *(len(own) for own in relevant)])[:-1]
    cutoffs = [1, 5, 10, num_items]
    ours = metrics.user_metrics(first_row, ranks, np.full(num_users, num_items), cutoffs)
    theirs = []
    for user in range(num_users):
        target = torch.zeros(num_items, dtype=torch.long)
        target[relevant[user] - special] = 1
        row = [
            function(scores[user, special:].float(), target, top_k=k).item()
            for k in cutoffs
            for function in (
                retrieval.retrieval_normalized_dcg,
                retrieval.retrieval_hit_rate,
                retrieval.retrieval_reciprocal_rank,
                retrieval.retrieval_recall,
            )
        ]
        theirs.append([*row, binary_auroc(scores[user, special:].float(), target).item()])
    np.testing.assert_allclose(ours, theirs, atol=1e-6)


# -- lists as a whole --------------------------------------------------------------------------


def test_coverage_is_the_share_of_items_that_anybody_sees() -> None:
    assert metrics.coverage(np.array([3, 0, 1, 0])) == 0.5


@pytest.mark.parametrize(
    ("exposures", "expected"),
    [([5, 5, 5, 5], 0.0), ([0, 0, 0, 9], 0.75), ([1, 3], 0.25), ([3, 1], 0.25)],
)
def test_gini_by_hand(exposures: list[int], expected: float) -> None:
    assert metrics.gini(np.array(exposures)) == pytest.approx(expected)


def test_gini_is_half_the_mean_difference_over_the_mean() -> None:
    """The definition, which the formula for sorted values comes from."""
    x = np.random.default_rng(0).integers(0, 50, 200)
    by_definition = np.abs(x[:, None] - x[None]).mean() / (2 * x.mean())
    assert metrics.gini(x) == pytest.approx(by_definition)


def test_novelty_is_the_self_information_of_what_is_recommended() -> None:
    train_events = np.array([8, 4, 4, 0])  # shares 1/2, 1/4, 1/4, and counted as 1/16
    assert metrics.novelty(np.array([7, 0, 0, 0]), train_events) == 1
    assert metrics.novelty(np.array([0, 1, 1, 0]), train_events) == 2
    assert metrics.novelty(np.array([1, 0, 0, 1]), train_events) == (1 + 4) / 2


def test_nothing_recommended_says_nothing() -> None:
    assert math.isnan(metrics.novelty(np.zeros(3), np.ones(3)))
    assert math.isnan(metrics.gini(np.zeros(3)))


def test_diversity_is_how_unlike_the_tags_of_two_items_are() -> None:
    tags = {"a": ["x", "y"], "b": ["y", "z"], "c": ["x", "y"], "d": [], "e": ["w"]}
    _, flat, offsets = catalogue(list(tags), tags=tags).tag_bags(min_items=1)
    A, B, C, D, E, none = 0, 1, 2, 3, 4, -1

    def unlike(*lists: list[int]) -> tuple[float, int]:
        return metrics.unlike_pairs(np.array(lists), flat, offsets)

    assert unlike([A, C]) == (0, 1)
    assert unlike([A, E]) == (1, 1)
    assert unlike([A, B]) == (pytest.approx(2 / 3), 1)  # one tag of three in common
    assert unlike([A, B, C], [A, E, none]) == (pytest.approx(2 / 3 + 0 + 2 / 3 + 1), 4)
    assert unlike([A, D, none], [D, D, E]) == (0, 0)  # nothing is known of d


def test_diversity_of_many_lists_is_the_sum_over_them() -> None:
    rng = np.random.default_rng(0)
    names = [f"item {i:02}" for i in range(30)]
    tags = {name: [str(t) for t in rng.integers(0, 8, rng.integers(0, 4))] for name in names}
    _, flat, offsets = catalogue(names, tags=tags).tag_bags(min_items=1)
    lists = rng.integers(-1, 30, (150, 6))
    unlike, num_pairs = 0.0, 0
    for row in lists:
        known = [set(tags[names[i]]) for i in row if i >= 0 and tags[names[i]]]
        pairs = [(x, y) for place, x in enumerate(known) for y in known[:place]]
        unlike += sum(1 - len(x & y) / len(x | y) for x, y in pairs)
        num_pairs += len(pairs)
    found = metrics.unlike_pairs(lists, flat, offsets)
    assert found == (pytest.approx(unlike, rel=1e-5), num_pairs)
