"""Losses over next items that sequence models share.

Shapes: P targets, D width, V tokens.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from llmaug.vocabulary import NUM_SPECIAL


def softmax(hidden: Tensor, table: Tensor, targets: Tensor) -> Tensor:
    """(P,) cross-entropy over all tokens; hidden (P, D), table (V, D), targets (P,)."""
    return F.cross_entropy(hidden @ table.T, targets, reduction="none")


def sampled_softmax(
    hidden: Tensor, table: Tensor, targets: Tensor, share: Tensor, max_negatives: int
) -> Tensor:
    """(P,) estimates of `softmax` over the items that cost P x max_negatives, not P x V.

    One half of the negatives are targets of the same batch. The other half are drawn
    uniformly: items that are never a target would else never be pushed down (Yang et al.
    2020, mixed negative sampling). Popular items are drawn more often, so each logit is
    lowered by the log of how often it is expected (logQ correction, Yi et al. 2019). The
    target itself is always there: it is not sampled, so not corrected (Khrylchenko et al.
    2025), and leaves the negatives.

    share: (V,) each token's share of all targets.
    """
    num_drawn = min(len(targets), max(1, max_negatives // 2))
    places = torch.randperm(len(targets), device=targets.device)[:num_drawn]
    uniform = torch.randint(NUM_SPECIAL, len(table), (num_drawn,), device=targets.device)
    negatives = torch.cat([targets[places], uniform])
    expected = num_drawn * (share[negatives] + 1 / (len(table) - NUM_SPECIAL))
    others = hidden @ table[negatives].T - expected.log()  # (P, negatives)
    others = others.masked_fill(targets[:, None] == negatives[None], -math.inf)
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
