"""When items can be had: an article that nobody may read tomorrow is not recommended then.

From the columns `available_from` and `available_until` of the catalogue, and
`vocabulary.item_life_h`. What an item lacks of them knows no limit on that side.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import timedelta

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from llmaug.core.storage import Storage

LIFE_COLUMNS = ("available_from", "available_until")
LIVES_FILE = "lives.parquet"


@dataclass(frozen=True)
class Lives:
    """From when to when each token's item is there, both inclusive, in seconds since 1970."""

    begin: np.ndarray
    """(V,) float64, minus infinity where nothing is known; special tokens are always there."""
    end: np.ndarray
    """(V,) float64, infinity where nothing is known."""

    def gone(self, at: np.ndarray) -> np.ndarray:
        """(N,) seconds since 1970 to (N, V) bool: the tokens that are not there then."""
        return (at[:, None] < self.begin) | (at[:, None] > self.end)

    def span(self, token: int) -> tuple[float, float]:
        """(from, to) of a token; of those of no item, always."""
        if not 0 <= token < len(self.begin):
            return -math.inf, math.inf
        return float(self.begin[token]), float(self.end[token])

    def of_items(self, tokens: np.ndarray, num_special: int, num_actions: int) -> Lives:
        """Of the event tokens of another catalogue, whose items have (I,) `tokens` here, or -1."""
        sides = []
        for own, unknown in ((self.begin, -math.inf), (self.end, math.inf)):
            each = np.where(tokens >= 0, own[tokens], unknown)
            sides.append(_of_tokens(each, unknown, num_special, num_actions))
        return Lives(*sides)


def lives_of(items: pa.Table, num_special: int, num_actions: int) -> Lives | None:
    """Of the tokens of a catalogue; None where every item is always there, or the table is an
    older one, without the columns."""
    sides = []
    for name, unknown in zip(LIFE_COLUMNS, (-math.inf, math.inf), strict=True):
        if name not in items.column_names:
            return None
        seconds = pc.divide(items[name].cast(pa.int64()).cast(pa.float64()), 1e6)
        each = pc.fill_null(seconds, unknown).to_numpy()
        sides.append(_of_tokens(each, unknown, num_special, num_actions))
    begin, end = sides
    return Lives(begin, end) if np.isfinite(begin).any() or np.isfinite(end).any() else None


def write_lives(storage: Storage, lives: Lives, *folder: str) -> None:
    storage.write_table(pa.table({"begin": lives.begin, "end": lives.end}), *folder, LIVES_FILE)


def read_lives(storage: Storage, *folder: str) -> Lives | None:
    """Those in the folder of a model; None where its items are always there."""
    if not storage.exists(*folder, LIVES_FILE):
        return None
    table = storage.read_table(*folder, LIVES_FILE)
    return Lives(table["begin"].to_numpy(), table["end"].to_numpy())


def _of_tokens(each: np.ndarray, unknown: float, num_special: int, num_actions: int) -> np.ndarray:
    """(I,) values of items to those of event tokens."""
    return np.concatenate([np.full(num_special, unknown), np.tile(each, num_actions)])


def with_lives(items: pa.Table, first_s: pa.ChunkedArray, life_h: float | None) -> pa.Table:
    """`items` with both columns: what they do not say follows from an item's first training event
    ((I,) seconds since 1970, null where there is none) and how long items live."""
    if life_h is None:
        return items
    begin, end = (items[name] for name in LIFE_COLUMNS)
    first = pc.round(pc.multiply(first_s, 1e6)).cast(pa.int64()).cast(begin.type)
    begin = pc.coalesce(begin, first)
    end = pc.coalesce(end, pc.add(begin, timedelta(hours=life_h)))
    for name, column in zip(LIFE_COLUMNS, (begin, end), strict=True):
        items = items.set_column(items.column_names.index(name), items.schema.field(name), column)
    return items
