"""Two towers: a vector for the user's history and one for each item, scored by their product.

The user tower sees the mean of the history's item vectors and the last one of them, so it
costs the same for a history of any length and knows users that it was not trained on. The
item tower is the table of item vectors: an id row and, with `item_features`, the sum of the
item's tag vectors and its projected text vector. Trained at every event of a sequence with
sampled softmax (Yi et al. 2019) or with BPR (Rendle et al. 2009).

Shapes: B sequences, T positions, D width, V tokens.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from llmaug.config import TwoTowerConfig
from llmaug.items.arrays import padded_prompts
from llmaug.items.item_features import recommender_features
from llmaug.items.vocabulary import NUM_SPECIAL, PAD
from llmaug.recommenders import DataFacts
from llmaug.recommenders.dropout import Dropout
from llmaug.training import losses


class TwoTower(nn.Module):
    _share: Tensor

    def __init__(self, config: TwoTowerConfig, facts: DataFacts) -> None:
        super().__init__()
        num_tokens = facts.vocabulary.num_tokens
        dim = config.embedding_dim
        self.history_len = config.history_len
        self._loss, self._max_negatives = config.loss, config.max_negatives
        self.items = nn.Embedding(num_tokens, dim)
        nn.init.normal_(self.items.weight, std=0.1)
        self.user = nn.Sequential(
            nn.Linear(2 * dim, 2 * dim), nn.GELU(), Dropout(config.dropout),
            nn.Linear(2 * dim, dim),
        )  # fmt: skip
        self.features = recommender_features(config, facts.vocabulary, facts.min_tag_items)
        share = losses.target_share(facts.target_counts, num_tokens)
        self.register_buffer("_share", share, persistent=False)

    def forward(self, tokens: Tensor, weights: Tensor) -> Tensor:
        return self.loss(tokens, weights)

    def loss(self, tokens: Tensor, weights: Tensor) -> Tensor:
        """Weighted mean loss; tokens (B, T + 1), weights (B, T + 1), scalar out."""
        table = self.table()
        weights = weights[:, 1:]
        real = weights > 0
        users, targets = self._users(tokens[:, :-1], table)[real], tokens[:, 1:][real]
        if self._loss == "bpr":
            loss = losses.bpr(users, table, targets)
        else:
            negatives = losses.draw_negatives(targets, self._share, self._max_negatives)
            loss = losses.sampled_softmax(users, table, targets, negatives)
        return (loss * weights[real]).sum() / weights[real].sum()

    def score(self, users: list[str], histories: list[list[int]]) -> Tensor:
        """(B, V) products of user and item vectors; all users without history get one list."""
        inputs = [[PAD, *history[-self.history_len :]] for history in histories]
        table = self.table()
        tokens, last = (torch.from_numpy(x).to(table.device) for x in padded_prompts(inputs))
        vectors = self._users(tokens, table)
        return vectors[torch.arange(len(inputs), device=last.device), last] @ table.T

    def probability(self, scores: Tensor) -> Tensor:
        """Softmax over the catalogue: the chance that the item is the next one."""
        return scores.softmax(-1)

    def table(self) -> Tensor:
        """(V, D) vectors of all tokens, features included."""
        return self.items.weight if self.features is None else self.items.weight + self.features()

    def _users(self, tokens: Tensor, table: Tensor) -> Tensor:
        """(B, T) tokens padded right to (B, T, D): the user after each of them."""
        is_item = (tokens >= NUM_SPECIAL)[..., None]
        vectors = F.embedding(tokens, table) * is_item  # BOS and padding count for nothing
        mean = vectors.cumsum(1) / is_item.cumsum(1).clamp(min=1)
        return self.user(torch.cat([mean, vectors], -1))
