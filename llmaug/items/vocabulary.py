"""Items to tokens and back, and the training statistics that synthetic events are drawn from.

Built from TRAINING events and the catalogue alone. Token ids 0-2 are special; item i of
`items.parquet` has token `NUM_SPECIAL + i`. Items are in order of item id, so the same data
gives the same tokens. For models that tell actions apart, event "action a with item i" of I
items has token `NUM_SPECIAL + a * I + i`: without actions, an event is its item.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property, partial

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from llmaug.core.storage import Storage, digest
from llmaug.core.stored import read_note
from llmaug.errors import UserError
from llmaug.items.item_text import read_vectors
from llmaug.items.lives import Lives, lives_of

PAD, BOS, EOS = 0, 1, 2
NUM_SPECIAL = 3

ITEMS_PART = "items"  # the one part of this stage


@dataclass(frozen=True)
class Vocabulary:
    """The catalogue as tokens."""

    items: pa.Table
    """Columns of ITEM and `train_events` (int64), one row an item, in token order."""
    digest: str
    """Over the item ids in order; models carry it."""
    read_text: Callable[[], np.ndarray | None] | None = None
    """Where `text` comes from."""
    actions: tuple[str, ...] = ()
    """The actions that tell events with one item apart; none: an event is its item."""

    @property
    def num_items(self) -> int:
        return self.items.num_rows

    @property
    def num_tokens(self) -> int:
        return NUM_SPECIAL + self.num_items

    @cached_property
    def item_ids(self) -> list[str]:
        return self.items["item_id"].to_pylist()

    @cached_property
    def text(self) -> np.ndarray | None:
        """(I, D) float32 text vectors of the items, zero for those without a text; None without
        an encoder. Read when first asked for: they are large, and few need them."""
        return self.read_text() if self.read_text else None

    @cached_property
    def lives(self) -> Lives | None:
        """When the items of the event tokens are there; None: all of them always."""
        return lives_of(self.items, NUM_SPECIAL, max(1, len(self.actions)))

    @cached_property
    def _ids(self) -> pa.Array:
        return self.items["item_id"].combine_chunks()

    def encode(self, item_ids: pa.ChunkedArray | pa.Array | list[str]) -> np.ndarray:
        """(N,) item ids to (N,) int32 tokens; an item outside the catalogue becomes -1."""
        column = pa.array(item_ids, pa.string()) if isinstance(item_ids, list) else item_ids
        index = pc.index_in(column.cast(pa.string()), value_set=self._ids)
        tokens = pc.fill_null(pc.add(index, NUM_SPECIAL), -1)
        return tokens.to_numpy(zero_copy_only=False).astype(np.int32)

    def decode(self, token: int) -> str | None:
        """The item id of a token; None for special tokens and those out of range."""
        index = token - NUM_SPECIAL
        return self.item_ids[index] if 0 <= index < self.num_items else None

    @property
    def num_event_tokens(self) -> int:
        return NUM_SPECIAL + self.num_items * max(1, len(self.actions))

    @property
    def event_columns(self) -> list[str]:
        """What `encode_events` reads."""
        return ["item_id", "action"] if self.actions else ["item_id"]

    def encode_events(self, events: pa.Table) -> np.ndarray:
        """(N,) int32 event tokens; -1 where the item or the action is unknown."""
        items = self.encode(events["item_id"])
        if not self.actions:
            return items
        names = pa.array(self.actions, pa.string())
        found = pc.fill_null(pc.index_in(events["action"].cast(pa.string()), value_set=names), -1)
        action = found.to_numpy(zero_copy_only=False).astype(np.int32)
        return np.where((items < 0) | (action < 0), -1, items + self.num_items * action)

    def decode_event(self, token: int) -> tuple[str | None, str | None]:
        """(item id, action); the item is None for tokens of no event, the action also where
        events are items alone."""
        if not NUM_SPECIAL <= token < self.num_event_tokens:
            return None, None
        action, item = divmod(token - NUM_SPECIAL, self.num_items)
        return self.item_ids[item], self.actions[action] if self.actions else None

    def tag_bags(self, min_items: int) -> tuple[list[str], np.ndarray, np.ndarray]:
        """Item tags as a bag of tag indices: (tag names, flat (M,) int64, offsets (items,)).

        Tags of fewer than `min_items` items are left out. Row i of the bags is item i.
        """
        tags = [row or [] for row in self.items["tags"].to_pylist()]
        frequency = Counter(tag for row in tags for tag in set(row))
        names = sorted(tag for tag, count in frequency.items() if count >= min_items)
        index = {tag: i for i, tag in enumerate(names)}
        bags = [[index[tag] for tag in sorted(set(row)) if tag in index] for row in tags]
        offsets = np.cumsum([0] + [len(bag) for bag in bags])[:-1]
        flat = np.array([tag for bag in bags for tag in bag], dtype=np.int64)
        return names, flat, offsets.astype(np.int64)

    def has_features(self, min_tag_items: int) -> np.ndarray:
        """(I,) bool: items of which something else than their id is known, a tag or a text."""
        _, flat, offsets = self.tag_bags(min_tag_items)
        has_tags = np.diff(np.r_[offsets, len(flat)]) > 0
        return has_tags if self.text is None else has_tags | self.text.any(1)


def load_vocabulary(storage: Storage, folder: str) -> Vocabulary:
    """Raises UserError when the stage's files do not fit together."""
    items = storage.read_part(folder, ITEMS_PART)
    note = read_note(storage, folder, ITEMS_PART)
    vocabulary = of_items(items)
    if note["counts"].get("vocabulary_digest") != vocabulary.digest:
        raise UserError(f"{storage.uri(folder)}: items.parquet is not the one its note describes")
    read_text = partial(read_vectors, storage, folder, items["item_id"])
    return replace(vocabulary, read_text=read_text)


def of_items(items: pa.Table) -> Vocabulary:
    return Vocabulary(items, digest("\n".join(items["item_id"].to_pylist()).encode()))


@dataclass(frozen=True)
class Statistics:
    """Quantiles (evenly spaced, 0 to 1) of training behaviour."""

    gap_s: list[float]
    """Seconds between neighbouring events of one user."""
    start_s: list[float]
    """Seconds since 1970 of users' first events."""
    history_len: list[float]
    """Events of a user."""
    window_end_s: float
    """Seconds since 1970 of the last training event of all: nothing synthetic is later."""
    actions: list[str]
    """All actions, the most frequent one first."""
    time_step_s: float = 0.0
    """Seconds of which all times of training events are multiples: a day, an hour, a minute or a
    second; 0: of none of these."""


def load_statistics(storage: Storage, folder: str) -> Statistics:
    return Statistics(**storage.read_json(folder, "statistics.json"))
