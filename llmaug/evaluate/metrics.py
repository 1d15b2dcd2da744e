"""Figures of ranked lists: how good they are for each user, and what they do as a whole.

Pure functions on numpy arrays. Ranks count from 0; `cutoffs` are the k of "at k".
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from llmaug.training.ranking import ndcg

ACCURACY = ("ndcg", "hr", "mrr", "recall")
AUC = "auc"
LISTS = ("coverage", "novelty", "diversity", "gini")

_LISTS_AT_ONCE = 64


def names(metrics: Sequence[str], cutoffs: Sequence[int]) -> list[str]:
    return [f"{metric}@{k}" for k in cutoffs for metric in metrics]


def accuracy_names(cutoffs: Sequence[int]) -> list[str]:
    """The columns of `user_metrics`."""
    return [*names(ACCURACY, cutoffs), AUC]


def user_metrics(
    first_row: np.ndarray, ranks: np.ndarray, num_ranked: np.ndarray, cutoffs: Sequence[int]
) -> np.ndarray:
    """Accuracy of each user's list: (N, len(accuracy_names(cutoffs))).

    ranks: (R,) of the relevant items, user after user; first_row: (N,) where each user's
    begin; num_ranked: (N,) items that were ranked, the relevant ones included.

    NDCG with binary gains (Järvelin and Kekäläinen 2002), hit rate (any relevant item among the
    k best), reciprocal rank of the best relevant item, and recall (share of the relevant items
    among the k best). With one relevant item a user, recall is the hit rate. AUC: the chance that
    a relevant item stands before another one (Rendle et al. 2009), 0.5 where there is no other.
    """
    num_relevant = np.diff(np.r_[first_row, len(ranks)])
    best = np.minimum.reduceat(ranks, first_row) if len(first_row) else np.empty(0)
    columns = []
    for k in cutoffs:
        ideal = np.cumsum(1 / np.log2(np.arange(k) + 2.0))
        gain = _user_sums(ndcg(ranks, k), first_row)
        columns += [
            gain / ideal[np.minimum(num_relevant, k) - 1],
            (best < k).astype(float),
            np.where(best < k, 1 / (best + 1.0), 0.0),
            _user_sums(ranks < k, first_row) / num_relevant,
        ]
    columns.append(_auc(first_row, ranks, num_relevant, num_ranked - num_relevant))
    return np.stack(columns, axis=1)


def _auc(
    first_row: np.ndarray, ranks: np.ndarray, num_relevant: np.ndarray, num_others: np.ndarray
) -> np.ndarray:
    # A rank counts the relevant items before it, too: over all of a user's, each pair once.
    before = _user_sums(ranks, first_row) - num_relevant * (num_relevant - 1) / 2
    pairs = num_relevant * num_others
    # Ties count against each of two relevant items, so that the sum may pass its end.
    share = np.clip(1 - before / np.maximum(pairs, 1), 0.0, 1.0)
    return np.where(pairs > 0, share, 0.5)


def _user_sums(values: np.ndarray, first_row: np.ndarray) -> np.ndarray:
    if not len(first_row):
        return np.empty(0)
    return np.add.reduceat(values.astype(float), first_row)


def coverage(exposures: np.ndarray) -> float:
    """Share of the catalogue that is in anybody's list; exposures (I,): lists that hold item i."""
    return float((exposures > 0).mean())


def gini(exposures: np.ndarray) -> float:
    """Popularity bias: 0 when all items are recommended alike, towards 1 when few are always.

    exposures: (I,). NaN when nothing was recommended.
    """
    total, num_items = exposures.sum(), len(exposures)
    if not total:
        return float("nan")
    place = np.arange(1, num_items + 1)
    return float(2 * (place * np.sort(exposures)).sum() / (num_items * total) - 1 - 1 / num_items)


def novelty(exposures: np.ndarray, train_events: np.ndarray) -> float:
    """Mean self-information of a recommended item in bits: -log2 of its share of the training
    events (Zhou et al. 2010). An item without an event counts as one that was taken once.

    exposures, train_events: (I,). NaN when nothing was recommended.
    """
    if not exposures.sum():
        return float("nan")
    share = np.maximum(train_events, 1) / max(1, train_events.sum())
    return float((exposures * -np.log2(np.minimum(share, 1.0))).sum() / exposures.sum())


def unlike_pairs(lists: np.ndarray, flat: np.ndarray, offsets: np.ndarray) -> tuple[float, int]:
    """(sum of 1 - Jaccard similarity of the tags, number) over the pairs of items of each list.

    lists: (N, K) item rows, -1 for none. flat, offsets: the items' tags as
    `Vocabulary.tag_bags` has them. The quotient is the intra-list diversity (Smyth and
    McClave 2001). Pairs with an item without tags say nothing and do not count.
    """
    unlike, num_pairs = 0.0, 0
    for start in range(0, len(lists), _LISTS_AT_ONCE):
        items, place = np.unique(lists[start : start + _LISTS_AT_ONCE], return_inverse=True)
        has_tag = _incidence(items, flat, offsets)[place]  # (B, K, tags)
        both = has_tag @ has_tag.swapaxes(1, 2)  # (B, K, K)
        size = has_tag.sum(-1)
        either = size[:, :, None] + size[:, None, :] - both
        counts = np.triu((size[:, :, None] > 0) & (size[:, None, :] > 0), k=1)
        unlike += float((1 - both[counts] / either[counts]).sum(dtype=float))
        num_pairs += int(counts.sum())
    return unlike, num_pairs


def _incidence(items: np.ndarray, flat: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """(U, T) float32: which of the T tags of these items each one has; items: (U,), -1: none."""
    ends = np.r_[offsets[1:], len(flat)]
    bags = [flat[offsets[item] : ends[item]] if item >= 0 else flat[:0] for item in items]
    tags, column = np.unique(np.concatenate([flat[:0], *bags]), return_inverse=True)
    out = np.zeros((len(items), len(tags)), np.float32)
    out[np.repeat(np.arange(len(items)), [len(bag) for bag in bags]), column] = 1
    return out
