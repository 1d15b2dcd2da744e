"""A user's history and what is asked about it, as the prompt of a model.

A question is a strategy and the places of the events that are asked for: before that event of
the history, or (where the strategy replaces) in its stead. Items that the model does not know stand
as -1 in a history and are left out of the prompt.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from llmaug.config import OfUsersConfig, StrategyConfig
from llmaug.core.storage import Storage
from llmaug.items.vocabulary import Vocabulary
from llmaug.lm.generator import Generator
from llmaug.lm.language import Language


@dataclass(frozen=True)
class Prompts:
    """How a model is asked: this one, for what comes after a history or is a whole one."""

    language: Language
    """Of a causal model; of the others, that of items alone."""
    context_len: int

    def new_user(self, num_events: int, user: Sequence[int] = ()) -> list[int]:
        """Asks for `num_events` events of somebody new; `user`: attribute tokens."""
        return self.language.forward_prompt([], self.room(num_events), user)

    def draw_places(
        self, strategy: OfUsersConfig, history_len: int, rng: np.random.Generator
    ) -> list[int]:
        """Where the events of a unit go: drawn, where the strategy leaves a choice."""
        return strategy.draw_places(history_len, rng)

    def offered(
        self, strategy: OfUsersConfig, history: Sequence[int], rng: np.random.Generator
    ) -> list[int] | None:
        """Item tokens to choose among, where the model is asked to choose."""
        return None

    def question(
        self,
        strategy: OfUsersConfig,
        history: Sequence[int],
        places: Sequence[int],
        user: Sequence[int] = (),
        candidates: Sequence[int] | None = None,
    ) -> list[int]:
        """Asks for the events of `strategy` at `places` of a history; `candidates`: as `offered`
        gave them."""
        before, _ = about(strategy, history, places)
        return self.language.forward_prompt(before, self.room(strategy.num_events), user)

    def num_tokens(self, num_events: int) -> int:
        """Tokens that so many events have."""
        return num_events * self.language.word_len

    def room(self, num_events: int) -> int:
        """Tokens of the context that so many events leave."""
        return self.context_len - self.num_tokens(num_events)

    def events(
        self,
        strategy: StrategyConfig,
        tokens: Sequence[int],
        candidates: Sequence[int] | None = None,
    ) -> list[int]:
        """What was answered as event tokens in time order; `candidates`: those of the unit."""
        return list(tokens)


def about(
    strategy: OfUsersConfig, history: Sequence[int], places: Sequence[int]
) -> tuple[list[int], list[int]]:
    """The known events before and after the gap that is asked about."""
    first = places[0]
    last = first + strategy.num_events if strategy.replaces else first
    return _known(history[:first]), _known(history[last:])


def _known(tokens: Sequence[int]) -> list[int]:
    return [token for token in tokens if token >= 0]


def of_items(storage: Storage, generator: Generator, vocabulary: Vocabulary) -> Prompts:
    """Of a generator that is asked forward, in items alone."""
    return Prompts(Language(vocabulary.num_tokens), generator.context_len)
