"""The catalogue that models rank: what was taken in training, and what the items table knows.

Column by column: ten million items as Python objects would be the driver's memory.
"""

from __future__ import annotations

import re

import pyarrow as pa
import pyarrow.compute as pc

from llmaug.config import VocabularyConfig
from llmaug.items.item_text import WORD
from llmaug.items.lives import with_lives
from llmaug.schema import ITEM, REAL

SEEN = pa.schema(
    [
        pa.field("item_id", pa.string()),
        pa.field("train_events", pa.int64()),
        # Seconds since 1970 of the first training event, where items live for a time.
        pa.field("first_s", pa.float64()),
    ]
)
_WORD = re.compile(r"\w{2,}")
_BLOCK = 1 << 16  # items that are Python objects together


def catalogue(seen: pa.Table, side: pa.Table, config: VocabularyConfig) -> pa.Table:
    """All items with a training event (and, if so configured, the rest of the items table) in
    order of their ids: schema ITEM and `train_events`.

    seen: of schema SEEN, ids unique. side: of schema ITEM, ids unique.
    """
    parts = [seen["item_id"], *([side["item_id"]] if config.cold_items else [])]
    ids = pc.unique(pa.chunked_array([c for part in parts for c in part.chunks], pa.string()))
    ids = ids.take(pc.sort_indices(ids))
    known = side.take(pc.index_in(ids, value_set=side["item_id"].combine_chunks()))
    events = seen.take(pc.index_in(ids, value_set=seen["item_id"].combine_chunks()))
    new = {
        "item_id": ids,
        "origin": pc.fill_null(known["origin"], REAL),
        "train_events": pc.fill_null(events["train_events"], 0),
    }
    if config.title_words:
        new["tags"] = _with_words(known["tags"], known["title"])
    schema = ITEM.append(SEEN.field("train_events"))
    columns = [new[name] if name in new else known[name] for name in schema.names]
    items = pa.table(columns, schema=schema)
    return with_lives(items, events["first_s"], config.item_life_h)


def _with_words(tags: pa.ChunkedArray, titles: pa.ChunkedArray) -> pa.ChunkedArray:
    """(I,) tags, and the words of each title among them."""
    pieces = []
    for start in range(0, len(tags), _BLOCK):
        some = zip(*(c.slice(start, _BLOCK).to_pylist() for c in (tags, titles)), strict=True)
        rows = [[*(own or ()), *_words(title or "")] for own, title in some]
        pieces.append(pa.array(rows, ITEM.field("tags").type))
    return pa.chunked_array(pieces, ITEM.field("tags").type)


def _words(title: str) -> list[str]:
    return [WORD + word for word in dict.fromkeys(_WORD.findall(title.lower()))]
