"""What a causal model is asked: three directions, and who asks."""

from __future__ import annotations

import pytest

from llmaug.errors import UserError
from llmaug.items.vocabulary import BOS, EOS
from llmaug.lm import Request, request_of
from llmaug.lm.language import (
    Language,
    known_attributes,
)
from tests.tables import catalogue

WORDS = catalogue("abcde")
A, B, C, D, E = range(3, 8)
PLAIN = Language(WORDS.num_tokens)
LANGUAGE = Language(
    WORDS.num_tokens, True, (("age", ("old", "young")), ("country", ("de", "fr", "no")))
)


def test_items_have_the_same_tokens_whatever_else_a_model_reads() -> None:
    assert PLAIN.num_tokens == WORDS.num_tokens
    assert PLAIN.no_items == [0, 1, 2]
    controls = [LANGUAGE.reverse, LANGUAGE.infill, LANGUAGE.suffix, LANGUAGE.middle]
    assert controls == [8, 9, 10, 11]
    # Unknown age, two ages, unknown country, three countries.
    assert LANGUAGE.num_tokens == 12 + 3 + 4
    assert LANGUAGE.no_items == [0, 1, 2, *range(8, 19)]


def test_users_are_one_token_an_attribute() -> None:
    assert LANGUAGE.user_tokens({"age": "young", "country": "de", "shoe size": "44"}) == [14, 16]
    assert LANGUAGE.user_tokens({"age": "ageless", "country": "no"}) == [12, 18]
    assert LANGUAGE.user_tokens(None) == [12, 15]
    assert PLAIN.user_tokens({"age": "young"}) == []


def test_forward_asks_for_what_comes_next() -> None:
    assert PLAIN.forward_prompt([A, B], max_len=8) == [BOS, A, B]
    assert PLAIN.forward_prompt([], max_len=8) == [BOS]
    user = [14, 16]
    assert LANGUAGE.forward_prompt([A, B], 8, user) == [14, 16, BOS, A, B]


def test_reverse_asks_for_what_came_before_newest_first() -> None:
    assert LANGUAGE.reverse_prompt([A, B, C], max_len=8) == [LANGUAGE.reverse, C, B, A]
    assert LANGUAGE.reverse_prompt([A], 8, user=[14, 16]) == [14, 16, LANGUAGE.reverse, A]


def test_infill_asks_for_what_stood_between() -> None:
    assert LANGUAGE.infill_prompt([A, B], [D], max_len=8) == [
        LANGUAGE.infill, A, B, LANGUAGE.suffix, D, LANGUAGE.middle
    ]  # fmt: skip
    assert LANGUAGE.infill_prompt([], [], 8, user=[14, 16]) == [
        14, 16, LANGUAGE.infill, LANGUAGE.suffix, LANGUAGE.middle
    ]  # fmt: skip


@pytest.mark.parametrize("user", [[], [14, 16]])
def test_what_does_not_fit_is_cut_far_from_what_is_asked_for(user: list[int]) -> None:
    long = [A, B, C, D, E] * 4
    most = 8 + len(user)
    forward = LANGUAGE.forward_prompt(long, most, user)
    assert forward == [*user, C, D, E, A, B, C, D, E]  # no BOS: the history starts elsewhere
    reverse = LANGUAGE.reverse_prompt(long, most, user)
    assert reverse == [*user, LANGUAGE.reverse, B, A, E, D, C, B, A]
    infill = LANGUAGE.infill_prompt(long, long, most, user)
    assert infill == [
        *user, LANGUAGE.infill, C, D, E, LANGUAGE.suffix, A, B, LANGUAGE.middle
    ]  # fmt: skip
    # Where one side needs less than half of the room, the other has more.
    short = LANGUAGE.infill_prompt(long, [A], most, user)
    assert short == [*user, LANGUAGE.infill, B, C, D, E, LANGUAGE.suffix, A, LANGUAGE.middle]
    short = LANGUAGE.infill_prompt([A], long, most, user)
    assert short == [*user, LANGUAGE.infill, A, LANGUAGE.suffix, A, B, C, D, LANGUAGE.middle]


def test_a_strategy_knows_its_direction() -> None:
    tokens = [A, B]
    assert LANGUAGE.events("forward", tokens) == [A, B]
    assert LANGUAGE.events("reverse", tokens) == [B, A]
    assert LANGUAGE.events("infill", [A, EOS, B]) == [A]
    assert LANGUAGE.events("infill", [A, B]) == [A, B]


def test_a_unit_is_asked_as_it_stands() -> None:
    sampling = {
        "temperature": 0.7,
        "top_p": 0.9,
        "top_k": 5,
        "max_tokens": 3,
        "forbid_repeats": False,
    }
    unit = {"prompt": [BOS, A], "sampling": sampling, "seed": 11, "also_seen": None}
    assert request_of(unit) == Request([BOS, A], 3, 11, temperature=0.7, top_p=0.9, top_k=5)


def test_values_of_few_users_are_unknown() -> None:
    users = [{"age": "old"}, {"age": "old"}, {"age": "young", "country": "no"}, {"age": ""}]
    assert known_attributes(["age"], users, min_users=2) == (("age", ("old",)),)
    assert known_attributes(["country"], users, min_users=2) == (("country", ()),)


def test_an_attribute_that_nobody_has_is_named_with_those_there_are() -> None:
    with pytest.raises(UserError, match="no training user has 'aeg'; .* has: age, country"):
        known_attributes(["age", "aeg"], [{"age": "old", "country": "no"}], 1)
