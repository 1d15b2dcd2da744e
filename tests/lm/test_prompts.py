"""What each kind of model is asked about a history, and where the answer goes."""

from __future__ import annotations

import numpy as np
import pytest

from llmaug.config import STRATEGIES, Strategy
from llmaug.items.vocabulary import BOS, EOS
from llmaug.lm.causal.asking import CausalPrompts
from llmaug.lm.language import Language
from llmaug.lm.masked.asking import MaskedPrompts
from llmaug.lm.prompts import Prompts

A, B, C, D, E, F = range(3, 9)
ITEMS = 10
LANGUAGE = Language(3 + ITEMS, has_directions=True, attributes=(("age", ("old", "young")),))
CAUSAL = CausalPrompts(LANGUAGE, 20)
MASKED = MaskedPrompts(Language(3 + ITEMS), 20)
NGRAM = Prompts(Language(3 + ITEMS), 20)
MASK = 3 + ITEMS
UNKNOWN = -1
HISTORY = [A, B, UNKNOWN, C, D]


def of(kind: str) -> Strategy:
    """The strategy of that name, for two events."""
    return STRATEGIES.make({"kind": kind, "num_events": 2})


def test_a_causal_model_is_asked_in_the_direction_of_the_strategy() -> None:
    reverse, infill, suffix, middle = (
        LANGUAGE.reverse, LANGUAGE.infill, LANGUAGE.suffix, LANGUAGE.middle,
    )  # fmt: skip
    old = LANGUAGE.user_tokens({"age": "old"})

    def asked(strategy: str, places: list[int]) -> list[int]:
        return CAUSAL.question(of(strategy), HISTORY, places, old)

    assert asked("continue", [5]) == [*old, BOS, A, B, C, D]
    assert asked("prefix", [0]) == [*old, reverse, D, C, B, A]
    assert asked("infill", [2]) == [*old, infill, A, B, suffix, C, D, middle]
    assert asked("substitute", [1, 2]) == [*old, infill, A, suffix, C, D, middle]
    assert CAUSAL.new_user(2, old) == [*old, BOS]


def test_a_masked_model_is_asked_by_masks_in_the_places() -> None:
    def asked(strategy: str, places: list[int]) -> list[int]:
        return MASKED.question(of(strategy), HISTORY, places)

    assert asked("continue", [5]) == [BOS, A, B, C, D, MASK, MASK]
    assert asked("prefix", [0]) == [BOS, MASK, MASK, A, B, C, D]
    assert asked("infill", [1]) == [BOS, A, MASK, MASK, B, C, D]
    assert asked("substitute", [0, 3]) == [BOS, MASK, B, MASK, D]
    assert asked("substitute", [0, 2]) == [BOS, MASK, B, MASK, C, D]  # an unknown one, too


def test_a_model_of_counts_is_asked_forward() -> None:
    assert NGRAM.question(of("continue"), HISTORY, [5]) == [BOS, A, B, C, D]


def test_a_history_leaves_room_for_the_answer() -> None:
    long = [A, B] * 30
    for prompts in (CAUSAL, MASKED, NGRAM):
        for strategy, places in (("continue", [60]), ("prefix", [0]), ("infill", [30]),
                                 ("substitute", [30, 31])):  # fmt: skip
            masks = 2 if prompts is MASKED else 0
            prompt = prompts.question(of(strategy), long, places)
            assert len(prompt) + 2 - masks <= 20
            assert prompt.count(MASK) == masks or prompts is not MASKED


def test_places_are_drawn_by_seed_inside_the_history() -> None:
    def drawn(prompts: Prompts, strategy: str, length: int = 6) -> set[tuple[int, ...]]:
        return {
            tuple(prompts.draw_places(of(strategy), length, np.random.default_rng(seed)))
            for seed in range(300)
        }

    assert drawn(CAUSAL, "continue") == {(6,)}
    assert drawn(CAUSAL, "prefix") == {(0,)}
    assert drawn(CAUSAL, "infill") == {(place,) for place in range(1, 6)}
    assert drawn(CAUSAL, "substitute") == {(place, place + 1) for place in range(5)}
    anywhere = {(i, j) for j in range(6) for i in range(j)}
    assert drawn(MASKED, "substitute") == anywhere
    far = drawn(MASKED, "substitute", 100)
    assert max(j - i for i, j in far) < 19  # what the model sees at once
    assert max(j for _, j in far) > 80


@pytest.mark.parametrize(
    ("strategy", "tokens", "expected"),
    [
        ("continue", [A, B], [A, B]),
        ("prefix", [B, A], [A, B]),
        ("infill", [A, EOS], [A]),
        ("new_users", [A, B], [A, B]),
    ],
)
def test_answers_are_read_in_time_order(
    strategy: str, tokens: list[int], expected: list[int]
) -> None:
    assert CAUSAL.events(of(strategy), tokens) == expected
    assert MASKED.events(of("prefix"), [A, B]) == [A, B]
