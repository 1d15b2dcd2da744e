"""Filters by hand: what is kept, why the rest is not, and filters of one's own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from llmaug.config import (
    FILTERS,
    STRATEGIES,
    CopiedConfig,
    FilterConfig,
    FiltersConfig,
    IdentifyingConfig,
    PrivacyConfig,
    RepeatedConfig,
    TooShortConfig,
    parse_config,
)
from llmaug.errors import UserError
from llmaug.filter.real_runs import item_keys, runs_of
from llmaug.filter.rules import Candidate, items_seen, judge, roots_of
from llmaug.items.vocabulary import BOS, EOS, NUM_SPECIAL, PAD
from tests.filter.own_filters import HERE
from tests.tables import catalogue

A, B, C, D, E, F, G = range(3, 10)
NUM_TOKENS = 10
DEFAULT = FiltersConfig().rules


def candidate(
    tokens: list[int],
    strategy: str = "continue",
    history: str = "",
    real: Sequence[list[int]] = (),
) -> Candidate:
    """Letters of `history` are items; `real` are the training histories, in runs of 3."""
    keys = item_keys(catalogue("abcdefg").items["item_id"])
    histories = [keys[[token - NUM_SPECIAL for token in tokens]] for tokens in real]
    return Candidate(
        unit_id="0123abc",
        strategy=STRATEGIES.make({"kind": strategy}),
        tokens=tokens,
        history=frozenset(ord(letter) - ord("a") + A for letter in history),
        num_items=NUM_TOKENS - 3,
        real_runs=runs_of(histories, PrivacyConfig(run_len=3, min_run_users=2)),
        item_keys=keys,
    )


def own(name: str, **fields: Any) -> FilterConfig:
    return FILTERS.make({"kind": f"{HERE}:{name}", **fields})


def test_tokens_that_no_item_has_are_dropped() -> None:
    reasons, verdict = judge(candidate([A, PAD, B, BOS, EOS, NUM_TOKENS, -1]), DEFAULT)
    assert reasons == [None, *["outside_catalogue"], None, *["outside_catalogue"] * 4]
    assert verdict is None  # two events are left


@pytest.mark.parametrize("token", [PAD, -1, NUM_TOKENS, 1000])
def test_a_token_that_no_item_has_may_come_twice(token: int) -> None:
    assert judge(candidate([token, token]), DEFAULT)[0] == ["outside_catalogue"] * 2


def test_items_that_the_user_had_already_are_dropped() -> None:
    reasons, _ = judge(candidate([C, A, C, D], history="ab"), DEFAULT)
    assert reasons == [None, "repeated", "repeated", None]


def test_repeats_are_kept_where_they_are_normal() -> None:
    config = FiltersConfig(repeats="allow")
    free = replace(candidate([C, A, C], history="ab"), may_repeat=(config.may_repeat("view"),))
    reasons, _ = judge(free, config.rules)
    assert reasons == [None, None, None]


@pytest.mark.parametrize(("num_kept", "accepted"), [(1, False), (2, True)])
def test_an_outcome_needs_enough_events(num_kept: int, accepted: bool) -> None:
    found = candidate([A, B][:num_kept] + [BOS])
    assert (judge(found, [TooShortConfig(min_events=2)])[1] is None) == accepted


@pytest.mark.parametrize("strategy", ["infill", "choose"])
def test_one_event_is_enough_in_a_gap_and_for_a_choice(strategy: str) -> None:
    rules = [TooShortConfig(min_events=2)]
    assert judge(candidate([A], strategy), rules) == ([None], None)
    assert judge(candidate([BOS], strategy), rules)[1] == ("too_short", "0 of 1 events kept")


def test_a_copy_of_a_real_person_is_rejected() -> None:
    rules = [CopiedConfig(max_copied_share=0.5)]
    real = [[A, B, C, D, E]]
    _, verdict = judge(candidate([A, B, C, D], "new_users", real=real), rules)
    assert verdict == ("copied", "100% of the runs of 3 events are in real histories")
    # Runs ABC (real), BCG, CGF: a third.
    assert judge(candidate([A, B, C, G, F], "new_users", real=real), rules)[1] is None
    # The same items in another order are nobody's history.
    assert judge(candidate([D, C, B, A], "new_users", real=real), rules)[1] is None
    # Whoever continues a real person is not a new one.
    assert judge(candidate([A, B, C, D], "continue", real=real), rules)[1] is None


def test_a_copy_is_recognised_by_the_events_that_are_kept() -> None:
    _, verdict = judge(candidate([A, BOS, B, A, C], "new_users", real=[[A, B, C]]), DEFAULT)
    assert verdict is not None and verdict[0] == "copied"


@pytest.mark.parametrize("strategy", ["new_users", "continue", "prefix"])
def test_a_run_of_one_real_user_alone_is_rejected(strategy: str) -> None:
    rules = [IdentifyingConfig()]
    real = [[A, B, C, D], [A, B, C, E], [F, G, A]]
    # ABC is of two users, BCD of one.
    assert judge(candidate([G, A, B, C, F], strategy, real=real), rules)[1] is None
    assert judge(candidate([A, B, C, D], strategy, real=real), rules)[1] == (
        "identifying", "1 of 2 runs are of fewer than 2 real users"
    )  # fmt: skip
    assert judge(candidate([B, C], strategy, real=real), rules)[1] is None  # no run at all
    assert judge(candidate([D, C, B], strategy, real=real), rules)[1] is None  # nobody's


def test_runs_are_those_of_what_the_filters_before_left() -> None:
    rules = FiltersConfig().rules
    found = candidate([B, BOS, C, B, D], real=[[B, C, D]])
    assert judge(found, rules)[1] == ("identifying", "1 of 1 runs are of fewer than 2 real users")
    with pytest.raises(UserError, match="filters.rules: repeated stands after identifying"):
        parse_config({"filters": {"rules": [{"kind": "identifying"}, {"kind": "repeated"}]}})


def test_nothing_is_said_of_runs_while_events_are_generated() -> None:
    found = replace(candidate([A, B, C], "new_users", real=[[A, B, C]]), real_runs=None)
    assert judge(found, FiltersConfig().rules) == ([None] * 3, None)


# -- the list ------------------------------------------------------------------------------


def test_the_first_filter_that_objects_gives_the_reason() -> None:
    copy = candidate([A, B, C], "new_users", real=[[A, B, C]])
    short, copied = TooShortConfig(min_events=4), CopiedConfig()
    assert judge(copy, [short, copied])[1] == ("too_short", "3 of 3 events kept")
    verdict = judge(copy, [copied, short])[1]
    assert verdict and verdict[0] == "copied"
    # Of events, too: the second a is a repetition and, with another rule before it, something else.
    other = own("AnswersConfig", answer=[None, "other"])
    assert judge(candidate([A, A]), [RepeatedConfig(), other])[0] == [None, "repeated"]
    assert judge(candidate([A, A]), [other, RepeatedConfig()])[0] == [None, "other"]


def test_an_outcome_is_judged_by_the_events_that_the_filters_before_left() -> None:
    short = TooShortConfig(min_events=2)
    assert judge(candidate([A, A]), [RepeatedConfig(), short])[1]
    assert judge(candidate([A, A]), [short, RepeatedConfig()]) == ([None, "repeated"], None)


def test_what_is_not_in_the_list_is_not_applied_and_the_catalogue_always_is() -> None:
    tokens = [A, A, BOS]
    assert judge(candidate(tokens), []) == ([None, None, "outside_catalogue"], None)
    reasons, verdict = judge(candidate(tokens), [RepeatedConfig()])
    assert reasons == [None, "repeated", "outside_catalogue"] and verdict is None


def test_the_config_says_which_in_which_order() -> None:
    rules = [{"kind": "copied"}, {"kind": "too_short", "min_events": 3}]
    config = parse_config({"filters": {"rules": rules}}).filters
    assert config.rules == [CopiedConfig(), TooShortConfig(min_events=3)]


# -- filters of one's own ------------------------------------------------------------------


def with_items(tokens: list[int], rules: Sequence[FilterConfig], **more: Any) -> Candidate:
    words = catalogue("abcdefg", tags={"a": ["horror", "old"], "b": ["comedy"]})
    return replace(candidate(tokens, **more), items=items_seen(rules, words))


def test_a_filter_of_ones_own_sees_titles_and_tags() -> None:
    path = f"{HERE}:UnwantedTagConfig"
    config = parse_config({"filters": {"rules": [{"kind": path, "tag": "horror"}]}}).filters
    found = with_items([B, A, C, BOS, NUM_TOKENS], config.rules)
    reasons, verdict = judge(found, config.rules)
    assert reasons == [None, "unwanted_tag", None, "outside_catalogue", "outside_catalogue"]
    assert verdict is None

    rules = [RepeatedConfig(), own("SameTitleConfig")]
    found = with_items([B, B], rules)
    assert judge(found, rules)[1] == ("same_title", "all are Title of b")


def test_items_are_those_of_events_with_any_action() -> None:
    items = items_seen([own("SameTitleConfig")], catalogue("abcdefg", tags={"b": ["comedy"]}))
    assert items is not None
    buy_b = B + NUM_TOKENS - NUM_SPECIAL
    assert [items.title(token) for token in (B, buy_b)] == ["Title of b"] * 2
    assert items.tags(buy_b) == ["comedy"] and items.tags(A) == []
    assert items.title(BOS) is None and items.tags(-1) == []
    none = items_seen([own("SameTitleConfig")], catalogue([]))
    assert none is not None and none.title(A) is None


def test_items_are_read_only_where_a_filter_sees_them() -> None:
    assert items_seen(DEFAULT, catalogue("ab")) is None


@pytest.mark.parametrize(
    ("rule", "what"),
    [
        (own("AnswersConfig", answer="a bug"), r"ZeroDivisionError: a bug in.*own_filters.py, "),
        (own("AnswersConfig", answer=[None]), "a list of 2 verdicts is expected, not 1"),
        (own("AnswersConfig", answer=None), "a list of 2 verdicts is expected, not None"),
        (own("AnswersConfig", answer=[None, ""]), "a reason is a word .* not ''"),
        (own("AnswersConfig", answer=[True, None]), "a reason is a word .* not True"),
        (own("AnswersOfOutcomeConfig", answer="a bug"), "ZeroDivisionError: a bug in a filter"),
        (own("AnswersOfOutcomeConfig", answer=False), r"\(reason, detail\) .* not False"),
        (own("AnswersOfOutcomeConfig", answer=("bad",)), r"\(reason, detail\) .* not \('bad',\)"),
        (own("AnswersOfOutcomeConfig", answer=("bad!", "")), "a reason is a word .* not 'bad!'"),
        (own("AnswersOfOutcomeConfig", answer=("bad", None)), r"\(reason, detail\) or None"),
        (own("NotThereConfig"), "ModuleNotFoundError: No module named 'nowhere'"),
    ],
)  # fmt: skip
def test_a_filter_that_fails_is_no_verdict(rule: FilterConfig, what: str) -> None:
    told = rf"filter {HERE}:\w+ \([\w.]+:\w+\), unit 0123abc: .*{what}"
    with pytest.raises(UserError, match=told):
        judge(candidate([A, B]), [*DEFAULT, rule])


def test_a_stage_depends_on_the_code_of_the_filters_that_are_applied() -> None:
    rules = "llmaug.filter.rules"  # it judges, and knows the catalogue
    assert roots_of(FiltersConfig()) == roots_of(FiltersConfig(rules=[])) == (rules,)
    more = FiltersConfig(rules=[TooShortConfig(), own("SameTitleConfig"), own("NotThereConfig")])
    assert roots_of(more) == (rules, HERE, "nowhere.filters")
