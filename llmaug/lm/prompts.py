"""A user's history and what is asked about it, as the prompt of each kind of model.

A question is a strategy and the places of the events that are asked for: before that event of
the history, or (substitute) in its stead. Items that the model does not know stand as -1 in a
history and are left out of the prompt.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from llmaug.core.storage import Storage
from llmaug.items.vocabulary import PAD, Vocabulary
from llmaug.lm.causal.language import Language, load_language
from llmaug.lm.masked.masking import masked_prompt


@dataclass(frozen=True)
class Prompts:
    """How one model is asked."""

    kind: str
    """causal, masked, ngram or uniform."""
    language: Language
    """Of a causal model; of the others, that of items alone."""
    context_len: int

    def new_user(self, num_events: int, user: Sequence[int] = ()) -> list[int]:
        """Asks for `num_events` events of somebody new; `user`: attribute tokens."""
        return self.language.forward_prompt([], self._room(num_events), user)

    def question(
        self,
        strategy: str,
        history: Sequence[int],
        places: Sequence[int],
        num_events: int,
        user: Sequence[int] = (),
    ) -> list[int]:
        """Asks for `num_events` events at `places` of a history."""
        if self.kind == "masked":
            return self._masked(strategy, history, places, num_events)
        first = places[0]
        last = first + num_events if strategy == "substitute" else first
        before, after = _known(history[:first]), _known(history[last:])
        max_len = self._room(num_events)
        if self.kind == "causal" and strategy == "prefix":
            return self.language.reverse_prompt(after, max_len, user)
        if self.kind == "causal" and strategy in ("infill", "substitute"):
            return self.language.infill_prompt(before, after, max_len, user)
        return self.language.forward_prompt(before, max_len, user)

    def num_tokens(self, num_events: int) -> int:
        """Tokens that so many events have."""
        return num_events * self.language.word_len

    def _room(self, num_events: int) -> int:
        return self.context_len - self.num_tokens(num_events)

    def draw_places(
        self, strategy: str, history_len: int, num_events: int, rng: np.random.Generator
    ) -> list[int]:
        """Where the events of a unit go: drawn, where the strategy leaves a choice."""
        if strategy in ("continue", "choose"):
            return [history_len]
        if strategy == "prefix":
            return [0]
        if strategy == "infill":
            return [int(rng.integers(1, history_len))]
        if self.kind != "masked":  # a causal model sees one gap
            first = int(rng.integers(history_len - num_events + 1))
            return list(range(first, first + num_events))
        window = min(history_len, self.context_len - 1)
        start = int(rng.integers(history_len - window + 1))
        return sorted((start + rng.choice(window, num_events, replace=False)).tolist())

    def events(
        self, strategy: str, tokens: Sequence[int], candidates: Sequence[int] | None = None
    ) -> list[int]:
        """What was answered as item tokens in time order; `candidates`: those of the unit."""
        if self.kind != "causal":
            return list(tokens)
        return self.language.events({"strategy": strategy, "tokens": tokens})

    def _masked(
        self, strategy: str, history: Sequence[int], places: Sequence[int], num_events: int
    ) -> list[int]:
        asked = set(places) if strategy == "substitute" else set()
        tokens: list[int] = []
        masks: list[int] = []
        for place in range(len(history) + 1):
            if strategy != "substitute" and place == places[0]:
                masks += range(len(tokens), len(tokens) + num_events)
                tokens += [PAD] * num_events
            if place < len(history) and (history[place] >= 0 or place in asked):
                if place in asked:
                    masks.append(len(tokens))
                tokens.append(history[place])
        return masked_prompt(tokens, masks, self.language.num_words, self.context_len)


def _known(tokens: Sequence[int]) -> list[int]:
    return [token for token in tokens if token >= 0]


def load_prompts(
    storage: Storage, folder: str | None, kind: str, vocabulary: Vocabulary, context_len: int
) -> Prompts:
    """How the model in `folder` is asked; reads no weights, and raises UserError as
    `load_language` does."""
    if kind == "causal":
        assert folder is not None
        return Prompts(kind, load_language(storage, folder, vocabulary), context_len)
    return Prompts(kind, Language(vocabulary.num_tokens), context_len)
