"""The textbook linear recommender: r(u, i) = sigmoid(beta^T [u; i]).

With `interaction: concat` the score is beta_u . u + beta_i . i: what the user contributes
is the same for every item, so ALL users get the same ranking (before seen items are left
out). `interaction: hadamard` adds u * i to the vector and with it personal rankings.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from llmaug.config import LinearConfig
from llmaug.items.vocabulary import NUM_SPECIAL
from llmaug.recommenders import DataFacts


class Linear(nn.Module):
    """Users and items outside the training data stand at the mean of the known ones."""

    def __init__(self, config: LinearConfig, facts: DataFacts) -> None:
        super().__init__()
        self.user_ids = list(facts.user_ids)
        self._row = {user_id: row for row, user_id in enumerate(self.user_ids)}
        self._loss = config.loss
        self._hadamard = config.interaction == "hadamard"
        dim = config.embedding_dim
        self.users = nn.Embedding(max(1, len(self.user_ids)), dim)
        self.items = nn.Embedding(facts.vocabulary.num_tokens, dim)
        self.beta = nn.Linear(dim * (3 if self._hadamard else 2), 1, bias=False)
        for table in (self.users, self.items):
            nn.init.normal_(table.weight, std=0.1)

    def forward(self, pairs: Tensor, labels: Tensor) -> Tensor:
        return self.loss(pairs, labels)

    def loss(self, pairs: Tensor, labels: Tensor) -> Tensor:
        """BCE or MSE; pairs (N, 2) of (user row, item token), labels (N, 2) of (label in
        [0, 1], weight)."""
        logits = self._logits(self.users(pairs[:, 0]), self.items(pairs[:, 1]))
        if self._loss == "mse":
            loss = (logits.sigmoid() - labels[:, 0]) ** 2
        else:
            loss = F.binary_cross_entropy_with_logits(logits, labels[:, 0], reduction="none")
        return (loss * labels[:, 1]).sum() / labels[:, 1].sum()

    def score(self, users: list[str], histories: list[list[int]]) -> Tensor:
        """(B, V) logits; `histories` do not matter to this model."""
        u = self._user_vectors(users)
        return self._logits(u[:, None], self.items.weight[None])

    def score_pairs(self, users: list[str], tokens: list[int]) -> Tensor:
        """(N,) logits of (user, item) pairs; token -1 is an item outside the catalogue."""
        mean = self.items.weight[NUM_SPECIAL:].mean(0, keepdim=True)
        table = torch.cat([self.items.weight, mean])
        return self._logits(self._user_vectors(users), table[torch.tensor(tokens)])

    def probability(self, scores: Tensor) -> Tensor:
        """Sigmoid: the chance that the user takes the item."""
        return scores.sigmoid()

    def rows(self, users: list[str]) -> list[int]:
        """Rows of the user table; -1 for an unknown user."""
        return [self._row.get(user, -1) for user in users]

    def _user_vectors(self, users: list[str]) -> Tensor:
        table = torch.cat([self.users.weight, self.users.weight.mean(0, keepdim=True)])
        return table[torch.tensor(self.rows(users))]

    def _logits(self, u: Tensor, i: Tensor) -> Tensor:
        u, i = torch.broadcast_tensors(u, i)
        parts = [u, i, u * i] if self._hadamard else [u, i]
        return self.beta(torch.cat(parts, -1)).squeeze(-1)
