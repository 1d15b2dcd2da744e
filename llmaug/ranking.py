"""Full ranking of one held-out item a user, for validation while training and for evaluation."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from llmaug.vocabulary import NUM_SPECIAL

ScoreUsers = Callable[[list[str], list[list[int]]], Any]
"""(user ids, histories as item tokens) to a torch tensor (B, num_tokens), higher is better."""


def target_ranks(
    score: ScoreUsers,
    user_ids: Sequence[str],
    histories: Sequence[list[int]],
    targets: Sequence[int],
    exclude_seen: bool = True,
    batch_size: int = 256,
) -> np.ndarray:
    """Rank (from 0) of each user's target token among all items, seen ones left out.

    Ties count against the target, so that a model which scores all items alike is last and
    not first. A target that was seen before keeps its place in the ranking.
    """
    import torch

    out = []
    with torch.inference_mode():
        for start in range(0, len(targets), batch_size):
            stop = start + batch_size
            scores = score(list(user_ids[start:stop]), list(histories[start:stop])).float()
            target = torch.tensor(targets[start:stop], device=scores.device)[:, None]
            own = scores.gather(1, target)
            hide(scores, histories[start:stop] if exclude_seen else [])
            # The target itself does not count; if it was hidden, neither does its mask.
            scores.scatter_(1, target, -math.inf)
            # Not `>=`: scores that are no numbers must come last, too.
            out.append((~(scores < own)).sum(1).cpu().numpy())
    return np.concatenate(out) if out else np.empty(0, np.int64)


def hide(scores: Any, seen: Sequence[list[int]]) -> None:
    """Set special tokens and each row's seen items to minus infinity, in place."""
    scores[:, :NUM_SPECIAL] = -math.inf
    for row, tokens in enumerate(seen):
        scores[row, tokens] = -math.inf


def ndcg(ranks: np.ndarray, k: int) -> np.ndarray:
    """NDCG@k of each user with one relevant item: 1 / log2(rank + 2), rank from 0, or 0
    (Järvelin and Kekäläinen 2002, with a single relevant document)."""
    return np.where(ranks < k, 1 / np.log2(ranks + 2.0), 0.0)


def mean_ndcg_at_10(ranks: np.ndarray) -> float:
    """NaN without users."""
    return float(ndcg(ranks, 10).mean()) if len(ranks) else math.nan
