"""Builders of event tables, catalogues and stages' results small enough to check by hand."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pyarrow as pa

from llmaug.core.stage import MANIFEST, Context
from llmaug.items.vocabulary import ITEMS_PART, Vocabulary, of_items
from llmaug.schema import EVENT, ITEM, REAL

START = datetime(2025, 6, 1, tzinfo=UTC)

Row = tuple[str, str, float]
"""(user, item, hours since START)"""


def hour(number: float) -> datetime:
    return START + timedelta(hours=number)


def events(rows: Iterable[Row], action: str = "view") -> pa.Table:
    """Real events of weight 1."""
    return pa.Table.from_pylist(
        [
            {
                "user_id": user,
                "item_id": item,
                "action": action,
                "timestamp": hour(number),
                "weight": 1.0,
                "origin": REAL,
            }
            for user, item, number in rows
        ],
        schema=EVENT,
    )


def histories(**items: str) -> list[Row]:
    """`histories(u1="ab", u2="c")`: each letter is an item, each event an hour later."""
    return [
        (user, item, number)
        for user, letters in sorted(items.items())
        for number, item in enumerate(letters)
    ]


def catalogue(
    item_ids: str | list[str],
    tags: dict[str, list[str]] | None = None,
    train_events: dict[str, int] | None = None,
    text: dict[str, list[float]] | None = None,
) -> Vocabulary:
    """`catalogue("abc")`: a has token 3, b 4, c 5. text: vectors of the items that have one."""
    rows = [
        {
            "item_id": item_id,
            "title": f"Title of {item_id}",
            "tags": (tags or {}).get(item_id),
            "origin": REAL,
            "train_events": (train_events or {}).get(item_id, 0),
        }
        for item_id in sorted(item_ids)
    ]
    schema = ITEM.append(pa.field("train_events", pa.int64()))
    words = of_items(pa.Table.from_pylist(rows, schema=schema))
    if text is None:
        return words
    none = np.zeros(len(next(iter(text.values()))))
    vectors = np.stack([text.get(item_id, none) for item_id in words.item_ids])
    return replace(words, read_text=lambda: vectors.astype(np.float32))


def write_vocabulary(context: Context, vocabulary: Vocabulary, statistics: dict[str, Any]) -> None:
    """What stage `vocabulary` leaves behind."""
    folder = context.folder("vocabulary")
    counts = {"vocabulary_digest": vocabulary.digest}
    context.storage.write_part(vocabulary.items, counts, folder, ITEMS_PART)
    nothing = {"gap_s": [0.0], "start_s": [0.0], "history_len": [1.0], "window_end_s": 0.0}
    statistics = {**nothing, "actions": ["view"], **statistics}
    context.storage.write_json(statistics, folder, "statistics.json")
    write_finished(context, "vocabulary", **counts)


def write_finished(context: Context, stage: str, **counts: Any) -> None:
    """The manifest of a stage that has happened, as far as later stages read it."""
    manifest = {"fingerprint": f"fingerprint of {stage}", "counts": counts, "parts": []}
    context.storage.write_json(manifest, context.folder(stage), MANIFEST)
