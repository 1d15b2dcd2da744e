"""Can a classifier tell synthetic histories from real ones?

A classifier two-sample test (Lopez-Paz and Oquab 2017): gradient boosted trees learn to tell whole
histories apart, and the AUC of the ones that they did not learn from says how well they do. 0.5:
not at all; 1: always. Lengths are compared elsewhere and would decide alone, so that each synthetic
history meets a real one cut to as many first events.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from llmaug.evaluate.membership import attack

MIN_PAIRS = 50
_NUM_VECTORS = 16
_FOLDS = 5


@dataclass(frozen=True)
class History:
    """One user's events in their order."""

    items: np.ndarray
    """(L,) rows of the catalogue."""
    seconds: np.ndarray
    """(L,) since 1970."""
    actions: np.ndarray
    """(L,) numbers of the actions."""

    def first(self, num_events: int) -> History:
        return History(
            self.items[:num_events], self.seconds[:num_events], self.actions[:num_events]
        )


def paired(real: list[History], generated: list[History]) -> list[tuple[History, History]]:
    """(real, synthetic) of equal lengths: the longest first, and a real one only once; what finds
    none that is long enough is left out."""
    longest = sorted(real, key=lambda own: -len(own.items))
    pairs: list[tuple[History, History]] = []
    for own in sorted(generated, key=lambda own: -len(own.items)):
        if len(pairs) < len(longest) and len(longest[len(pairs)].items) >= len(own.items):
            pairs.append((longest[len(pairs)].first(len(own.items)), own))
    return pairs


def two_sample(
    real: list[History], generated: list[History], train_events: np.ndarray, seed: int
) -> dict[str, Any] | None:
    """{pairs, auc, low, high}: with the 95% interval of DeLong et al. (1988); None where there are
    fewer than `MIN_PAIRS` pairs of at least two events.

    train_events: (I,) of each item.
    """
    pairs = [(a, b) for a, b in paired(real, generated) if len(b.items) > 1]
    if len(pairs) < MIN_PAIRS:
        return None
    from sklearn.ensemble import HistGradientBoostingClassifier
    from sklearn.model_selection import StratifiedKFold, cross_val_predict

    x = features([a for a, _ in pairs] + [b for _, b in pairs], train_events, seed)
    y = np.repeat([0, 1], len(pairs))
    trees = HistGradientBoostingClassifier(max_iter=50, min_samples_leaf=10, random_state=seed)
    folds = StratifiedKFold(_FOLDS, shuffle=True, random_state=seed)
    scores = cross_val_predict(trees, x, y, cv=folds, method="predict_proba")[:, 1]
    found = attack(scores[y == 1], scores[y == 0])
    return {"pairs": len(pairs), **{name: found[name] for name in ("auc", "low", "high")}}


def features(histories: list[History], train_events: np.ndarray, seed: int) -> np.ndarray:
    """(N, F) float: how popular a history's items are, how it moves in time, what it does, which
    items it has, and how near neighbouring ones are (vectors by a truncated SVD of the histories at
    hand, on both sides alike)."""
    popularity = np.log1p(train_events)
    vectors, item_vectors = _vectors(histories, len(train_events), seed)
    num_actions = 1 + max(int(own.actions.max()) for own in histories)
    plain = []
    for own in histories:
        likeness = item_vectors[own.items]
        gaps = np.log1p(np.maximum(np.diff(own.seconds), 0))
        angle = 2 * np.pi * (own.seconds % 86_400) / 86_400
        levels = popularity[own.items]
        plain.append(
            [levels.mean(), levels.std(), levels.min(), levels.max(), np.diff(levels).std(),
             len(np.unique(own.items)) / len(own.items),
             gaps.mean(), gaps.std(), gaps.max(), (gaps == 0).mean(),
             np.cos(angle).mean(), np.sin(angle).mean(),
             (likeness[1:] * likeness[:-1]).sum(1).mean(), (likeness.mean(0) ** 2).sum(),
             *np.bincount(own.actions, minlength=num_actions) / len(own.actions)]
        )  # fmt: skip
    return np.concatenate([np.array(plain), vectors], axis=1)


def _vectors(histories: list[History], num_items: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """(N, D) of the histories, (I, D) of the items, each of length 1 or 0."""
    from scipy.sparse import csr_matrix
    from sklearn.decomposition import TruncatedSVD

    lengths = [len(own.items) for own in histories]
    flat = np.concatenate([own.items for own in histories])
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    bags = csr_matrix((np.ones(len(flat)), flat, offsets), shape=(len(histories), num_items))
    svd = TruncatedSVD(min(_NUM_VECTORS, num_items), random_state=seed)
    of_histories = svd.fit_transform(bags)
    of_items = svd.components_.T
    norm = np.linalg.norm(of_items, axis=1, keepdims=True)
    return of_histories, of_items / np.where(norm > 0, norm, 1)
