"""Full ranking of held-out items, for validation while training and for evaluation."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from llmaug.items.lives import Lives
from llmaug.items.vocabulary import NUM_SPECIAL

_MAX_SCORES = 2**26  # 256 MB of them at once, and some times that while they are ranked

ScoreUsers = Callable[[list[str], list[list[int]]], Any]
"""(user ids, histories as item tokens) to a torch tensor (B, num_tokens), higher is better."""


def users_at_once(num_tokens: int, most: int = 256) -> int:
    """How many users are scored together: with a million items fewer, or memory would not do."""
    return max(1, min(most, _MAX_SCORES // num_tokens))


def rank_targets(
    score: ScoreUsers,
    user_ids: Sequence[str],
    histories: Sequence[list[int]],
    targets: Sequence[list[int]],
    exclude_seen: bool = True,
    num_best: int = 0,
    batch_size: int = 256,
    lives: Lives | None = None,
    times: Sequence[Sequence[float]] = (),
) -> tuple[np.ndarray, np.ndarray]:
    """Where each user's held-out items (at least one) stand among all items, seen ones left out.

    Returns (ranks (R,) from 0 of all targets, user after user; the tokens of each user's
    `num_best` best items (N, num_best), best first and -1 where items run out).
    Ties count against the target, so that a model which scores all items alike is last and
    not first. A target that was seen before keeps its place in the ranking.
    With `lives`, what is not there at the time of a target (`times`: seconds since 1970, one for
    each) is no competitor of it, and not among the best at the time of the first.
    """
    import torch

    ranks, best = [np.empty(0, np.int64)], [np.empty((0, num_best), np.int64)]
    with torch.inference_mode():
        for start in range(0, len(targets), batch_size):
            rows = slice(start, start + batch_size)
            scores = score(list(user_ids[rows]), list(histories[rows])).float()
            place = [(row, token) for row, own in enumerate(targets[rows]) for token in own]
            user, token = torch.tensor(place, device=scores.device).reshape(-1, 2).T
            own = scores[user, token]
            hide(scores, histories[rows] if exclude_seen else [])
            when = np.array([at for own in times[rows] for at in own]) if lives else None
            if num_best:
                first = np.array([own[0] for own in times[rows]]) if lives else None
                best.append(best_tokens(_there(scores, lives, first), num_best))
            one_each = all(len(own) == 1 for own in targets[rows])
            for at in range(0, len(place), batch_size):
                some = slice(at, at + batch_size)
                others = scores if one_each else scores[user[some]]
                others = _there(others, lives, None if when is None else when[some])
                # Not `>=`: scores that are no numbers must come last, too.
                ahead = ~(others < own[some, None])
                # The target itself does not count, nor does what hides it.
                itself = ahead.gather(1, token[some, None])[:, 0]
                ranks.append((ahead.sum(1) - itself.long()).cpu().numpy())
    return np.concatenate(ranks), np.concatenate(best)


def target_ranks(
    score: ScoreUsers,
    user_ids: Sequence[str],
    histories: Sequence[list[int]],
    targets: Sequence[int],
    exclude_seen: bool = True,
    batch_size: int = 256,
    lives: Lives | None = None,
    times: Sequence[float] = (),
) -> np.ndarray:
    """Ranks (N,) of one held-out item a user, as `rank_targets` has them."""
    return rank_targets(
        score, user_ids, histories, [[target] for target in targets], exclude_seen,
        batch_size=batch_size, lives=lives, times=[[at] for at in times],
    )[0]  # fmt: skip


def _there(scores: Any, lives: Lives | None, at: np.ndarray | None) -> Any:
    """(N, V) scores, minus infinity for items that are not there at the time of their row."""
    import torch

    if lives is None or at is None:
        return scores
    gone = torch.from_numpy(lives.gone(at)).to(scores.device)
    return scores.masked_fill(gone, -math.inf)


def hide(scores: Any, seen: Sequence[list[int]]) -> None:
    """Set special tokens and each row's seen items to minus infinity, in place."""
    scores[:, :NUM_SPECIAL] = -math.inf
    for row, tokens in enumerate(seen):
        scores[row, tokens] = -math.inf


def best_tokens(scores: Any, k: int) -> np.ndarray:
    """Tokens of the k highest of (B, V) scores after `hide`: (B, k) int64, -1 for hidden ones."""
    best = scores.topk(min(k, scores.shape[1]), dim=1)
    tokens = best.indices.masked_fill(best.values == -math.inf, -1).cpu().numpy()
    return np.pad(tokens, ((0, 0), (0, k - tokens.shape[1])), constant_values=-1)


def ndcg(ranks: np.ndarray, k: int) -> np.ndarray:
    """NDCG@k of each user with one relevant item: 1 / log2(rank + 2), rank from 0, or 0
    (Järvelin and Kekäläinen 2002, with a single relevant document)."""
    return np.where(ranks < k, 1 / np.log2(ranks + 2.0), 0.0)


def mean_ndcg_at_10(ranks: np.ndarray) -> float:
    """NaN without users."""
    return float(ndcg(ranks, 10).mean()) if len(ranks) else math.nan
