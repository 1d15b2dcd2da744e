"""Dropout with cheap masks is dropout."""

from __future__ import annotations

import pytest
import torch

from llmaug.recommenders.dropout import Dropout


@pytest.mark.parametrize("share", [0.1, 0.2, 0.5, 0.9])
def test_the_share_is_dropped_and_the_rest_makes_up_for_it(share: float) -> None:
    torch.manual_seed(0)
    x = torch.ones(1_000_003)  # no multiple of eight
    out = Dropout(share).train()(x)
    kept = out > 0
    assert 1 - kept.double().mean().item() == pytest.approx(share, abs=0.004)
    assert out.double().mean().item() == pytest.approx(1, abs=0.01)
    assert out[kept].unique().numel() == 1


def test_neighbours_are_dropped_independently() -> None:
    """Eight values share a random number: none of them tells of another."""
    torch.manual_seed(0)
    kept = (Dropout(0.5).train()(torch.ones(200_000, 8)) > 0).double()
    correlation = torch.corrcoef(kept.T) - torch.eye(8)
    assert correlation.abs().max() < 0.01


def test_the_gradient_goes_where_the_value_went() -> None:
    x = torch.randn(3, 5, 7, requires_grad=True)
    out = Dropout(0.5).train()(x)
    out.sum().backward()
    assert x.grad is not None
    assert torch.equal(x.grad * x.detach(), out.detach())


def test_a_seed_gives_one_mask_and_the_next_call_another() -> None:
    layer, x = Dropout(0.5).train(), torch.ones(1000)
    torch.manual_seed(3)
    first, second = layer(x), layer(x)
    torch.manual_seed(3)
    assert torch.equal(layer(x), first)
    assert not torch.equal(first, second)


def test_nothing_is_dropped_when_scoring_or_at_share_0() -> None:
    x = torch.randn(100)
    assert torch.equal(Dropout(0.5).eval()(x), x)
    assert torch.equal(Dropout(0.0).train()(x), x)
