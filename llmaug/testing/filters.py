"""The contract of a filter: `llmaug.config.FilterConfig` says how it is called."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from llmaug.config import FILTERS, STRATEGIES, FilterConfig, imported
from llmaug.errors import UserError
from llmaug.filter.copied import run_hashes
from llmaug.filter.rules import Candidate, items_seen, judge
from llmaug.items.vocabulary import BOS, PAD
from llmaug.testing.configs import check_config
from llmaug.testing.tables import catalogue

WORDS = catalogue("abcdef", tags={"a": ["x"], "b": ["x", "y"], "c": ["y"]})
A, B, C, D, E, F = range(3, 9)
_RUN = 3


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
    runs = np.unique(run_hashes(np.array([A, B, C, D, E, F]), _RUN))
    of_generation = np.empty(0, np.uint64)
    answers = [[], [A], [A, B, C, D], [F, F, A, F], [A, PAD, B, BOS, -1, 10**6]]
    for kind in STRATEGIES:
        strategy = STRATEGIES.make({"kind": kind.model_fields["kind"].default})
        for tokens in answers:
            for real_runs, may_repeat in ((runs, (False,)), (of_generation, (True, False))):
                yield Candidate(
                    unit_id="0123abc",
                    strategy=strategy,
                    tokens=list(tokens),
                    history=frozenset([A, B]),
                    num_items=WORDS.num_items,
                    real_runs=real_runs,
                    copied_ngram=_RUN,
                    may_repeat=may_repeat,
                    items=items_seen([config], words),
                )


def _check(config: FilterConfig, candidate: Candidate) -> None:
    given = (list(candidate.tokens), candidate.real_runs.copy())
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
    unchanged = candidate.tokens == given[0] and np.array_equal(candidate.real_runs, given[1])
    assert unchanged, f"a filter must leave the candidate as it is: tokens were {given[0]}"
