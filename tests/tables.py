"""Builders of event tables, catalogues and run folders small enough to check by hand."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pyarrow as pa

from llmaug.core.stage import MANIFEST, Context, total_counts
from llmaug.core.storage import Storage
from llmaug.items.vocabulary import ITEMS_PART, Vocabulary, of_items
from llmaug.plan.parts import Source, write_source
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


def write_plan(context: Context, source: str, train_part: str | None, units: list[dict]) -> str:
    """One part of a plan, as stage `plan` leaves it; returns its name."""
    place = None if train_part else 0.5
    described = Source(source, source, int(source[0]), train_part, len(units), place)
    write_source(context.storage, context.folder("plan"), described, units)
    return f"{source}-00000" if train_part else source


def write_finished(context: Context, stage: str, **counts: Any) -> None:
    """The manifest of a stage that has happened, as far as later stages read it."""
    manifest = {"fingerprint": f"fingerprint of {stage}", "counts": counts, "parts": []}
    context.storage.write_json(manifest, context.folder(stage), MANIFEST)


def read_rows(storage: Storage, folder: str) -> list[dict[str, Any]]:
    """All rows of all finished parts of `folder`."""
    return [
        row for part in storage.parts(folder) for row in storage.read_part(folder, part).to_pylist()
    ]


def map_parts_here(
    context: Context,
    folder: str,
    parts: list[str],
    work: Callable[[str], Any] | type,
    **options: Any,
) -> Counter[str]:
    """`stage.map_parts` without Ray, for the variations of a test that Ray ran once."""
    done = context.storage.parts(folder)
    if isinstance(work, type):  # an actor
        work = work(**options["fn_constructor_kwargs"])
    for part in parts:
        if part not in done:
            work(part)
    return total_counts(context.storage, folder)


class VllmConfig:
    """As much of vLLM's config as the processor reads."""

    def __init__(self, folder: str, num_tokens: int) -> None:
        self.model, self._num_tokens, self.max_num_seqs = folder, num_tokens, 8
        self.model_config = self.scheduler_config = self

    def get_vocab_size(self) -> int:
        return self._num_tokens
