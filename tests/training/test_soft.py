"""The loss of a position with soft targets: by hand, against the dense formula, at its edges."""

from __future__ import annotations

import math
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from llmaug.items.vocabulary import NUM_SPECIAL
from llmaug.training import losses
from llmaug.training import soft as soft_losses
from llmaug.training.losses import Negatives
from llmaug.training.soft import Soft, sampled_soft_softmax, soft_cross_entropy, soft_softmax

V, DIM, P, K = 30, 4, 200, 5


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def one(
    logits: list[float], target: int, tokens: list[int], chances: list[float], share: float
) -> float:
    soft = Soft(torch.tensor([tokens]), torch.tensor([chances], dtype=torch.float64))
    scores = torch.tensor([logits], dtype=torch.float64)
    return soft_cross_entropy(scores, torch.tensor([target]), soft, share).item()


def dense(logits: Tensor, targets: Tensor, soft: Soft, share: float) -> Tensor:
    """(P,) as the formula stands, row by row, by autograd."""
    rows = []
    for scores, target, tokens, chances in zip(logits, targets, *soft, strict=True):
        plain = scores.logsumexp(0) - scores[target]
        tokens, chances = tokens[tokens >= 0], chances[tokens >= 0]
        if not chances.sum() > 0:
            rows.append(plain)
            continue
        others = torch.ones(len(scores), dtype=torch.bool)
        others[tokens] = False
        of_top = (chances * (scores.logsumexp(0) - scores[tokens])).sum()
        of_others = (1 - chances.sum()) * (scores.logsumexp(0) - scores[others].logsumexp(0))
        rows.append((1 - share) * plain + share * (of_top + of_others))
    return torch.stack(rows)


@pytest.fixture
def batch() -> tuple[Tensor, Tensor, Tensor, Soft]:
    """(hidden, table, targets, soft): rows with K soft targets, with fewer, and with none."""
    torch.manual_seed(0)
    tokens = torch.rand(P, V).topk(K, 1).indices
    chances = torch.rand(P, K).double().softmax(1) * torch.rand(P, 1)
    tokens[20:40, 2:] = -1
    tokens[40:60, 0] = -1  # not only the last ones may be missing
    tokens[60:80] = -1
    chances[80:100] = 0
    chances[100:120, 1] = 0
    hidden, table = torch.randn(P, DIM).double(), torch.randn(V, DIM).double()
    return hidden, table, torch.randint(0, V, (P,)), Soft(tokens, chances)


def test_by_hand() -> None:
    # Chances of the student: 1/8, 2/8, 4/8, 1/8; the real item is the first.
    logits = [math.log(n) for n in (1, 2, 4, 1)]
    # Teacher: items 1 and 2 with 1/4 and 1/2; the other two, 2/8 of the student, have 1/4.
    expected = 0.5 * math.log(8) + 0.5 * (
        0.25 * math.log(4) + 0.5 * math.log(2) + 0.25 * math.log(4)
    )
    assert one(logits, 0, [1, 2], [0.25, 0.5], 0.5) == pytest.approx(expected)
    assert expected == pytest.approx(1.5596, abs=1e-4)


def test_a_chance_of_zero_is_impossible_and_not_one_of_the_others() -> None:
    logits = [math.log(n) for n in (1, 2, 4, 1)]
    # Item 1 cannot come; the others are 0 and 3, 2/8 of the student.
    assert one(logits, 0, [1, 2], [0.0, 0.5], 1.0) == pytest.approx(
        0.5 * math.log(2) + 0.5 * math.log(4)
    )


@pytest.mark.parametrize(
    ("tokens", "chances"), [([-1, -1], [0.0, 0.0]), ([1, 2], [0.0, 0.0]), ([-1, -1], [0.5, 0.5])]
)
def test_without_soft_targets_it_is_cross_entropy(tokens: list[int], chances: list[float]) -> None:
    logits = [math.log(n) for n in (1, 2, 4, 1)]
    assert one(logits, 2, tokens, chances, 0.5) == pytest.approx(math.log(2))


def test_the_top_k_may_have_all_of_the_probability() -> None:
    logits = [math.log(n) for n in (1, 2, 4, 1)]
    assert one(logits, 0, [1, 2], [0.25, 0.75], 1.0) == pytest.approx(
        0.25 * math.log(4) + 0.75 * math.log(2)
    )


def test_the_top_k_may_be_all_items() -> None:
    logits = [math.log(n) for n in (1, 2, 4, 1)]
    expected = 0.5 * math.log(8) + 0.5 * (
        0.1 * math.log(8) + 0.2 * math.log(4) + 0.3 * math.log(2) + 0.4 * math.log(8)
    )
    assert one(logits, 0, [0, 1, 2, 3], [0.1, 0.2, 0.3, 0.4], 0.5) == pytest.approx(expected)


def test_tokens_that_are_no_items_take_no_part() -> None:
    logits = [math.log(n) for n in (1, 2, 4, 1)]
    masked = [-math.inf, *logits, -math.inf]
    assert one(masked, 1, [2, 3], [0.25, 0.5], 0.5) == one(logits, 0, [1, 2], [0.25, 0.5], 0.5)
    # ... not even among the top k, with chance 0, or when no item is outside
    some = one(masked, 1, [2, 3, 0], [0.25, 0.5, 0.0], 0.5)
    assert some == one(logits, 0, [1, 2], [0.25, 0.5], 0.5)
    everything = one(masked, 1, [1, 2, 3, 4], [0.1, 0.2, 0.3, 0.4], 0.5)
    assert everything == one(logits, 0, [0, 1, 2, 3], [0.1, 0.2, 0.3, 0.4], 0.5)


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_losses_and_gradients_are_those_of_the_dense_formula(
    batch: tuple[Tensor, Tensor, Tensor, Soft], share: float
) -> None:
    hidden, table, targets, soft = batch
    logits = hidden @ table.T
    found, expected = [logits.clone().requires_grad_() for _ in range(2)]
    weights = torch.rand(P).double()
    mine = soft_cross_entropy(found, targets, soft, share)
    theirs = dense(expected, targets, soft, share)
    torch.testing.assert_close(mine, theirs)
    (mine * weights).sum().backward()
    (theirs * weights).sum().backward()
    torch.testing.assert_close(found.grad, expected.grad)


@pytest.mark.parametrize("at_once", [1, 7, 10_000])
def test_of_hidden_states_it_is_the_weighted_mean(
    monkeypatch: pytest.MonkeyPatch, batch: tuple[Tensor, Tensor, Tensor, Soft], at_once: int
) -> None:
    """However many targets are taken at a time."""
    monkeypatch.setattr(losses, "_MIN_TARGETS", at_once)
    monkeypatch.setattr(losses, "_LOGITS_ON_CPU", 0)
    hidden, table, targets, soft = batch
    weights = torch.rand(P).double()
    found = [hidden.clone().requires_grad_(), table.clone().requires_grad_()]
    expected = [hidden.clone().requires_grad_(), table.clone().requires_grad_()]
    mine = soft_softmax(*found, targets, weights, soft, 0.4)
    each = dense(expected[0] @ expected[1].T, targets, soft, 0.4)
    theirs = (each * weights).sum() / weights.sum()
    (3 * mine).backward()
    (3 * theirs).backward()
    torch.testing.assert_close(mine, theirs)
    for one_, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one_.grad, other.grad)


def test_without_any_soft_targets_it_is_the_plain_loss(
    batch: tuple[Tensor, Tensor, Tensor, Soft],
) -> None:
    hidden, table, targets, soft = batch
    none = Soft(torch.full_like(soft.tokens, -1), soft.chances)
    weights = torch.rand(P).double()
    plain = losses.softmax(hidden, table, targets, weights)
    torch.testing.assert_close(soft_softmax(hidden, table, targets, weights, none, 0.5), plain)


@pytest.mark.parametrize("gap", [20.0, 200.0, 2000.0])
def test_what_is_left_beside_a_sure_top_k_is_not_rounded_away(gap: float) -> None:
    """In float32 exp(Z) - exp(the top k) is 0 from a gap of 17 on."""
    logits = torch.tensor([[gap, gap, 1.0, 2.0, 0.0]], requires_grad=True)
    soft = Soft(torch.tensor([[0, 1]]), torch.tensor([[0.4, 0.4]]))
    loss = soft_cross_entropy(logits, torch.tensor([0]), soft, 1.0)
    rest = torch.tensor([1.0, 2.0, 0.0])
    others = gap + math.log(2) - rest.logsumexp(0)
    torch.testing.assert_close(loss[0], 0.8 * torch.tensor(2.0).log() + 0.2 * others)
    loss.sum().backward()
    assert logits.grad is not None
    torch.testing.assert_close(logits.grad[0, 2:], -0.2 * rest.softmax(0), atol=1e-6, rtol=1e-4)
    torch.testing.assert_close(logits.grad[0, :2], torch.tensor([0.1, 0.1]))


def test_a_sample_of_all_items_is_no_estimate(batch: tuple[Tensor, Tensor, Tensor, Soft]) -> None:
    """Each item once, none more likely than others: losses and gradients are the dense ones,
    whatever of it is among the top k, the real item too."""
    hidden, table, targets, soft = batch
    among_top = (soft.tokens == targets[:, None]).any(1)
    assert 10 < among_top.sum() < P - 10
    weights = torch.rand(P).double()
    found = [hidden.clone().requires_grad_(), table.clone().requires_grad_()]
    expected = [hidden.clone().requires_grad_(), table.clone().requires_grad_()]
    everything = Negatives(torch.arange(V), torch.zeros(V).double())
    for at_once in (1024, 7):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(soft_losses, "_SAMPLED_AT_ONCE", at_once)
            mine = sampled_soft_softmax(*found, targets, weights, soft, 0.4, everything)
        each = dense(expected[0] @ expected[1].T, targets, soft, 0.4)
        theirs = (each * weights).sum() / weights.sum()
        torch.testing.assert_close(mine, theirs)
        (3 * mine).backward()
        (3 * theirs).backward()
        for one_, other in zip(found, expected, strict=True):
            torch.testing.assert_close(one_.grad, other.grad)


def test_of_a_sample_by_hand() -> None:
    """Chances of the student: 1, 2, 4, 1, 8 of 16. Item 4 was drawn, thrice as often as expected;
    item 1 was, too, but is among the top k and known."""
    table = torch.tensor([1.0, 2, 4, 1, 8]).double().log()[:, None]
    negatives = Negatives(torch.tensor([1, 4]), torch.tensor([5.0, 3.0]).double().log())
    top = Soft(torch.tensor([[1, 2]]), torch.tensor([[0.25, 0.5]]).double())
    ones = torch.ones(1, 1).double()
    loss = sampled_soft_softmax(ones, table, torch.tensor([0]), ones[0], top, 0.5, negatives)
    # Outside are the real item and thrice item 4: 25, and with the top k 31.
    expected = 0.5 * math.log(31) + 0.5 * (
        0.25 * math.log(31 / 2) + 0.5 * math.log(31 / 4) + 0.25 * math.log(31 / 25)
    )
    assert loss.item() == pytest.approx(expected)


def test_gradients_of_a_sample_are_those_of_its_loss() -> None:
    """By differences; a negative that is a target, one that is of the top k, and one of neither."""
    torch.manual_seed(0)
    hidden, table = torch.randn(4, 3).double(), torch.randn(9, 3).double()
    tokens = torch.tensor([[0, 1], [2, -1], [3, 4], [-1, -1]])
    top = Soft(tokens, torch.full((4, 2), 0.3).double())
    negatives = Negatives(torch.tensor([1, 3, 5, 6]), torch.randn(4).double())
    targets, weights = torch.tensor([1, 3, 5, 7]), torch.tensor([1.0, 2, 1, 0.5]).double()

    def loss(hidden: Tensor, table: Tensor) -> Tensor:
        return sampled_soft_softmax(hidden, table, targets, weights, top, 0.5, negatives)

    given = hidden.requires_grad_(), table.requires_grad_()
    assert torch.autograd.gradcheck(loss, given)


def test_a_sample_estimates_the_loss_over_all_items() -> None:
    torch.manual_seed(0)
    counts = 1000 / torch.arange(1, V - NUM_SPECIAL + 1)
    share = torch.cat([torch.zeros(NUM_SPECIAL), counts / counts.sum()])
    targets = torch.multinomial(share, 6000, replacement=True)
    hidden, table = torch.randn(6000, DIM), torch.randn(V, DIM)
    table[:NUM_SPECIAL] = 0
    tokens = NUM_SPECIAL + torch.rand(6000, V - NUM_SPECIAL).topk(K, 1).indices
    top = Soft(tokens, torch.rand(6000, K).softmax(1) * 0.7)
    logits = hidden @ table.T
    logits[:, :NUM_SPECIAL] = -math.inf
    expected = soft_cross_entropy(logits, targets, top, 0.5).mean().item()
    draws = []
    for _ in range(20):
        negatives = losses.draw_negatives(targets, share, 200)
        loss = sampled_soft_softmax(hidden, table, targets, torch.ones(6000), top, 0.5, negatives)
        draws.append(loss.item())
    assert sum(draws) / 20 == pytest.approx(expected, rel=0.02)
    assert len(set(draws)) == 20


def test_of_a_sample_without_any_soft_targets_it_is_the_plain_loss(
    batch: tuple[Tensor, Tensor, Tensor, Soft],
) -> None:
    hidden, table, targets, soft = batch
    none = Soft(torch.full_like(soft.tokens, -1), soft.chances)
    negatives = losses.draw_negatives(targets.clamp(min=NUM_SPECIAL), torch.full((V,), 1 / V), 20)
    weights = torch.rand(P).double()
    plain = losses.sampled_softmax(hidden, table, targets, negatives)
    torch.testing.assert_close(
        sampled_soft_softmax(hidden, table, targets, weights, none, 0.5, negatives),
        (plain * weights).sum() / weights.sum(),
    )
