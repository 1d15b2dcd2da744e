"""Cross-entropy over next items that could as well have come: soft targets of a teacher.

A teacher names, for a position, the k items that it finds likeliest and their probabilities; all
others are one bucket with the probability that is left (without it the student is told that they
are impossible). With Z the logsumexp of the logits of all tokens, R that of those outside the top
k, a position costs

    (1 - a) (Z - s_target) + a [sum_j p_j (Z - s_j) + (1 - sum_j p_j) (Z - R)]

and no (P, V) targets are made. A position without soft targets is a plain one: there a = 0.

Of a large catalogue a sample of items stands for those that are neither in the top k nor the real
one, in Z and in R.

Shapes: P targets, D width, V tokens, K soft targets a position, N negatives.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import embedding_bag

from llmaug.training import losses

_SAMPLED_AT_ONCE = 1024
"""Positions whose K item vectors are there together: 13 MB at K = 50 and D = 64. With 128, which
stay in a core's cache, it took 1.4 times as long."""


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


def sampled_soft_softmax(
    hidden: Tensor,
    table: Tensor,
    targets: Tensor,
    weights: Tensor,
    soft: Soft,
    share: float,
    negatives: losses.Negatives,
) -> Tensor:
    """Estimates `soft_softmax` at a cost of P x (K + N), not P x V: scalar out.

    The top k and the real item of a position are known and leave the negatives, which stand for
    all that is in neither.
    """
    with torch.autocast(hidden.device.type, enabled=False):
        at_least = torch.promote_types(hidden.dtype, torch.float32)
        parts = _parts(targets, soft, share)
        by_weight = weights / weights.sum()
        return _OfSample.apply(
            hidden.to(at_least), table.to(at_least), targets, by_weight, *negatives, *parts
        )


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


class _AtScores(NamedTuple):
    """The gradient of a sum of losses."""

    outside: Tensor
    """(P, N)"""
    inside: Tensor
    """(P, K)"""
    target: Tensor
    """(P, 1)"""


def _of_scores(
    outside: Tensor, inside: Tensor, at_target: Tensor, parts: _Parts
) -> tuple[Tensor, _AtScores]:
    """(P,) losses, of the scores of the top k (P, K), of all other items (P, N), -inf for none, and
    once more of the real item (P, 1)."""
    target, others, chances, _, missing = parts
    highest = outside.amax(1, keepdim=True)
    outside = outside.softmax(1)
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
    return loss[:, 0], _AtScores(outside, by_top.div_(total).sub_(chances), -target)


def _of_logits(logits: Tensor, targets: Tensor, parts: _Parts) -> tuple[Tensor, Tensor]:
    """(P,) losses and the gradient of their sum at the logits (P, V), which are overwritten."""
    column, tokens = targets[:, None], parts.tokens
    at_target, inside = logits.gather(1, column), logits.gather(1, tokens)
    logits.scatter_(1, tokens, logits.new_tensor(-math.inf).expand_as(inside))
    loss, gradient = _of_scores(logits, inside, at_target, parts)
    for_logits = gradient.outside.scatter_add_(1, tokens, gradient.inside)
    return loss, for_logits.scatter_add_(1, column, gradient.target)


class _OfLogits(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits: Tensor, targets: Tensor, *parts: Tensor) -> Tensor:
        loss, gradient = _of_logits(logits.clone(), targets, _Parts(*parts))
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
            loss[some], gradient = _of_logits(
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


class _OfSample(torch.autograd.Function):
    """`_OfHidden` on a sample of the items."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        table: Tensor,
        targets: Tensor,
        weights: Tensor,
        negatives: Tensor,
        log_weights: Tensor,
        *parts: Tensor,
    ) -> Tensor:
        # The last column of the scores is the real item's, where it is not in the top k; until
        # then, and in the table of negatives, nobody's.
        last = len(negatives)
        others = torch.cat([table[negatives], table.new_zeros(1, table.shape[1])])
        log_weights = torch.cat([log_weights, log_weights.new_zeros(1)]).to(table.dtype)
        column = targets.new_full((len(table),), last)
        column[negatives] = torch.arange(last, device=column.device)
        for_hidden, for_table = torch.empty_like(hidden), torch.zeros_like(table)
        for_others, loss = torch.zeros_like(others), torch.empty_like(weights)
        k = parts[-1].shape[1]
        for start in range(0, len(hidden), _SAMPLED_AT_ONCE):
            some = slice(start, start + _SAMPLED_AT_ONCE)
            users, weight, target = hidden[some], weights[some, None], targets[some, None]
            own_parts = _Parts(*parts).some(some)
            tokens = torch.cat([own_parts.tokens, target], 1)
            rows = table.index_select(0, tokens.view(-1)).view(*tokens.shape, -1)
            own = (users[:, None] @ rows.transpose(1, 2))[:, 0]
            inside, at_target = own.split([k, 1], 1)
            outside = torch.addmm(log_weights, users, others.T)
            place = column.index_select(0, tokens.view(-1)).view_as(tokens)
            outside.scatter_(1, place, outside.new_tensor(-math.inf).expand_as(own))
            among_top = ((own_parts.tokens == target) & ~own_parts.missing).any(1, keepdim=True)
            outside[:, last:] = at_target.masked_fill(among_top, -math.inf)
            loss[some], gradient = _of_scores(outside, inside, at_target, own_parts)
            at_target = gradient.target + gradient.outside[:, last:]
            for_own = torch.cat([gradient.inside, at_target], 1)
            weighted = users * weight
            for_others.addmm_(gradient.outside.T, weighted)
            by_row = (for_own[:, :, None] * weighted[:, None]).view(-1, table.shape[1])
            for_table.index_add_(0, tokens.view(-1), by_row)
            by_own = embedding_bag(tokens, table, per_sample_weights=for_own, mode="sum")
            for_hidden[some] = by_own.addmm_(gradient.outside, others).mul_(weight)
        for_table.index_add_(0, negatives, for_others[:last])
        ctx.save_for_backward(for_hidden, for_table)
        return (loss * weights).sum()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        for_hidden, for_table = ctx.saved_tensors
        return for_hidden * grads[0], for_table * grads[0], *[None] * 9
