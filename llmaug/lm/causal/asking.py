"""How a causal model is asked: forward, in reverse, and for what stood in a gap."""

from __future__ import annotations

from collections.abc import Sequence

from llmaug.config import OfUsersConfig, StrategyConfig
from llmaug.core.storage import Storage
from llmaug.errors import UserError
from llmaug.items.vocabulary import Vocabulary
from llmaug.lm.generator import Generator
from llmaug.lm.language import INFILL, REVERSE, load_language
from llmaug.lm.prompts import Prompts, about


class CausalPrompts(Prompts):
    def question(
        self,
        strategy: OfUsersConfig,
        history: Sequence[int],
        places: Sequence[int],
        user: Sequence[int] = (),
        candidates: Sequence[int] | None = None,
    ) -> list[int]:
        if strategy.replaces and list(places) != list(range(places[0], places[-1] + 1)):
            raise UserError(
                f"strategy {strategy.kind}: places {list(places)} are no neighbours, and a causal "
                "model sees one gap: let draw_places give neighbours, or take lm.model masked"
            )
        before, after = about(strategy, history, places)
        room = self.room(strategy.num_events)
        if strategy.needs == REVERSE:
            return self.language.reverse_prompt(after, room, user)
        if strategy.needs == INFILL:
            return self.language.infill_prompt(before, after, room, user)
        return self.language.forward_prompt(before, room, user)

    def events(
        self,
        strategy: StrategyConfig,
        tokens: Sequence[int],
        candidates: Sequence[int] | None = None,
    ) -> list[int]:
        return self.language.events(strategy.needs, tokens)


def load_prompts(storage: Storage, generator: Generator, vocabulary: Vocabulary) -> CausalPrompts:
    """Reads no weights. Raises UserError as `load_language` does."""
    language = load_language(storage, generator.folder, vocabulary)
    return CausalPrompts(language, generator.context_len)
