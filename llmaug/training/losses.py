"""Losses over next items that sequence models share.

Shapes: P targets, D width, V tokens, N negatives.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from llmaug.items.vocabulary import NUM_SPECIAL

_LOGITS_ON_CPU, _LOGITS_ON_GPU = 2**19, 2**26
"""Logits at a time: 2 MB stay in a core's cache."""
_MIN_TARGETS = 128
"""Targets at a time at least: fewer would read a large table too often."""


def targets_at_once(table: Tensor) -> int:
    """How many targets to take together, against a table (V, D)."""
    most = _LOGITS_ON_CPU if table.device.type == "cpu" else _LOGITS_ON_GPU
    return max(_MIN_TARGETS, most // len(table))


class _SoftmaxLoss(torch.autograd.Function):
    """`softmax` and its gradients in one go, some targets at a time.

    The (P, V) logits are never there as a whole: written, normalised, read for both gradients
    and forgotten while they are in the cache. Autograd would keep them, and their gradient.
    """

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, table: Tensor, targets: Tensor, share: Tensor) -> Tensor:
        """Shares (P,) of the targets in the loss; the scalar loss out."""
        for_hidden, for_table = torch.empty_like(hidden), torch.zeros_like(table)
        losses = torch.empty_like(share)
        at_once = targets_at_once(table)
        for start in range(0, len(hidden), at_once):
            some = slice(start, start + at_once)
            users, own, weight = hidden[some], targets[some], share[some, None]
            chance = (users @ table.T).softmax(1)
            losses[some] = chance.gather(1, own[:, None])[:, 0]
            # d loss / d logits is (chance - 1 at the target) x weight; only what is (., D) is
            # weighted, and the target is taken out of the sums.
            weighted = users * weight
            for_table.addmm_(chance.T, weighted)
            for_table.index_add_(0, own, weighted, alpha=-1)
            for_hidden[some] = (chance @ table - table[own]) * weight
        ctx.save_for_backward(for_hidden, for_table)
        # A chance that is too small for a float32 costs 87, not infinity; its gradient is right.
        return -(losses.clamp_(min=torch.finfo(losses.dtype).tiny).log_() * share).sum()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None, None]:
        for_hidden, for_table = ctx.saved_tensors
        return for_hidden * grads[0], for_table * grads[0], None, None


def softmax(hidden: Tensor, table: Tensor, targets: Tensor, weights: Tensor) -> Tensor:
    """Weighted mean cross-entropy over all tokens; hidden (P, D), table (V, D), targets (P,),
    weights (P,), scalar out."""
    with torch.autocast(hidden.device.type, enabled=False):  # small chances need float32
        share = weights / weights.sum()
        at_least = torch.promote_types(hidden.dtype, torch.float32)
        return _SoftmaxLoss.apply(hidden.to(at_least), table.to(at_least), targets, share)


class Negatives(NamedTuple):
    """Items that stand for all of a catalogue, for one batch."""

    tokens: Tensor
    """(N,) int64, different ones."""
    log_weights: Tensor
    """(N,) log of how often each was drawn over how often that is expected: added to its logit,
    the sum over the sample is on average that over all items (logQ correction)."""


def draw_negatives(targets: Tensor, share: Tensor, max_negatives: int) -> Negatives:
    """Of `max_negatives` draws one half are targets of the same batch. The other half are drawn
    uniformly: items that are never a target would else never be pushed down (Yang et al.
    2020, mixed negative sampling). Popular items are drawn more often: see `Negatives` (Yi et al.
    2019).

    share: (V,) each token's share of all targets.
    """
    num_drawn = min(len(targets), max(1, max_negatives // 2))
    places = torch.randperm(len(targets), device=targets.device)[:num_drawn]
    uniform = torch.randint(NUM_SPECIAL, len(share), (num_drawn,), device=targets.device)
    tokens, times = torch.cat([targets[places], uniform]).unique(return_counts=True)
    expected = num_drawn * (share[tokens] + 1 / (len(share) - NUM_SPECIAL))
    return Negatives(tokens, (times / expected).log())


def sampled_softmax(hidden: Tensor, table: Tensor, targets: Tensor, negatives: Negatives) -> Tensor:
    """(P,) estimates of the cross-entropy over all items that cost P x N, not P x V.

    The target itself is always there: it is not sampled, so not corrected (Khrylchenko et al.
    2025), and leaves the negatives.
    """
    others = hidden @ table[negatives.tokens].T + negatives.log_weights
    others = others.masked_fill(targets[:, None] == negatives.tokens, -math.inf)
    own = (hidden * table[targets]).sum(-1)
    return torch.logsumexp(torch.cat([own[:, None], others], 1), 1) - own


def bpr(hidden: Tensor, table: Tensor, targets: Tensor) -> Tensor:
    """(P,) Bayesian personalised ranking (Rendle et al. 2009) against one item each, drawn
    uniformly from all others."""
    num_items = len(table) - NUM_SPECIAL
    shift = torch.randint(1, max(2, num_items), targets.shape, device=targets.device)
    negatives = (targets - NUM_SPECIAL + shift) % num_items + NUM_SPECIAL
    margin = (hidden * (table[targets] - table[negatives])).sum(-1)
    return -F.logsigmoid(margin)


def target_share(target_counts: np.ndarray | None, num_tokens: int) -> Tensor:
    """(V,) each token's share of the targets; uniform without counts, for a model that is
    loaded and not trained."""
    counts = np.ones(num_tokens) if target_counts is None else target_counts
    return torch.from_numpy(counts / max(1, counts.sum())).float()
