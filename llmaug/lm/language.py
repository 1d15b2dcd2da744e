"""The sentences that a causal behaviour model reads and writes.

An event is its item, and an item is one token, in large catalogues a path of code words
(semantic_ids.py). Where events of several actions are told apart, an event is the word of its
action and then its item (actions.py). One model has three directions. A control token in the
place of BOS chooses:

    forward   BOS a b c          ->  what comes next
    reverse   REVERSE c b a      ->  what came before, newest first
    infill    INFILL a SUFFIX c MIDDLE  ->  what stood between, then EOS
              (prefix, suffix, middle: Bavarian et al. 2022)

User attributes (age=25-34, ...) stand in front of all that, one token each. Control, attribute
and action tokens come after the items, so the tokens of items are the same in every model.
Prompts that are too long lose the events farthest from what is asked for.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from llmaug.core.storage import Storage
from llmaug.errors import UserError
from llmaug.items.semantic_ids import IDS_FILE, SemanticIds, read_ids
from llmaug.items.vocabulary import BOS, EOS, NUM_SPECIAL, Vocabulary
from llmaug.lm.actions import ActionIds
from llmaug.lm.folder import REMEDY, check_digest, check_weights, read_notes

FORWARD, REVERSE, INFILL = "forward", "reverse", "infill"
NUM_CONTROLS = 4

Attributes = tuple[tuple[str, tuple[str, ...]], ...]
"""(name, its known values) of each user attribute."""


@dataclass(frozen=True)
class Language:
    """Which tokens there are besides items, and how prompts are built from them."""

    num_words: int
    """Special tokens and items; with semantic ids, special tokens and code words."""
    has_directions: bool = False
    """Whether reverse and infill were trained, too."""
    attributes: Attributes = ()
    items: SemanticIds | None = field(default=None, compare=False, repr=False)
    """How items are spelled; None where an item is one token."""
    actions: tuple[str, ...] = ()
    """The actions that are told apart, the most frequent first; none: an event is its item."""

    @cached_property
    def ids(self) -> SemanticIds | ActionIds | None:
        """How events are spelled; None where an event is one token."""
        if not self.actions:
            return self.items
        num_items = len(self.items.codes) if self.items else self.num_words - NUM_SPECIAL
        return ActionIds(len(self.actions), num_items, self._first_action, self.items)

    @property
    def word_len(self) -> int:
        """Tokens of an event."""
        return self.ids.word_len if self.ids else 1

    def spell(self, events: Sequence[int]) -> list[int]:
        """Event tokens of the vocabulary as tokens of the language."""
        return self.ids.spell(events).tolist() if self.ids else list(events)

    def action_words(self, names: Iterable[str]) -> list[int]:
        """The words of those of `names` that the language tells apart."""
        return [self._first_action + self.actions.index(n) for n in names if n in self.actions]

    def action_of(self, event: int) -> int:
        """Which of `actions` an event token has; 0 where events are items alone."""
        ids = self.ids
        return (event - NUM_SPECIAL) // ids.num_items if isinstance(ids, ActionIds) else 0

    @property
    def num_tokens(self) -> int:
        return self._first_action + len(self.actions)

    @property
    def _first_action(self) -> int:
        values = sum(1 + len(values) for _, values in self.attributes)
        return self.num_words + NUM_CONTROLS * self.has_directions + values

    @property
    def reverse(self) -> int:
        return self.num_words

    @property
    def infill(self) -> int:
        return self.num_words + 1

    @property
    def suffix(self) -> int:
        return self.num_words + 2

    @property
    def middle(self) -> int:
        return self.num_words + 3

    @property
    def no_items(self) -> list[int]:
        """Tokens that may not come out where an item is asked for."""
        return [*range(NUM_SPECIAL), *range(self.num_words, self.num_tokens)]

    def user_tokens(self, attributes: Mapping[str, str] | None) -> list[int]:
        """One token an attribute; a missing or unknown value has a token of its own."""
        out = []
        first = self.num_words + NUM_CONTROLS * self.has_directions
        for name, values in self.attributes:
            value = (attributes or {}).get(name)
            out.append(first + (1 + values.index(value) if value in values else 0))
            first += 1 + len(values)
        return out

    # -- prompts -----------------------------------------------------------------------------

    def forward_prompt(
        self, history: Sequence[int], max_len: int, user: Sequence[int] = ()
    ) -> list[int]:
        """Asks for what comes after `history`. BOS says that the history starts here: a
        history that is cut to fit goes without."""
        room = max_len - len(user)
        if 1 + len(history) * self.word_len <= room:
            return [*user, BOS, *self.spell(history)]
        newest = history[len(history) - room // self.word_len :]
        return [*user, *self.spell(newest)]

    def reverse_prompt(
        self, history: Sequence[int], max_len: int, user: Sequence[int] = ()
    ) -> list[int]:
        """Asks for what came before `history`, newest first."""
        room = (max_len - len(user) - 1) // self.word_len
        return [*user, self.reverse, *self.spell(history[:room][::-1])]

    def infill_prompt(
        self, prefix: Sequence[int], suffix: Sequence[int], max_len: int, user: Sequence[int] = ()
    ) -> list[int]:
        """Asks for what stood between `prefix` and `suffix`. Too long, each keeps one half
        of the room, or more where the other needs less."""
        room = (max_len - len(user) - 3) // self.word_len
        num_before = min(len(prefix), max(room - len(suffix), math.ceil(room / 2)))
        before = self.spell(prefix[len(prefix) - num_before :])
        after = self.spell(suffix[: room - num_before])
        return [*user, self.infill, *before, self.suffix, *after, self.middle]

    # -- answers -----------------------------------------------------------------------------

    def events(self, direction: str, answer: Sequence[int]) -> list[int]:
        """The event tokens of an answer in time order."""
        tokens = list(answer)
        if direction == INFILL and EOS in tokens:
            tokens = tokens[: tokens.index(EOS)]
        events = self.ids.read(tokens) if self.ids else tokens
        return events[::-1] if direction == REVERSE else events

    def as_json(self) -> dict[str, Any]:
        return {
            "semantic_ids": self.items.digest if self.items else None,
            "num_words": self.num_words,
            "has_directions": self.has_directions,
            "attributes": [[name, list(values)] for name, values in self.attributes],
            "actions": list(self.actions),
        }


def language_of(notes: dict[str, Any], items: SemanticIds | None) -> Language:
    """The language that `as_json` described; items: the semantic ids beside it."""
    attributes = tuple((name, tuple(values)) for name, values in notes["attributes"])
    return Language(
        notes["num_words"], notes["has_directions"], attributes, items, tuple(notes["actions"])
    )


def load_language(storage: Storage, folder: str, vocabulary: Vocabulary) -> Language:
    """The language of the causal model in `folder`; reads no weights.

    Raises UserError when there is none, when it was trained on another vocabulary, and when
    an engine could not load it: another architecture, weights that are cut short.
    """
    notes = read_notes(storage, folder, "causal")
    check_digest(storage.uri(folder), notes, vocabulary)
    found = notes.get("language")
    if found is None or "actions" not in found:
        raise UserError(f"{storage.uri(folder)}: written by an older version; {REMEDY}")
    items = None
    if found["semantic_ids"] is not None:
        items = read_ids(storage, folder)
        if items is None or items.digest != found["semantic_ids"]:
            raise UserError(
                f"{storage.uri(folder)}: its {IDS_FILE} is missing or damaged; {REMEDY}"
            )
    language = language_of(found, items)
    check_weights(storage, folder, "causal", language.num_tokens)
    return language


def known_attributes(
    names: Sequence[str], users: Iterable[Mapping[str, str]], min_users: int
) -> Attributes:
    """The values of each attribute in `names` that at least `min_users` of `users` have:
    rarer ones say nothing, and single people out. Raises UserError for a name that no user
    has."""
    counts: dict[str, Counter[str]] = {name: Counter() for name in names}
    others: Counter[str] = Counter()
    for attributes in users:
        others.update(attributes.keys())
        for name in names:
            if attributes.get(name):
                counts[name][attributes[name]] += 1
    for name, found in counts.items():
        if not found:
            raise UserError(
                f"lm.user_attributes: no training user has '{name}'; the users table has: "
                f"{', '.join(sorted(others)) or 'nothing'}"
            )
    return tuple(
        (name, tuple(sorted(value for value, n in found.items() if n >= min_users)))
        for name, found in counts.items()
    )
