"""How a user would rate an item: the textbook linear model on ratings.

r(u, i) = mean + beta^T [u; i; u * i], without a sigmoid: what beta makes of u and of i are their
biases, and of u * i how they suit each other: matrix factorisation with biases (Koren, Bell and
Volinsky 2009). It learns the `value` of events, by squared error; events without one teach it
nothing, and what nobody took neither.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from llmaug.config import LinearRatingConfig
from llmaug.items.vocabulary import NUM_SPECIAL
from llmaug.recommenders import DataFacts


class LinearRating(nn.Module):
    """Users and items outside the training data stand at the mean of the known ones."""

    mean: Tensor

    def __init__(self, config: LinearRatingConfig, facts: DataFacts) -> None:
        super().__init__()
        self.user_ids = list(facts.user_ids)
        self._row = {user_id: row for row, user_id in enumerate(self.user_ids)}
        dim = config.embedding_dim
        self.users = nn.Embedding(max(1, len(self.user_ids)), dim)
        self.items = nn.Embedding(facts.vocabulary.num_tokens, dim)
        self.beta = nn.Linear(dim * 3, 1, bias=False)
        self.register_buffer("mean", torch.tensor(facts.mean_value))
        for table in (self.users, self.items):
            nn.init.normal_(table.weight, std=0.1)

    def forward(self, pairs: Tensor, labels: Tensor) -> Tensor:
        return self.loss(pairs, labels)

    def loss(self, pairs: Tensor, labels: Tensor) -> Tensor:
        """Weighted mean squared error; pairs (N, 2) of (user row, item token), labels (N, 2) of
        (rating, weight)."""
        found = self._rating(self.users(pairs[:, 0]), self.items(pairs[:, 1]))
        return ((found - labels[:, 0]) ** 2 * labels[:, 1]).sum() / labels[:, 1].sum()

    def score(self, users: list[str], histories: list[list[int]]) -> Tensor:
        """(B, V) ratings; `histories` do not matter to this model."""
        return self._rating(self._user_vectors(users)[:, None], self.items.weight[None])

    def ratings(self, users: list[str], tokens: list[int]) -> Tensor:
        """(N,) ratings of (user, item) pairs; token -1 is an item outside the catalogue."""
        mean = self.items.weight[NUM_SPECIAL:].mean(0, keepdim=True)
        table = torch.cat([self.items.weight, mean])
        return self._rating(self._user_vectors(users), table[torch.tensor(tokens)])

    def probability(self, scores: Tensor) -> Tensor:
        """Sigmoid of how far a rating is from the mean one: an order, and no chance."""
        return (scores - self.mean).sigmoid()

    def _user_vectors(self, users: list[str]) -> Tensor:
        table = torch.cat([self.users.weight, self.users.weight.mean(0, keepdim=True)])
        return table[torch.tensor([self._row.get(user, -1) for user in users])]

    def _rating(self, u: Tensor, i: Tensor) -> Tensor:
        u, i = torch.broadcast_tensors(u, i)
        return self.mean + self.beta(torch.cat([u, i, u * i], -1)).squeeze(-1)
