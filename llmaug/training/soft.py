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
    return _OfLogits.apply(logits, targets, *_parts(targets, soft, share))


def soft_softmax(
    hidden: Tensor, table: Tensor, targets: Tensor, weights: Tensor, soft: Soft, share: float
) -> Tensor:
    """`losses.softmax` with soft targets; hidden (P, D), table (V, D), targets (P,), weights
    (P,), scalar out."""
    with torch.autocast(hidden.device.type, enabled=False):  # small chances need float32
        at_least = torch.promote_types(hidden.dtype, torch.float32)
        parts = _parts(targets, soft, share)
        by_weight = weights / weights.sum()
        return _OfHidden.apply(hidden.to(at_least), table.to(at_least), targets, by_weight, *parts)


class _Parts(NamedTuple):
    """How the loss of each position is shared out; what it gives away is 1 in all."""

    target: Tensor
    """(P, 1) of the real next item."""
    others: Tensor
    """(P, 1) of all tokens outside the top k together."""
    inside: Tensor
    """(P, K) of the top k; 0 where there is none."""
    tokens: Tensor
    """(P, K) the top k; where there is none, another token of the row once more."""
    missing: Tensor
    """(P, K) bool, where there is none."""

    def some(self, rows: slice) -> _Parts:
        return _Parts(*(part[rows] for part in self))


def _parts(targets: Tensor, soft: Soft, share: float) -> _Parts:
    """A row without soft targets has its target as the only token and nothing to share."""
    missing = soft.tokens < 0
    inside = (soft.chances * share).masked_fill_(missing, 0.0)
    given, likeliest = inside.sum(1, keepdim=True), inside.argmax(1, keepdim=True)
    none = given <= 0
    missing |= none
    missing[:, :1] &= ~none
    stand_in = torch.where(none, targets[:, None], soft.tokens.gather(1, likeliest))
    others = (share - given).clamp_(min=0).masked_fill_(none, 0.0)
    tokens = torch.where(missing | none, stand_in, soft.tokens)
    return _Parts(1 - given - others, others, inside, tokens, missing)


def _losses_and_gradient(logits: Tensor, targets: Tensor, parts: _Parts) -> tuple[Tensor, Tensor]:
    """(P,) losses and the gradient of their sum at the logits (P, V), which are overwritten."""
    target, others, chances, tokens, missing = parts
    at_target, inside = logits.gather(1, targets[:, None]), logits.gather(1, tokens)
    logits.scatter_(1, tokens, logits.new_tensor(-math.inf).expand_as(inside))
    highest = logits.amax(1, keepdim=True)
    outside = logits.softmax(1)
    # The highest chance is exp(highest - R): R without a difference of sums.
    log_outside = highest - outside.amax(1, keepdim=True).log_()
    empty = highest.isneginf()  # all items are inside
    if empty.any():
        outside.masked_fill_(empty, 0.0)
        log_outside = log_outside.masked_fill(empty, -math.inf)
        target, others = torch.where(empty, target + others, target), others.masked_fill(empty, 0.0)
    top = torch.maximum(highest, inside.amax(1, keepdim=True))
    by_top = (inside - top).exp_().masked_fill_(missing, 0.0)
    outside_by_top = (log_outside - top).exp_()
    total = by_top.sum(1, keepdim=True) + outside_by_top
    known = (chances * inside).sum(1, keepdim=True)
    if known.isnan().any():  # a token that is no item, with chance 0
        known = (chances * inside.masked_fill(chances == 0, 0.0)).sum(1, keepdim=True)
    # Z takes part in each term, and these are 1 together.
    loss = top + total.log() - target * at_target - known
    loss -= others * log_outside.masked_fill(empty, 0.0)
    outside.mul_(outside_by_top / total - others)
    outside.scatter_add_(1, tokens, by_top.div_(total).sub_(chances))
    outside.scatter_add_(1, targets[:, None], -target)
    return loss[:, 0], outside


class _OfLogits(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits: Tensor, targets: Tensor, *parts: Tensor) -> Tensor:
        loss, gradient = _losses_and_gradient(logits.clone(), targets, _Parts(*parts))
        ctx.save_for_backward(gradient)
        return loss

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,) = ctx.saved_tensors
        return gradient * grads[0][:, None], *[None] * 6


class _OfHidden(torch.autograd.Function):
    """The loss and its gradients in one go, some targets at a time: as `losses.softmax`."""

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, table: Tensor, targets: Tensor, weights: Tensor, *parts: Tensor
    ) -> Tensor:
        for_hidden, for_table = torch.empty_like(hidden), torch.zeros_like(table)
        loss = torch.empty_like(weights)
        at_once = losses.targets_at_once(table)
        for start in range(0, len(hidden), at_once):
            some = slice(start, start + at_once)
            users, weight = hidden[some], weights[some, None]
            loss[some], gradient = _losses_and_gradient(
                users @ table.T, targets[some], _Parts(*parts).some(some)
            )
            for_table.addmm_(gradient.T, users * weight)
            for_hidden[some] = (gradient @ table) * weight
        ctx.save_for_backward(for_hidden, for_table)
        return (loss * weights).sum()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        for_hidden, for_table = ctx.saved_tensors
        return for_hidden * grads[0], for_table * grads[0], *[None] * 7
