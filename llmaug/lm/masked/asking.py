"""How a masked model is asked: a history with gaps in it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from llmaug.config import OfUsersConfig, SubstituteConfig
from llmaug.core.storage import Storage
from llmaug.items.vocabulary import PAD, Vocabulary
from llmaug.lm.generator import Generator
from llmaug.lm.language import Language
from llmaug.lm.masked.masking import masked_prompt
from llmaug.lm.prompts import Prompts


class MaskedPrompts(Prompts):
    def draw_places(
        self, strategy: OfUsersConfig, history_len: int, rng: np.random.Generator
    ) -> list[int]:
        """It can fill several gaps: what `substitute` replaces need not be neighbours."""
        if type(strategy).draw_places is not SubstituteConfig.draw_places:
            return super().draw_places(strategy, history_len, rng)
        window = min(history_len, self.context_len - 1)
        start = int(rng.integers(history_len - window + 1))
        return sorted((start + rng.choice(window, strategy.num_events, replace=False)).tolist())

    def question(
        self,
        strategy: OfUsersConfig,
        history: Sequence[int],
        places: Sequence[int],
        user: Sequence[int] = (),
        candidates: Sequence[int] | None = None,
    ) -> list[int]:
        asked = set(places) if strategy.replaces else set()
        tokens: list[int] = []
        masks: list[int] = []
        for place in range(len(history) + 1):
            if not strategy.replaces and place == places[0]:
                masks += range(len(tokens), len(tokens) + strategy.num_events)
                tokens += [PAD] * strategy.num_events
            if place < len(history) and (history[place] >= 0 or place in asked):
                if place in asked:
                    masks.append(len(tokens))
                tokens.append(history[place])
        return masked_prompt(tokens, masks, self.language.num_words, self.context_len)


def load_prompts(storage: Storage, generator: Generator, vocabulary: Vocabulary) -> MaskedPrompts:
    return MaskedPrompts(Language(vocabulary.num_tokens), generator.context_len)
