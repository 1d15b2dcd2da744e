"""What could have come at each event of a history: against a forward pass of each prompt."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch

from llmaug.config import CausalConfig
from llmaug.items.vocabulary import BOS, NUM_SPECIAL
from llmaug.lm import NextChances
from llmaug.lm.causal.chances import CausalChances, top_k
from llmaug.lm.causal.model import CausalLm
from llmaug.lm.language import Language
from tests.tables import catalogue

NUM_ITEMS = 40
WORDS = catalogue([f"i{n:02d}" for n in range(NUM_ITEMS)])
LANGUAGE = Language(WORDS.num_tokens, True, (("age", ("young", "old")),))
USER = LANGUAGE.user_tokens({"age": "old"})
CONFIG = CausalConfig(hidden_size=64, num_heads=2, num_layers=1, context_len=16)
A, B, C, D, E = range(NUM_SPECIAL, NUM_SPECIAL + 5)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def llama() -> Any:
    return make_llama(seed=0)


def make_llama(seed: int) -> Any:
    torch.manual_seed(seed)
    model = CausalLm(CONFIG, WORDS, 1, LANGUAGE)
    with torch.no_grad():  # as far from uniform as a trained model
        model.llama.model.embed_tokens.weight.mul_(15)
    return model.folded()


def unit(prompt: list[int], k: int = 5, forbid: bool = True, also: Any = None) -> dict[str, Any]:
    sampling = {"top_k": k, "forbid_repeats": forbid}
    return {"prompt": prompt, "sampling": sampling, "also_seen": also}


def by_hand(llama: Any, prompt: list[int], place: int, without: list[int]) -> np.ndarray:
    """(V,) chances behind the token at `place`."""
    with torch.no_grad():
        logits = llama(input_ids=torch.tensor([prompt[: place + 1]])).logits[0, -1]
    logits[[*LANGUAGE.no_items, *without]] = -torch.inf
    return logits.softmax(0).numpy()


def check(found: NextChances, number: int, chances: np.ndarray) -> None:
    tokens, own = found.tokens[number], found.chances[number]
    best = np.sort(chances)[::-1][: len(own)]
    np.testing.assert_allclose(own, best, rtol=1e-4)
    np.testing.assert_allclose(chances[tokens[tokens >= 0]], own[tokens >= 0], rtol=1e-4)


@pytest.mark.parametrize("k", [5, 30], ids=["by groups", "by torch"])
def test_they_are_those_of_the_model_at_every_event(llama: Any, k: int) -> None:
    whole, cut = [*USER, BOS, A, B, C, A], [*USER, D, E, A]
    units = [unit(whole, k), unit(cut, k, also=[B, C]), unit([BOS], k), unit([BOS, C], k)]
    first, second, nothing, last = CausalChances([llama], WORDS.num_tokens).chances(units)
    assert first.events.tolist() == [A, B, C, A]
    for number, without in enumerate([[], [A], [A, B], [A, B, C]]):
        check(first, number, by_hand(llama, whole, len(USER) + number, without))
    # Of the first event of a history that was cut, nothing before is known.
    assert second.events.tolist() == [E, A]
    for number, without in enumerate([[B, C, D], [B, C, D, E]]):
        check(second, number, by_hand(llama, cut, len(USER) + number, without))
    assert len(nothing.events) == len(nothing.tokens) == 0
    check(last, 0, by_hand(llama, [BOS], 0, []))


@pytest.mark.parametrize("k", [5, 30], ids=["by groups", "by torch"])
def test_of_several_models_the_mean_counts(llama: Any, k: int) -> None:
    llamas = [llama, make_llama(seed=1), make_llama(seed=2)]
    prompt = [*USER, BOS, A, B, C]
    [found] = CausalChances(llamas, WORDS.num_tokens).chances([unit(prompt, k)])
    for number, without in enumerate([[], [A], [A, B]]):
        each = [by_hand(own, prompt, len(USER) + number, without) for own in llamas]
        assert not np.allclose(each[0], each[1], atol=0.01)
        check(found, number, np.mean(each, axis=0))


def test_where_repeats_are_allowed_nothing_is_left_out(llama: Any) -> None:
    [found] = CausalChances([llama], WORDS.num_tokens).chances([unit([BOS, A, A], forbid=False)])
    check(found, 1, by_hand(llama, [BOS, A], 1, []))


def test_there_may_be_fewer_items_than_are_asked_for(llama: Any) -> None:
    seen = list(range(NUM_SPECIAL + 1, NUM_SPECIAL + NUM_ITEMS))
    asked = [unit([BOS, A], k=60, also=seen[1:]), unit([BOS, A, B], k=60, also=seen)]
    few, none = CausalChances([llama], WORDS.num_tokens).chances(asked)
    assert (few.tokens[0] >= 0).sum() == 2 and few.chances[0].sum() == pytest.approx(1, abs=1e-5)
    assert (few.tokens[0, 2:] == -1).all() and not few.chances[0, 2:].any()
    assert none.tokens[0, 0] == A and none.chances[0, 0] == pytest.approx(1)
    assert (none.tokens[1] == -1).all() and not none.chances[1].any()


def test_many_prompts_come_back_in_their_order(llama: Any) -> None:
    rng = np.random.default_rng(0)
    prompts = [
        [BOS, *(NUM_SPECIAL + rng.integers(NUM_ITEMS, size=rng.integers(1, 14))).tolist()]
        for _ in range(600)
    ]
    found = CausalChances([llama], WORDS.num_tokens).chances([unit(prompt) for prompt in prompts])
    for row in (0, 7, 300, 599):
        assert found[row].events.tolist() == prompts[row][1:]
        place = len(prompts[row]) - 2
        check(found[row], place, by_hand(llama, prompts[row], place, prompts[row][: place + 1]))


def test_the_top_k_is_exact() -> None:
    logits = np.random.default_rng(0).normal(size=(50, 208)).astype(np.float32)
    logits[:, ::3], logits[:5] = -np.inf, 1.0  # ties
    columns, values = top_k(logits, 20)
    expected = torch.from_numpy(logits).topk(20, 1).values.numpy()
    np.testing.assert_array_equal(values, expected)
    np.testing.assert_array_equal(np.take_along_axis(logits, columns.astype(int), 1), expected)
    assert all(len(set(row)) == 20 for row in columns.tolist())
