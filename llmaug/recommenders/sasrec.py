"""SASRec: self-attentive sequential recommendation (Kang and McAuley 2018).

Pre-norm causal transformer over the last `history_len` item tokens, trained with full
softmax cross-entropy over the catalogue at every real position (as gSASRec and RecTools
found better than sampled binary losses on catalogues of this size). For catalogues that are
too large for that, `loss: sampled_softmax` estimates it from a sample of the items. Of events with
soft targets a share of the loss is theirs (training/soft.py).

With `item_features` an item's embedding is `id row + sum of its tag vectors + projected text
vector`, as in the behaviour model.

Shapes: B sequences, T positions, D width, V tokens, K soft targets of an event.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from llmaug.config import SasrecConfig
from llmaug.items.arrays import padded_prompts
from llmaug.items.item_features import recommender_features
from llmaug.items.vocabulary import BOS, PAD
from llmaug.recommenders import DataFacts
from llmaug.recommenders.dropout import Dropout
from llmaug.training import losses
from llmaug.training.soft import Soft, sampled_soft_softmax, soft_softmax

_TOKENS_A_PASS = 256
"""A pass through the blocks costs about as much as so many tokens in it (measured on a CPU)."""


class SASRec(nn.Module):
    _share: Tensor

    def __init__(self, config: SasrecConfig, facts: DataFacts) -> None:
        super().__init__()
        num_tokens = facts.vocabulary.num_tokens
        self.history_len = config.history_len
        self._loss, self._max_negatives = config.loss, config.max_negatives
        self._soft_share = config.soft_share
        self.items = nn.Embedding(num_tokens, config.embedding_dim)
        self.positions = nn.Embedding(config.history_len, config.embedding_dim)
        self.blocks = nn.ModuleList(
            _Block(config.embedding_dim, config.num_heads, config.dropout)
            for _ in range(config.num_layers)
        )
        self.norm = nn.LayerNorm(config.embedding_dim)
        self.dropout = Dropout(config.dropout)
        for table in (self.items, self.positions):
            nn.init.normal_(table.weight, std=0.02)
        # Last: with and without features, everything else starts from the same weights.
        self.features = recommender_features(config, facts.vocabulary, facts.min_tag_items)
        share = losses.target_share(facts.target_counts, num_tokens)
        self.register_buffer("_share", share, persistent=False)

    def forward(self, tokens: Tensor, weights: Tensor, *soft: Tensor) -> Tensor:
        return self.soft_loss(tokens, weights, *soft) if soft else self.loss(tokens, weights)

    def soft_loss(self, tokens: Tensor, weights: Tensor, others: Tensor, chances: Tensor) -> Tensor:
        """`loss` with soft targets: (B, T + 1, K) tokens, -1 where there are fewer, and chances."""
        table = self.table()
        users, targets, weights, *soft = self._targets(tokens, weights, table, others, chances)
        given = users, table, targets, weights, Soft(*soft), self._soft_share
        if self._loss == "softmax":
            return soft_softmax(*given)
        return sampled_soft_softmax(*given, self._negatives(targets))

    def loss(self, tokens: Tensor, weights: Tensor) -> Tensor:
        """Weighted mean cross-entropy; tokens (B, T + 1), weights (B, T + 1), scalar out."""
        table = self.table()
        users, targets, weights = self._targets(tokens, weights, table)
        if self._loss == "softmax":
            return losses.softmax(users, table, targets, weights)
        loss = losses.sampled_softmax(users, table, targets, self._negatives(targets))
        return (loss * weights).sum() / weights.sum()

    def _negatives(self, targets: Tensor) -> losses.Negatives:
        return losses.draw_negatives(targets, self._share, self._max_negatives)

    def _targets(
        self, tokens: Tensor, weights: Tensor, table: Tensor, *soft: Tensor
    ) -> list[Tensor]:
        """(P, D) hidden states before all real targets, (P,) these, (P,) their weights, and two
        (P, K) of soft targets where these are given.

        Rows of about the same length go through the blocks together, so that a long history
        does not pad the short ones: most logs have many of these.
        """
        length, order = ((tokens != PAD).sum(1) - 1).sort(stable=True)
        size = _rows_a_pass(length.tolist())
        found = []
        for rows, lengths in zip(order.split(size), length.split(size), strict=True):
            width = int(lengths[-1])
            own, own_weights = tokens[rows, : width + 1], weights[rows, 1 : width + 1]
            hidden = self._hidden(own[:, :-1], lengths, table)
            real = own_weights > 0  # only real targets meet the V-wide softmax
            others = (each[rows, 1 : width + 1][real] for each in soft)
            found.append((hidden[real], own[:, 1:][real], own_weights[real], *others))
        return [torch.cat(pieces) for pieces in zip(*found, strict=True)]

    def score(self, users: list[str], histories: list[list[int]]) -> Tensor:
        """(B, V) logits of the next item; a user without history is scored from BOS alone."""
        inputs = [[BOS, *h][-self.history_len :] for h in histories]
        table = self.table()
        tokens, last = (torch.from_numpy(x).to(table.device) for x in padded_prompts(inputs))
        hidden = self._hidden(tokens, last + 1, table)
        return hidden[torch.arange(len(inputs), device=last.device), last] @ table.T

    def probability(self, scores: Tensor) -> Tensor:
        """Softmax over the catalogue: the chance that the item is the next one."""
        return scores.softmax(-1)

    def table(self) -> Tensor:
        """(V, D) embeddings of all tokens, features included."""
        return self.items.weight if self.features is None else self.items.weight + self.features()

    def _hidden(self, tokens: Tensor, length: Tensor, table: Tensor) -> Tensor:
        """(B, T) tokens padded right, (B,) lengths to (B, T, D). Padding needs no mask: it
        stands behind every real position. Positions count back from the newest event."""
        place = torch.arange(tokens.shape[1], device=tokens.device)
        from_end = (self.history_len - length[:, None] + place).clamp(0, self.history_len - 1)
        x = self.dropout(F.embedding(tokens, table) + self.positions(from_end))
        for block in self.blocks:
            x = block(x)
        return self.norm(x)


def _rows_a_pass(lengths: list[int]) -> int:
    """How many of the rows with these ascending lengths go through the blocks together: few for
    little padding, many for few passes."""

    def cost(size: int) -> int:
        ends = [min(start + size, len(lengths)) for start in range(0, len(lengths), size)]
        return sum(size * lengths[end - 1] + _TOKENS_A_PASS for end in ends)

    return min((-(-len(lengths) // passes) for passes in (1, 2, 4, 8)), key=cost)


class _Block(nn.Module):
    def __init__(self, dim: int, num_heads: int, dropout: float) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.qkv, self.out = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)
        self.feed = nn.Sequential(
            nn.Linear(dim, dim), nn.GELU(), Dropout(dropout), nn.Linear(dim, dim)
        )
        self.dropout = Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        B, T, D = x.shape
        qkv = self.qkv(self.norm1(x)).view(B, T, 3, self.num_heads, D // self.num_heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)  # each (B, heads, T, D / heads)
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.dropout(self.out(mixed.transpose(1, 2).reshape(B, T, D)))
        return x + self.dropout(self.feed(self.norm2(x)))
