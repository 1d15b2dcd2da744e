"""The contract of a filter: `llmaug.config.FilterConfig` says how it is called."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import replace

from llmaug.config import FILTERS, STRATEGIES, FilterConfig, PrivacyConfig, imported
from llmaug.errors import UserError
from llmaug.filter.real_runs import item_keys, runs_of
from llmaug.filter.rules import Candidate, items_seen, judge
from llmaug.items.vocabulary import BOS, PAD
from llmaug.testing.configs import check_config
from llmaug.testing.tables import catalogue

WORDS = catalogue("abcdef", tags={"a": ["x"], "b": ["x", "y"], "c": ["y"]})
A, B, C, D, E, F = range(3, 9)


def check_filter(config: FilterConfig) -> None:
    """Raises AssertionError that says what is wrong with the filter of `config`."""
    check_config(FILTERS, config, "implementation")
    judges = getattr(config, "judges", None)
    assert judges in ("events", "outcome"), (
        f"{type(config).__name__}.judges must be events or outcome, and is {judges!r}"
    )
    for candidate in candidates(config):
        _check(config, candidate)


def candidates(config: FilterConfig) -> Iterator[Candidate]:
    """What a filter meets: of each strategy outcomes of any length, with repeats, tokens that no
    item has, items without tags, one action or two, and no real runs while it generates."""
    words = replace(WORDS, actions=("view", "buy"))
    keys = item_keys(words.items["item_id"])
    runs = runs_of([keys], PrivacyConfig(run_len=3))
    for array in (keys, runs.hashes, runs.num_users):
        array.setflags(write=False)  # as workers have them
    answers = [[], [A], [A, B, C, D], [F, F, A, F], [A, PAD, B, BOS, -1, 10**6]]
    for kind in STRATEGIES:
        strategy = STRATEGIES.make({"kind": kind.model_fields["kind"].default})
        for tokens in answers:
            for filtering, may_repeat in ((True, (False,)), (False, (True, False))):
                yield Candidate(
                    unit_id="0123abc",
                    strategy=strategy,
                    tokens=list(tokens),
                    history=frozenset([A, B]),
                    num_items=WORDS.num_items,
                    real_runs=runs if filtering else None,
                    item_keys=keys if filtering else None,
                    may_repeat=may_repeat,
                    items=items_seen([config], words),
                )


def _check(config: FilterConfig, candidate: Candidate) -> None:
    given = list(candidate.tokens)
    kept = [token for token in candidate.tokens if candidate.is_event(token)]
    try:
        verdicts = [judge(candidate, [config]) for _ in range(2)]
    except UserError as error:
        raise AssertionError(f"on {candidate}: {error.message}") from error
    assert verdicts[0] == verdicts[1], (
        f"a filter must say the same of the same outcome, and said {verdicts} of {candidate}"
    )
    function = imported(config.implementation)
    function(config, candidate, *([copy.copy(kept)] if config.judges == "outcome" else []))
    assert candidate.tokens == given, (
        f"a filter must leave the candidate as it is: tokens were {given}"
    )
