"""Cross-entropy over next items that could as well have come: soft targets of a teacher.

A teacher names, for a position, the k items that it finds likeliest and their probabilities; all
others are one bucket with the probability that is left (without it the student is told that they
are impossible). With Z the logsumexp of the logits of all tokens, R that of those outside the top
k, a position costs

    (1 - a) (Z - s_target) + a [sum_j p_j (Z - s_j) + (1 - sum_j p_j) (Z - R)]

and no (P, V) targets are made. A position without soft targets is a plain one: there a = 0.

Shapes: P targets, D width, V tokens, K soft targets a position.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor

from llmaug.training import losses


class Soft(NamedTuple):
    """What else could have come, and how likely."""

    tokens: Tensor
    """(P, K) int64, different ones in a row; -1 where there are fewer."""
    chances: Tensor
    """(P, K), together at most 1; 0 for what is known to be impossible."""


def soft_cross_entropy(logits: Tensor, targets: Tensor, soft: Soft, share: float) -> Tensor:
    """(P,) losses of logits (P, V), -inf for tokens that are no items; share: a, how much the
    soft targets count where there are any."""
    return _OfLogits.apply(logits, targets, *_inside(targets, soft, share))


def soft_softmax(
    hidden: Tensor, table: Tensor, targets: Tensor, weights: Tensor, soft: Soft, share: float
) -> Tensor:
    """`losses.softmax` with soft targets; hidden (P, D), table (V, D), targets (P,), weights
    (P,), scalar out."""
    with torch.autocast(hidden.device.type, enabled=False):  # small chances need float32
        at_least = torch.promote_types(hidden.dtype, torch.float32)
        inside = _inside(targets, soft, share)
        by_weight = weights / weights.sum()
        return _OfHidden.apply(
            hidden.to(at_least), table.to(at_least), targets, by_weight, *inside
        )


def _inside(targets: Tensor, soft: Soft, share: float) -> tuple[Tensor, Tensor, Tensor]:
    """(P, K) tokens whose chances are known, (P, K) these times the share, -1 where there is
    none, and (P, 1) the share times the chance of all others.

    A row without soft targets has its target as the only token and nothing to share.
    """
    tokens, chances = soft
    known = tokens >= 0
    chances = chances.masked_fill(~known, 0.0)
    total = chances.sum(1, keepdim=True)
    some = total > 0
    known = known & some
    first = tokens.gather(1, chances.argmax(1, keepdim=True))
    first = torch.where(some, first, targets[:, None])  # stands in for those that are missing
    known[:, :1] |= ~some
    others = share * (1 - total).clamp(min=0) * some
    return torch.where(known, tokens, first), (share * chances).masked_fill(~known, -1.0), others


def _losses_and_gradient(
    logits: Tensor, targets: Tensor, tokens: Tensor, chances: Tensor, others: Tensor
) -> tuple[Tensor, Tensor]:
    """(P,) losses and the gradient of their sum at the logits (P, V), which are overwritten."""
    at_target = logits.gather(1, targets[:, None])
    inside = logits.gather(1, tokens)
    if (chances < 0).any():
        inside = inside.masked_fill(chances < 0, -math.inf)
        chances = chances.clamp(min=0)
    logits.scatter_(1, tokens, -math.inf)
    highest = logits.amax(1, keepdim=True)
    outside = logits.softmax(1)
    # The highest chance is exp(highest - R): R without a difference of sums.
    log_outside = highest - outside.amax(1, keepdim=True).log_()
    nothing = highest.isneginf()  # all items are inside
    if nothing.any():
        outside.masked_fill_(nothing, 0.0)
        log_outside = log_outside.masked_fill(nothing, -math.inf)
        others = others.masked_fill(nothing, 0.0)
    top = torch.maximum(highest, inside.amax(1, keepdim=True))
    by_top = (inside - top).exp_()
    outside_by_top = (log_outside - top).exp_()
    total = by_top.sum(1, keepdim=True) + outside_by_top
    log_all = top + total.log()
    own = 1 - chances.sum(1, keepdim=True) - others  # what soft targets leave to the target
    # The sum over the top k counts only what has a chance: others may be -inf.
    loss = log_all - own * at_target - (chances * inside.masked_fill(chances == 0, 0.0)).sum(
        1, keepdim=True
    )
    loss -= others * log_outside.masked_fill(nothing, 0.0)
    outside.mul_(outside_by_top / total - others)
    outside.scatter_add_(1, tokens, by_top.div_(total).sub_(chances))
    outside.scatter_add_(1, targets[:, None], -own)
    return loss[:, 0], outside


class _OfLogits(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, logits: Tensor, targets: Tensor, tokens: Tensor, chances: Tensor, others: Tensor
    ) -> Tensor:
        loss, gradient = _losses_and_gradient(logits.clone(), targets, tokens, chances, others)
        ctx.save_for_backward(gradient)
        return loss

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None, None, None]:
        (gradient,) = ctx.saved_tensors
        return gradient * grads[0][:, None], None, None, None, None


class _OfHidden(torch.autograd.Function):
    """The loss and its gradients in one go, some targets at a time: as `losses.softmax`."""

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, table: Tensor, targets: Tensor, weights: Tensor,
        tokens: Tensor, chances: Tensor, others: Tensor,
    ) -> Tensor:  # fmt: skip
        for_hidden, for_table = torch.empty_like(hidden), torch.zeros_like(table)
        loss = torch.empty_like(weights)
        most = losses._LOGITS_ON_CPU if hidden.device.type == "cpu" else losses._LOGITS_ON_GPU
        at_once = max(losses._MIN_TARGETS, most // len(table))
        for start in range(0, len(hidden), at_once):
            some = slice(start, start + at_once)
            users, weight = hidden[some], weights[some, None]
            loss[some], gradient = _losses_and_gradient(
                users @ table.T, targets[some], tokens[some], chances[some], others[some]
            )
            for_table.addmm_(gradient.T, users * weight)
            torch.mm(gradient, table, out=for_hidden[some]).mul_(weight)
        ctx.save_for_backward(for_hidden, for_table)
        return (loss * weights).sum()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None, None, None, None, None]:
        for_hidden, for_table = ctx.saved_tensors
        return for_hidden * grads[0], for_table * grads[0], None, None, None, None, None
