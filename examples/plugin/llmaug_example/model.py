"""The model: cosines of items by their users, summed over a history with weights that fade."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import pyarrow as pa
import torch
from torch import Tensor, nn

from llmaug.items.arrays import group_bounds
from llmaug.recommenders import DataFacts
from llmaug_example.recommender import FadedNeighboursConfig


class FadedNeighbours(nn.Module):
    likeness: Tensor

    def __init__(self, config: FadedNeighboursConfig, facts: DataFacts) -> None:
        super().__init__()
        self._vocabulary, self._fade = facts.vocabulary, config.fade
        num_tokens = facts.vocabulary.num_tokens
        self.register_buffer("likeness", torch.zeros(num_tokens, num_tokens))
        self.register_buffer("share", torch.zeros(num_tokens))

    def fit(self, events: Callable[[], Iterable[pa.Table]]) -> int:
        """Count pairs of items that a user took; returns how many events were counted."""
        together, num_events = torch.zeros_like(self.likeness), 0
        for table in events():
            token = self._vocabulary.encode(table["item_id"])
            user = table["user_id"].to_numpy(zero_copy_only=False)[token >= 0]
            token = torch.from_numpy(token[token >= 0]).long()
            num_events += len(token)
            for start, end in group_bounds(user):
                taken = torch.zeros(len(self.share))
                taken[token[start:end]] = 1
                together += torch.outer(taken, taken)
        count = together.diagonal().clone()
        self.likeness.copy_(together / (count.outer(count).sqrt() + 1)).fill_diagonal_(0)
        self.share.copy_(count / (count.sum() + 1))
        return num_events

    def score(self, users: list[str], histories: list[list[int]]) -> Tensor:
        """(B, V) faded sums of the likeness to each item of the history, and a little of how
        popular an item is: all there is for a user without one."""
        rows = []
        for history in histories:
            age = torch.arange(len(history) - 1, -1, -1, device=self.share.device)
            near = self.likeness[torch.tensor(history, dtype=torch.long)]
            rows.append((self._fade ** age[:, None] * near).sum(0) + 0.01 * self.share)
        return torch.stack(rows)

    def probability(self, scores: Tensor) -> Tensor:
        """Sigmoid of the score: it ranks alike, and is no calibrated chance."""
        return scores.sigmoid()
