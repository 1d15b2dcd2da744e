"""EASE: a linear item-to-item model with a closed form (Steck 2019, "Embarrassingly shallow
autoencoders for sparse data"). A strong baseline without a single hyper-parameter but `ease_l2`.

B minimises |X - X B|^2 + l2 |B|^2 with a zero diagonal: with P = (X^T X + l2 I)^-1,
B_ij = -P_ij / P_jj. Users are read one after the other; memory is three I x I matrices.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor, nn

from llmaug.config import EaseConfig
from llmaug.errors import UserError
from llmaug.items.arrays import group_bounds
from llmaug.items.vocabulary import NUM_SPECIAL
from llmaug.recommenders import DataFacts


class Ease(nn.Module):
    weights: Tensor
    log_share: Tensor

    def __init__(self, config: EaseConfig, facts: DataFacts) -> None:
        super().__init__()
        num_items = facts.vocabulary.num_items
        if num_items > config.ease_max_items:
            raise UserError(
                f"EASE on {num_items:,} items needs about {3 * 8 * num_items**2 / 2**30:,.0f} GiB "
                f"of memory, and train.ease_max_items is {config.ease_max_items:,}: raise it, "
                "raise ingest.k_core, or leave EASE out"
            )
        self._vocabulary, self._l2 = facts.vocabulary, config.ease_l2
        self.register_buffer("weights", torch.zeros(num_items, num_items))
        self.register_buffer("log_share", torch.zeros(num_items))

    def fit(self, events: Callable[[], Iterable[pa.Table]]) -> int:
        """Solve for the weights; `events()` gives the training events table by table, each
        sorted by user. Returns how many events were counted.

        A user of a table is a row of X; an event of weight w stands in it as sqrt(w), so that
        a user of weight w counts w times.
        """
        size = len(self.weights)
        gram = np.zeros((size, size))
        num_events = 0
        for table in events():
            item = self._vocabulary.encode(table["item_id"]) - NUM_SPECIAL
            user = table["user_id"].to_numpy(zero_copy_only=False)[item >= 0]
            root = np.sqrt(table["weight"].to_numpy().astype(float))[item >= 0]
            item = item[item >= 0]
            num_events += len(item)
            for start, end in group_bounds(user):
                own, first = np.unique(item[start:end], return_index=True)
                row = root[start:end][first]
                gram[np.ix_(own, own)] += np.multiply.outer(row, row)
        count = np.diag(gram) + 1
        self.log_share.copy_(torch.from_numpy(np.log(count / count.sum())))
        matrix = torch.from_numpy(gram)
        matrix.diagonal().add_(self._l2)
        inverse = torch.cholesky_inverse(torch.linalg.cholesky(matrix))
        inverse /= -inverse.diagonal().clone()
        inverse.fill_diagonal_(0)
        self.weights.copy_(inverse)
        return num_events

    def score(self, users: list[str], histories: list[list[int]]) -> Tensor:
        """(B, V) sums of the weights from the items of each history; a user without history
        is scored by the items' shares of the training events."""
        taken = torch.zeros(len(histories), len(self.weights), device=self.weights.device)
        for row, history in enumerate(histories):
            taken[row, torch.tensor(history, dtype=torch.long) - NUM_SPECIAL] = 1
        scores = torch.where(taken.any(1, keepdim=True), taken @ self.weights, self.log_share)
        return nn.functional.pad(scores, (NUM_SPECIAL, 0))

    def probability(self, scores: Tensor) -> Tensor:
        """Sigmoid of the score: it ranks alike, and is no calibrated chance."""
        return scores.sigmoid()
