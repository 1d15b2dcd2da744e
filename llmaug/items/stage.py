"""Stage `vocabulary`: items to tokens, and statistics of the training events."""

from __future__ import annotations

import json
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from llmaug.core.placing import TASKS
from llmaug.core.stage import Context, Stage, map_parts
from llmaug.core.storage import Storage
from llmaug.errors import UserError
from llmaug.ingest.split import TRAIN
from llmaug.items.catalogue import SEEN, catalogue
from llmaug.items.item_text import TEXT, encoders, write_vectors
from llmaug.items.semantic_ids import NO_ITEM_VECTORS
from llmaug.items.vocabulary import ITEMS_PART, Vocabulary, load_vocabulary, of_items
from llmaug.schema import ITEM, validate

_SAMPLES, _SAMPLES_PER_PART = 2_000_000, 5000  # of each kind, at most
_PARTS_AT_ONCE = 16
_NUM_QUANTILES = 201
_STEPS_S = (86_400, 3_600, 60, 1)
_COUNTS = pa.schema([("kind", pa.string()), ("name", pa.string()), ("value", pa.float64())])


def run(context: Context, described: tuple[str, ...] = ()) -> dict[str, Any]:
    storage, folder = context.storage, context.folder("vocabulary")
    train = f"{context.folder('split')}/{TRAIN}"
    parts = storage.parts(train)
    lives = context.config.vocabulary.item_life_h is not None
    samples_per_part = min(_SAMPLES_PER_PART, max(1, _SAMPLES // max(1, len(parts))))
    count = partial(_count, storage, train, folder, lives, samples_per_part)
    map_parts(context, f"{folder}/counts", parts, count)
    found = _add_up(storage, f"{folder}/counts", parts)
    seen = _seen(found)
    kinds = ("gap_s", "start_s", "history_len", "end_s", "step_s")
    samples = {kind: _values(found, kind) for kind in kinds}
    items = catalogue(seen, _side_items(context, described), context.config.vocabulary)
    if items.num_rows < 2:
        raise UserError(
            f"the catalogue has {items.num_rows} item(s): there is nothing to rank. Check "
            "ingest.columns (item_id), ingest.k_core and the date range"
        )
    storage.write_json(_quantiles(samples, _named(found, "action")), folder, "statistics.json")
    counts = {
        "items": items.num_rows,
        "cold_items": items.num_rows - seen.num_rows,
        "vocabulary_digest": of_items(items).digest,
    }
    storage.write_part(items, counts, folder, ITEMS_PART)
    if context.config.vocabulary.text_encoder:
        counts |= write_vectors(context, items)
    if items.num_rows > context.config.vocabulary.max_atomic_items:
        if context.config.starts_from_generator:
            raise UserError(NO_ITEM_VECTORS)
        vocabulary = load_vocabulary(storage, folder)
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


def _seen(found: pa.Table) -> pa.Table:
    """What `_add_up` found of items: schema SEEN."""
    items, first = (found.filter(pc.equal(found["kind"], kind)) for kind in ("item", "first_s"))
    place = pc.index_in(items["name"], value_set=first["name"].combine_chunks())
    columns = [items["name"], items["value"].cast(pa.int64()), first["value"].take(place)]
    return pa.table(columns, schema=SEEN)


def _side_items(context: Context, described: tuple[str, ...]) -> pa.Table:
    """The items table; of an item that was described, the row that says so."""
    items = _items_in(context, f"{context.folder('ingest')}/items")
    for stage in described:
        new = _items_in(context, context.folder(stage))
        old = pc.is_in(items["item_id"], value_set=new["item_id"].combine_chunks())
        items = pa.concat_tables([items.filter(pc.invert(old)), new])
    return items


def _items_in(context: Context, folder: str) -> pa.Table:
    tables = [context.storage.read_part(folder, p) for p in context.storage.parts(folder)]
    items = pa.concat_tables(tables) if tables else ITEM.empty_table()
    return validate(items, ITEM, folder)


def _add_up(storage: Storage, folder: str, parts: list[str]) -> pa.Table:
    """What `_count` found in all parts, one row a name; some parts are in memory at a time."""
    total = _COUNTS.empty_table()
    for start in range(0, len(parts), _PARTS_AT_ONCE):
        some = (storage.read_part(folder, part) for part in parts[start : start + _PARTS_AT_ONCE])
        table = pa.concat_tables([total, *some])
        named, first = pc.is_valid(table["name"]), pc.equal(table["kind"], "first_s")
        total = pa.concat_tables([
            table.filter(pc.invert(named)),
            _by_name(table.filter(pc.and_not(named, first)), "sum"),
            _by_name(table.filter(first), "min"),
        ])  # fmt: skip
    return total


def _by_name(table: pa.Table, how: str) -> pa.Table:
    found = table.group_by(["kind", "name"]).aggregate([("value", how)])
    return found.rename_columns(_COUNTS.names)


def _values(found: pa.Table, kind: str) -> np.ndarray:
    return found.filter(pc.equal(found["kind"], kind))["value"].to_numpy()


def _named(found: pa.Table, kind: str) -> dict[str, float]:
    names = found.filter(pc.equal(found["kind"], kind))["name"].to_pylist()
    return dict(zip(names, _values(found, kind).tolist(), strict=True))


def _count(
    storage: Storage, train: str, folder: str, lives: bool, max_samples: int, part: str
) -> dict[str, Any]:
    """Counts and samples of one part: rows of `_COUNTS`."""
    events = storage.read_part(train, part, columns=["user_id", "item_id", "action", "timestamp"])
    rows: list[tuple[str, str | None, float]] = []
    for kind, column in (("item", "item_id"), ("action", "action")):
        for pair in pc.value_counts(events[column].cast(pa.string())).to_pylist():
            if pair["values"] is not None:
                rows.append((kind, pair["values"], pair["counts"]))
    if lives:
        earliest = events.group_by("item_id").aggregate([("timestamp", "min")])
        for row in earliest.to_pylist():
            rows.append(("first_s", row["item_id"], row["timestamp_min"].timestamp()))
    time_us = events["timestamp"].cast(pa.int64()).to_numpy()
    time_s = time_us / 1e6
    users = events["user_id"].to_numpy(zero_copy_only=False)
    if len(users):
        first = np.r_[True, users[1:] != users[:-1]]
        lengths = np.diff(np.r_[np.flatnonzero(first), len(users)])
        gaps = np.diff(time_s)[~first[1:]]
        for kind, values in (("gap_s", gaps), ("start_s", time_s[first]), ("history_len", lengths)):
            step = max(1, len(values) // max_samples)
            rows += [(kind, None, float(value)) for value in values[::step]]
        rows.append(("end_s", None, float(time_s.max())))
        rows.append(("step_s", None, _step_s(time_us)))
    columns = list(zip(*rows, strict=True)) or [(), (), ()]
    table = pa.table(list(map(list, columns)), schema=_COUNTS)
    storage.write_part(table, {}, f"{folder}/counts", part)
    return {}


def _step_s(time_us: np.ndarray) -> float:
    """Of logs that know the day alone, times within a day would give every synthetic event away."""
    return next((float(s) for s in _STEPS_S if not (time_us % (s * 1_000_000)).any()), 0.0)


def _quantiles(samples: dict[str, np.ndarray], actions: dict[str, float]) -> dict[str, Any]:
    grid = np.linspace(0, 1, _NUM_QUANTILES)
    out: dict[str, Any] = {
        kind: np.quantile(samples[kind] if len(samples[kind]) else [0.0], grid).round(6).tolist()
        for kind in ("gap_s", "start_s", "history_len")
    }
    out["window_end_s"] = float(samples["end_s"].max(initial=0.0))
    # Each of them divides those that are longer.
    out["time_step_s"] = float(samples["step_s"].min()) if len(samples["step_s"]) else 0.0
    # By name among equals: parts may be counted in any order.
    ranked = sorted(actions, key=lambda name: (-actions[name], name))
    out["actions"] = ranked or ["interact"]
    return json.loads(json.dumps(out))


def stage(described: tuple[str, ...] = ()) -> Stage:
    """described: stages whose rows are items with texts that were written."""
    return Stage(
        name="vocabulary",
        run=partial(run, described=described),
        asks=lambda config, on_gpus: (
            *TASKS,
            *(encoders(on_gpus) if config.vocabulary.text_encoder else ()),
        ),
        inputs=("ingest", "split", *described),
        settings=lambda config: [config.vocabulary, config.seed],
        part_folders=("", TEXT),
    )


STAGE = stage()
