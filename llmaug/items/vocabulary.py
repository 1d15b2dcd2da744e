"""Items to tokens and back, and the training statistics that synthetic events are drawn from.

Built from TRAINING events and the catalogue alone. Token ids 0-2 are special; item i of
`items.parquet` has token `NUM_SPECIAL + i`. Items are in order of item id, so the same data
gives the same tokens. For models that tell actions apart, event "action a with item i" of I
items has token `NUM_SPECIAL + a * I + i`: without actions, an event is its item.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from llmaug.config import VocabularyConfig
from llmaug.core.stage import Context, Stage, map_parts
from llmaug.core.storage import Storage, digest
from llmaug.core.stored import read_note
from llmaug.errors import UserError
from llmaug.ingest.split import TRAIN
from llmaug.items.item_text import TEXT, WORD, encoder_files, read_vectors, write_vectors
from llmaug.schema import ITEM

PAD, BOS, EOS = 0, 1, 2
NUM_SPECIAL = 3

ITEMS_PART = "items"  # the one part of this stage
_SAMPLES_PER_PART = 5000
_NUM_QUANTILES = 201
_WORD = re.compile(r"\w{2,}")


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


def load(storage: Storage, folder: str) -> Vocabulary:
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


def load_statistics(storage: Storage, folder: str) -> Statistics:
    return Statistics(**storage.read_json(folder, "statistics.json"))


def run(context: Context) -> dict[str, Any]:
    storage, folder = context.storage, context.folder("vocabulary")
    train = f"{context.folder('split')}/{TRAIN}"
    parts = storage.parts(train)
    map_parts(context, f"{folder}/counts", parts, partial(_count, storage, train, folder))
    seen: Counter[str] = Counter()
    actions: Counter[str] = Counter()
    samples: dict[str, list[float]] = {"gap_s": [], "start_s": [], "history_len": [], "end_s": []}
    for part in parts:
        table = storage.read_part(f"{folder}/counts", part)
        for row in table.to_pylist():
            if row["kind"] == "item":
                seen[row["name"]] += int(row["value"])
            elif row["kind"] == "action":
                actions[row["name"]] += int(row["value"])
            else:
                samples[row["kind"]].append(row["value"])
    items = catalogue(seen, _side_items(context), context.config.vocabulary)
    if items.num_rows < 2:
        raise UserError(
            f"the catalogue has {items.num_rows} item(s): there is nothing to rank. Check "
            "ingest.columns (item_id), ingest.k_core and the date range"
        )
    storage.write_json(_quantiles(samples, actions), folder, "statistics.json")
    counts = {
        "items": items.num_rows,
        "cold_items": items.num_rows - len(seen),
        "vocabulary_digest": of_items(items).digest,
    }
    storage.write_part(items, counts, folder, ITEMS_PART)
    if context.config.vocabulary.text_encoder:
        counts |= write_vectors(context, items)
    if items.num_rows > context.config.vocabulary.max_atomic_items:
        vocabulary = load(storage, folder)
        counts["words_per_item"] = _write_semantic_ids(context, train, vocabulary)
    return counts


def _write_semantic_ids(context: Context, train: str, vocabulary: Vocabulary) -> int:
    from llmaug.items.semantic_ids import build, item_vectors, write_ids

    config, seed = context.config.vocabulary, context.config.seed
    vectors = item_vectors(context.storage, train, vocabulary, seed)
    ids = build(vectors, config.num_levels, config.num_codes, seed)
    write_ids(context.storage, ids, context.folder("vocabulary"))
    context.progress.note(
        f"{vocabulary.num_items:,} items as paths of {ids.word_len} words out of "
        f"{ids.num_words:,}, the last one of {ids.sizes[-1]:,}"
    )
    return ids.word_len


def catalogue(seen: Counter[str], side: pa.Table, config: VocabularyConfig) -> pa.Table:
    """All items with a training event (and, if so configured, the rest of the items table)."""
    known = dict(zip(side["item_id"].to_pylist(), side.to_pylist(), strict=True))
    ids = sorted(set(seen) | (set(known) if config.cold_items else set()))
    rows = [
        {**known.get(i, {"item_id": i, "origin": "real"}), "train_events": seen[i]} for i in ids
    ]
    if config.title_words:
        for row in rows:
            words = _WORD.findall((row.get("title") or "").lower())
            row["tags"] = [*(row.get("tags") or ()), *(WORD + w for w in dict.fromkeys(words))]
    return pa.Table.from_pylist(rows, schema=ITEM.append(pa.field("train_events", pa.int64())))


def _side_items(context: Context) -> pa.Table:
    folder = f"{context.folder('ingest')}/items"
    tables = [context.storage.read_part(folder, p) for p in context.storage.parts(folder)]
    return pa.concat_tables(tables) if tables else ITEM.empty_table()


def _count(storage: Storage, train: str, folder: str, part: str) -> dict[str, Any]:
    """Counts and samples of one part: rows of (kind, name, value)."""
    events = storage.read_part(train, part, columns=["user_id", "item_id", "action", "timestamp"])
    rows: list[tuple[str, str | None, float]] = []
    for kind, column in (("item", "item_id"), ("action", "action")):
        for pair in pc.value_counts(events[column].cast(pa.string())).to_pylist():
            if pair["values"] is not None:
                rows.append((kind, pair["values"], pair["counts"]))
    time_s = events["timestamp"].cast(pa.int64()).to_numpy() / 1e6
    users = events["user_id"].to_numpy(zero_copy_only=False)
    if len(users):
        first = np.r_[True, users[1:] != users[:-1]]
        lengths = np.diff(np.r_[np.flatnonzero(first), len(users)])
        gaps = np.diff(time_s)[~first[1:]]
        for kind, values in (("gap_s", gaps), ("start_s", time_s[first]), ("history_len", lengths)):
            step = max(1, len(values) // _SAMPLES_PER_PART)
            rows += [(kind, None, float(value)) for value in values[::step]]
        rows.append(("end_s", None, float(time_s.max())))
    columns = list(zip(*rows, strict=True)) or [(), (), ()]
    table = pa.table(
        [pa.array(columns[0], pa.string()), pa.array(columns[1], pa.string()),
         pa.array(columns[2], pa.float64())],
        names=["kind", "name", "value"],
    )  # fmt: skip
    storage.write_part(table, {}, f"{folder}/counts", part)
    return {}


def _quantiles(samples: dict[str, list[float]], actions: Counter[str]) -> dict[str, Any]:
    grid = np.linspace(0, 1, _NUM_QUANTILES)
    out: dict[str, Any] = {
        kind: np.quantile(samples[kind] or [0.0], grid).round(6).tolist()
        for kind in ("gap_s", "start_s", "history_len")
    }
    out["window_end_s"] = max(samples["end_s"], default=0.0)
    # By name among equals: parts may be counted in any order.
    ranked = sorted(actions, key=lambda name: (-actions[name], name))
    out["actions"] = ranked or ["interact"]
    return json.loads(json.dumps(out))


STAGE = Stage(
    name="vocabulary",
    run=run,
    inputs=("ingest", "split"),
    settings=lambda config: [config.vocabulary, config.seed],
    outside=encoder_files,
    part_folders=("", TEXT),
)
