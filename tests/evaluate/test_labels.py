"""Log-loss and RMSE of probabilities, by hand and in agreement with torchmetrics."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from llmaug.evaluate import labels
from llmaug.items.vocabulary import NUM_SPECIAL

NUM_ITEMS = 30


class Judge:
    """Says of a pair what a table of logits says, and remembers who was asked about what."""

    def __init__(self, logits: torch.Tensor) -> None:
        self._logits = logits
        self.asked: list[tuple[str, int]] = []

    def score_pairs(self, users: list[str], tokens: list[int]) -> torch.Tensor:
        self.asked = list(zip(users, tokens, strict=True))
        return self._logits[[int(user) for user in users], [t - NUM_SPECIAL for t in tokens]]

    def probability(self, scores: torch.Tensor) -> torch.Tensor:
        return scores.sigmoid()


def test_random_probabilities_agree_with_torchmetrics() -> None:
    from torchmetrics.functional.regression import mean_squared_error

    rng = np.random.default_rng(0)
    judge = Judge(torch.tensor(rng.normal(size=(20, NUM_ITEMS))))
    users = [str(user) for user in range(20)]
    tokens = (rng.integers(NUM_ITEMS, size=20) + NUM_SPECIAL).tolist()
    found = labels.pair_losses(judge, users, tokens, [{t} for t in tokens], NUM_ITEMS, seed=1)

    p = judge.probability(judge.score_pairs(*map(list, zip(*judge.asked, strict=True))))
    target = torch.cat([torch.ones(20), torch.zeros(20)]).double()
    sums = labels.sum_losses(np.array(sorted(users)), np.stack(found, axis=1), 100, seed=1)
    whole = labels.from_sums(sums)
    expected = torch.nn.functional.binary_cross_entropy(p, target).item()
    assert whole["log_loss"]["mean"] == pytest.approx(expected)
    squared = mean_squared_error(p, target, squared=False).item()
    assert whole["rmse"]["mean"] == pytest.approx(squared)
    for figure in whole.values():
        assert figure["low"] < figure["mean"] < figure["high"]


def test_negatives_are_unseen_and_the_same_for_every_model() -> None:
    seen = {token + NUM_SPECIAL for token in range(NUM_ITEMS) if token % 3}
    asked = []
    for scale in (0.0, 1.0):
        judge = Judge(torch.ones(2, NUM_ITEMS) * scale)
        labels.pair_losses(judge, ["0", "1"], [NUM_SPECIAL] * 2, [seen] * 2, NUM_ITEMS, seed=3)
        asked.append(judge.asked)
    assert asked[0] == asked[1]
    positives, negatives = asked[0][:2], asked[0][2:]
    assert positives == [("0", NUM_SPECIAL), ("1", NUM_SPECIAL)]
    assert all(token not in seen for _, token in negatives)


def test_a_user_with_many_events_counts_once() -> None:
    losses = np.array([[0.0, 0.0], [0.0, 0.0], [0.9, 0.25]])
    sums = labels.sum_losses(np.array(["a", "a", "b"]), losses, 10, seed=0)
    assert sums[0].tolist() == [2, 0.9, 0.25]
    assert labels.from_sums(sums)["rmse"]["mean"] == pytest.approx(np.sqrt(0.125))
