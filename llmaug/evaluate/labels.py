"""How good the probabilities are of models that judge a user and an item by themselves.

Only of models that judge pairs (the linear one): what a sequence model says is a share among
all items, and 0 and 1 are no labels for it. Each held-out event is a pair with label 1, and
stands beside one with label 0, an unseen item drawn at random, as the model was trained.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence

import numpy as np

from llmaug.evaluate.bootstrap import interval, means, resampled_sums
from llmaug.items.vocabulary import NUM_SPECIAL
from llmaug.recommenders import JudgesPairs

_SMALLEST = 1e-7  # a probability of 0 or 1 in float32 is not that certain
_TRIES = 20


def pair_losses(
    model: JudgesPairs,
    users: Sequence[str],
    tokens: Sequence[int],
    seen: Sequence[set[int]],
    num_items: int,
    seed: int,
) -> tuple[np.ndarray, np.ndarray]:
    """(log-loss (N,), squared error (N,)) of N held-out pairs, each the mean of the pair and of
    its unseen item.

    seen: (N,) tokens that are no negatives. The item drawn depends on user, held-out item and
    seed alone: every arm is asked about the same pairs.
    """
    import torch

    others = [
        _unseen(own, num_items, [seed, zlib.crc32(user.encode()), token])
        for user, token, own in zip(users, tokens, seen, strict=True)
    ]
    with torch.inference_mode():
        scores = model.score_pairs([*users, *users], [*tokens, *others])
        p = model.probability(scores).double().cpu().numpy()
    p = np.clip(p, _SMALLEST, 1 - _SMALLEST).reshape(2, -1)
    log_loss = -(np.log(p[0]) + np.log(1 - p[1])) / 2
    return log_loss, ((1 - p[0]) ** 2 + p[1] ** 2) / 2


def _unseen(seen: set[int], num_items: int, seed: list[int]) -> int:
    """A token outside `seen`; after some tries whatever comes, for users who saw nearly all."""
    drawn = np.random.default_rng(seed).integers(num_items, size=_TRIES) + NUM_SPECIAL
    return int(next((token for token in drawn if token not in seen), drawn[-1]))


def sum_losses(
    user_ids: np.ndarray, losses: np.ndarray, num_bootstrap: int, seed: int
) -> np.ndarray:
    """Bootstrap sums (1 + num_bootstrap, 3) of users, log-loss and squared error; they add up
    over parts. user_ids (N,) sorted, losses (N, 2), a user's own mean counts."""
    users, place = np.unique(user_ids, return_inverse=True)
    sums = np.stack([np.bincount(place, column) for column in losses.T], axis=1)
    own = sums / np.bincount(place)[:, None]
    return resampled_sums(users.tolist(), [(np.arange(len(users)), own)], num_bootstrap, seed)[0]


def from_sums(sums: np.ndarray) -> dict[str, dict[str, float]]:
    """{"log_loss", "rmse"}: mean and 95% interval over users."""
    found = means(sums)
    return {"log_loss": interval(found[:, 0]), "rmse": interval(np.sqrt(found[:, 1]))}
