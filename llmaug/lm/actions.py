"""Events of several actions (view, cart, buy) as words: first the action's, then the item's.

So a model decides what is done before it decides with what, and a decoder that walks the paths
of all events writes nothing else. Looks like SemanticIds to whoever spells and reads.

Shapes: A actions, I items, L words an event.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from llmaug.items.semantic_ids import SemanticIds
from llmaug.items.vocabulary import NUM_SPECIAL


@dataclass(frozen=True)
class ActionIds:
    """Paths of the events "action a with item i", in the order of their tokens: a * I + i."""

    num_actions: int
    num_items: int
    first: int
    """Word of the first action; the others follow."""
    items: SemanticIds | None
    """How items are spelled; None: item i is the word `NUM_SPECIAL + i`."""

    @property
    def word_len(self) -> int:
        return 1 + (self.items.word_len if self.items else 1)

    @property
    def num_words(self) -> int:
        """No word is as large as this."""
        return self.first + self.num_actions

    @cached_property
    def words(self) -> np.ndarray:
        """(A * I, L) int32."""
        items = self._item_words
        actions = self.first + np.repeat(np.arange(self.num_actions), self.num_items)
        return np.c_[actions, np.tile(items, (self.num_actions, 1))].astype(np.int32)

    def spell(self, events: Any) -> np.ndarray:
        """(N,) event tokens to (N * L,) words."""
        action, item = np.divmod(np.asarray(events, np.int64) - NUM_SPECIAL, self.num_items)
        return np.c_[self.first + action, self._item_words[item]].astype(np.int32).reshape(-1)

    def read(self, words: list[int]) -> list[int]:
        """Words to event tokens; a path that is no event's gives -1, a cut one nothing."""
        paths = zip(*[iter(words)] * self.word_len, strict=False)
        return [self._token(action - self.first, item) for action, *item in paths]

    def _token(self, action: int, words: list[int]) -> int:
        if self.items:
            (item,) = self.items.read(words)
        else:
            item = words[0]
        known = NUM_SPECIAL <= item < NUM_SPECIAL + self.num_items
        return action * self.num_items + item if known and 0 <= action < self.num_actions else -1

    @cached_property
    def _item_words(self) -> np.ndarray:
        """(I, L - 1) int32."""
        if self.items:
            return self.items.words
        return np.arange(NUM_SPECIAL, NUM_SPECIAL + self.num_items, dtype=np.int32)[:, None]
