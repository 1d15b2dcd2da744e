"""The loss on all of the catalogue is cross-entropy; those on samples of it agree with it."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from llmaug.items.vocabulary import NUM_SPECIAL
from llmaug.training import losses
from llmaug.training.losses import bpr, draw_negatives, sampled_softmax, softmax, target_share

NUM_ITEMS, DIM = 30, 4
V = NUM_SPECIAL + NUM_ITEMS


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Threads that wait for each other cost more than these tensors do, on a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def batch() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """(hidden, table, targets, share) of 6,000 targets; item i is drawn as 1 / (i + 1)."""
    torch.manual_seed(0)
    counts = np.r_[np.zeros(NUM_SPECIAL), 1000 / np.arange(1, NUM_ITEMS + 1)]
    share = torch.tensor(counts / counts.sum())
    targets = torch.multinomial(share, 6000, replacement=True)
    table = torch.randn(V, DIM)
    table[:NUM_SPECIAL] = -torch.inf  # special tokens are never targets, so never negatives
    return torch.randn(6000, DIM), table, targets, share.float()


def full(hidden: Tensor, table: Tensor, targets: Tensor) -> Tensor:
    """Softmax over the items alone."""
    logits = hidden @ table[NUM_SPECIAL:].T
    return cross_entropy(logits, targets - NUM_SPECIAL, reduction="none")


def sampled(
    hidden: Tensor, table: Tensor, targets: Tensor, share: Tensor, max_negatives: int
) -> Tensor:
    return sampled_softmax(hidden, table, targets, draw_negatives(targets, share, max_negatives))


@pytest.mark.parametrize("at_once", [1, 7, 64, 10_000])
def test_softmax_and_its_gradients_are_those_of_cross_entropy(
    monkeypatch: pytest.MonkeyPatch, at_once: int
) -> None:
    """However many targets are taken at a time, and with weights that differ."""
    monkeypatch.setattr(losses, "_MIN_TARGETS", at_once)
    monkeypatch.setattr(losses, "_LOGITS_ON_CPU", 0)
    torch.manual_seed(0)
    targets, weights = torch.randint(0, V, (200,)), torch.rand(200).double()
    found, expected = [], []
    for out, fused in ((found, True), (expected, False)):
        torch.manual_seed(1)
        hidden = torch.randn(200, DIM, dtype=torch.float64, requires_grad=True)
        table = torch.randn(V, DIM, dtype=torch.float64, requires_grad=True)
        if fused:
            loss = softmax(hidden, table, targets, weights)
        else:
            each = cross_entropy(hidden @ table.T, targets, reduction="none")
            loss = (each * weights).sum() / weights.sum()
        (3 * loss).backward()
        assert hidden.grad is not None and table.grad is not None
        out += [loss, hidden.grad, table.grad]
    for ours, torchs in zip(found, expected, strict=True):
        assert torch.allclose(ours, torchs, rtol=1e-10, atol=1e-12)


def test_softmax_of_a_hopeless_target_is_finite_and_pushes_the_right_way() -> None:
    hidden = torch.tensor([[1.0]], requires_grad=True)
    table = torch.tensor([[500.0], [-500.0]])
    loss = softmax(hidden, table, torch.tensor([1]), torch.ones(1))
    loss.backward()
    assert 80 < loss.item() < 100
    assert hidden.grad is not None and hidden.grad.item() == 1000


def test_softmax_of_what_is_no_number_is_none() -> None:
    nan = softmax(torch.full((1, 1), torch.nan), torch.ones(2, 1), torch.tensor([1]), torch.ones(1))
    assert torch.isnan(nan)


def test_the_sample_estimates_the_softmax_over_all_items(
    batch: tuple[Tensor, Tensor, Tensor, Tensor],
) -> None:
    hidden, table, targets, share = batch
    expected = full(hidden, table, targets)
    found = sampled(hidden, table, targets, share, 12_000)
    assert found.mean().item() == pytest.approx(expected.mean().item(), rel=0.02)
    assert np.corrcoef(found, expected)[0, 1] > 0.99


def test_without_the_correction_popular_items_are_held_down(
    batch: tuple[Tensor, Tensor, Tensor, Tensor],
) -> None:
    """The gradient of an item says which way its score is pushed."""
    hidden, table, targets, share = batch

    def push(share: Tensor | None) -> Tensor:
        items = table[NUM_SPECIAL:].clone().requires_grad_()
        whole = torch.cat([table[:NUM_SPECIAL], items])
        if share is None:
            loss = full(hidden, whole, targets)
        else:
            loss = sampled(hidden, whole, targets, share, 12_000)
        loss.mean().backward()
        assert items.grad is not None
        return items.grad

    truth, corrected = push(None), push(share)
    uncorrected = push(torch.full((V,), 1 / NUM_ITEMS))
    error = (corrected - truth).norm() / truth.norm()
    assert error < 0.1
    assert (uncorrected - truth).norm() / truth.norm() > 5 * error


def test_few_negatives_are_enough_on_average(
    batch: tuple[Tensor, Tensor, Tensor, Tensor],
) -> None:
    hidden, table, targets, share = batch
    expected = full(hidden, table, targets).mean().item()
    draws = [sampled(hidden, table, targets, share, 200).mean().item() for _ in range(20)]
    assert np.mean(draws) == pytest.approx(expected, rel=0.05)
    assert len(set(draws)) == 20  # other negatives each time


def test_the_target_is_no_negative_of_itself() -> None:
    """In a catalogue of one item there is nothing to tell it apart from."""
    table, targets = torch.randn(NUM_SPECIAL + 1, DIM), torch.full((5,), NUM_SPECIAL)
    loss = sampled(torch.randn(5, DIM), table, targets, torch.ones(4), 5)
    assert loss.abs().max() < 1e-6


def test_items_that_are_never_a_target_are_pushed_down() -> None:
    table = torch.zeros(V, DIM).requires_grad_()
    targets = torch.full((200,), NUM_SPECIAL)
    share = target_share(np.bincount(targets, minlength=V), V)
    sampled(torch.ones(200, DIM), table, targets, share, 200).mean().backward()
    assert table.grad is not None
    assert (table.grad[NUM_SPECIAL] < 0).all()
    pushed = (table.grad[NUM_SPECIAL + 1 :] > 0).all(1).double().mean()
    assert pushed > 0.9  # all that were drawn


def test_shares_of_the_targets() -> None:
    assert target_share(np.array([0, 3, 1]), 3).tolist() == [0, 0.75, 0.25]
    assert target_share(None, 4).tolist() == [0.25] * 4


def test_bpr_by_hand() -> None:
    """Two items: the other one is always the negative, and special tokens never are."""
    table = torch.tensor([[100.0], [100.0], [100.0], [2.0], [0.5]])
    hidden, targets = torch.tensor([[1.0], [1.0]]), torch.tensor([3, 4])
    expected = [np.log1p(np.exp(-1.5)), np.log1p(np.exp(1.5))]
    assert bpr(hidden, table, targets).tolist() == pytest.approx(expected)


def test_bpr_draws_every_item_but_the_target() -> None:
    table = torch.arange(float(V))[:, None]  # an item's score is its token
    targets = torch.full((4000,), NUM_SPECIAL + 7)
    torch.manual_seed(0)
    margin = -torch.log(torch.expm1(bpr(torch.ones(4000, 1), table, targets).double()))
    drawn = set((targets - margin.round().long()).tolist())
    assert drawn == set(range(NUM_SPECIAL, V)) - {NUM_SPECIAL + 7}
