"""The contract of a strategy: `llmaug.config.OfUsersConfig` says what it answers."""

from __future__ import annotations

from typing import get_args

import numpy as np

from llmaug.config import (
    STRATEGIES,
    Ability,
    NewUsersConfig,
    OfUsersConfig,
    Strategy,
)
from llmaug.items.vocabulary import NUM_SPECIAL
from llmaug.lm.language import Language
from llmaug.lm.prompts import Prompts
from llmaug.testing.configs import check_config

_NUM_ITEMS, _CONTEXT_LEN = 50, 40


def check_strategy(config: Strategy) -> None:
    """Raises AssertionError that says what is wrong with the strategy of `config`."""
    check_config(STRATEGIES, config)
    needs = getattr(config, "needs", None)
    known = get_args(Ability)
    assert needs in known, (
        f"{type(config).__name__}.needs must be one of {', '.join(known)}, and is {needs!r}: "
        "what its generator must be able to do"
    )
    if isinstance(config, NewUsersConfig):
        assert needs == "new_user", f"a strategy of new users needs new_user, and not {needs}"
        return
    assert needs != "new_user", "a strategy that inherits OfUsersConfig asks about users there are"
    least = config.min_history_len
    assert type(least) is int and least >= 1, (
        f"min_history_len must be a whole number from 1 on, and is {least!r}"
    )
    for history_len in (least, least + 1, least + 2, 30, 300):
        for seed in range(20):
            _check_places(config, history_len, seed)


def _check_places(config: OfUsersConfig, history_len: int, seed: int) -> None:
    drawn = [config.draw_places(history_len, np.random.default_rng(seed)) for _ in range(2)]
    places = drawn[0]
    what = f"draw_places({history_len}, rng)"
    assert isinstance(places, list) and places and all(type(each) is int for each in places), (
        f"{what} must return a list of int, one at least, and returned {places!r}"
    )
    assert places == drawn[1], f"{what} must draw from rng alone: from the same one came {drawn}"
    assert places == sorted(places), f"{what} must be in the order of the history, and is {places}"
    assert len(places) <= config.num_events, (
        f"{what} has {len(places)} places for {config.num_events} events"
    )
    last = history_len - 1 if config.replaces else history_len
    assert places[0] >= 0 and places[-1] <= last, (
        f"{what} must lie within 0 and {last} (where events "
        f"{'of the history are replaced' if config.replaces else 'go before that one'}), and is "
        f"{places}"
    )
    if config.replaces:
        assert len(set(places)) == len(places) == config.num_events, (
            f"{what} must name {config.num_events} events of the history to replace, each once, "
            f"and is {places}"
        )
    history = [NUM_SPECIAL + number % _NUM_ITEMS for number in range(history_len)]
    prompts = Prompts(Language(NUM_SPECIAL + _NUM_ITEMS), _CONTEXT_LEN)
    asked = prompts.question(config, history, places)
    assert len(asked) + config.num_events <= _CONTEXT_LEN, (
        f"{what} gives {places}: the prompt of {len(asked)} tokens leaves no room for "
        f"{config.num_events} events in {_CONTEXT_LEN}"
    )
