"""Task `cold_items`: events of items that have few, by what users would rather take.

For each such item a few users are chosen whose histories are nearest to it, and each is given a
pair: the item, and of all others with few events the nearest to this user. What a chat model
prefers in both orders (`choosing`) becomes an event behind the user's last one. Users, pairs and
questions come from training events and the items table alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from llmaug.config import ColdItemsConfig, TextConfig
from llmaug.core.placing import TASKS
from llmaug.core.shared import share
from llmaug.core.stage import Context, Stage, map_parts
from llmaug.core.storage import Storage
from llmaug.ingest.split import TRAIN
from llmaug.items.arrays import group_bounds
from llmaug.items.semantic_ids import item_vectors
from llmaug.items.vocabulary import NUM_SPECIAL, Vocabulary, load_vocabulary
from llmaug.schema import CANDIDATES as SCHEMA
from llmaug.schema import validate
from llmaug.text.choosing import CANDIDATES, asked_twice
from llmaug.text.task import Task

_USERS_AT_ONCE = 2_000
_NEAR = pa.schema([*SCHEMA, pa.field("score", pa.float32(), nullable=False)])


def task(text: TextConfig, config: ColdItemsConfig) -> Task:
    return asked_twice(text, config, 2, 1, config.max_history_len, with_tags=True)


def candidates_stage(own: ColdItemsConfig) -> Stage:
    return Stage(
        name=f"text/{own.name}/{CANDIDATES}",
        run=partial(candidates, own),
        inputs=("split", "vocabulary"),
        settings=lambda config: [
            own.max_train_events, own.max_items, own.users_per_item, own.max_history_len
        ],
        asks=lambda config, on_gpus: TASKS,
    )  # fmt: skip


def candidates(own: ColdItemsConfig, context: Context) -> dict[str, Any]:
    """The pairs: rows of schema CANDIDATES, in parts as those of the training events."""
    storage, folder = context.storage, context.folder(f"text/{own.name}/{CANDIDATES}")
    train, near = f"{context.folder('split')}/{TRAIN}", f"{folder}/near"
    words, seed = context.folder("vocabulary"), context.config.seed
    parts = storage.parts(train)
    catalogue = share(context, partial(_catalogue, storage, train, words, seed, own))
    map_parts(context, near, parts, partial(_near_of_part, storage, train, near, own, catalogue))
    pairs = _nearest(storage, near, parts, own.users_per_item)
    keep = partial(_keep, storage, near, folder, pairs)
    counts = dict(map_parts(context, folder, parts, keep))
    context.progress.note(
        f"{own.name}: {counts['rows']:,} pairs of items with at most {own.max_train_events} events"
    )
    return counts


@dataclass(frozen=True)
class Catalogue:
    """What is known of all items, from training events and the items table."""

    vocabulary: Vocabulary
    vectors: np.ndarray
    """(I, D) of length 1: by text, and by who takes them."""
    cold: np.ndarray
    """(C,) rows of the items with few events, those with the fewest first."""

    def alive(self, at_s: np.ndarray) -> np.ndarray:
        """(C, U): which of the cold items are there at (U,) times."""
        lives = self.vocabulary.lives
        if lives is None:
            return np.ones((len(self.cold), len(at_s)), bool)
        token = self.cold + NUM_SPECIAL
        begin, end = lives.begin[token, None], lives.end[token, None]
        return (begin <= at_s) & (at_s <= end)


def _catalogue(
    storage: Storage, train: str, words: str, seed: int, own: ColdItemsConfig
) -> Catalogue:
    vocabulary = load_vocabulary(storage, words)
    from sklearn.preprocessing import normalize

    return Catalogue(
        vocabulary,
        normalize(item_vectors(storage, train, vocabulary, seed)),
        cold_items(vocabulary, own.max_train_events, own.max_items),
    )


def cold_items(vocabulary: Vocabulary, max_events: int, max_items: int) -> np.ndarray:
    """(C,) rows of the items with a title and few training events, the fewest first."""
    events = vocabulary.items["train_events"].to_numpy()
    titled = [bool((title or "").strip()) for title in vocabulary.items["title"].to_pylist()]
    rows = np.flatnonzero((events <= max_events) & np.array(titled, bool))
    return rows[np.argsort(events[rows], kind="stable")][:max_items]


def _near_of_part(
    storage: Storage, train: str, folder: str, own: ColdItemsConfig, catalogue: Any, part: str
) -> dict[str, Any]:
    """For each cold item the nearest users of one part of the training events, as pairs."""
    columns = ["user_id", "item_id", "timestamp"]
    events, known = storage.read_part(train, part, columns=columns), catalogue()
    users = list(_users(events, known.vocabulary))
    rows: list[dict[str, Any]] = []
    for start in range(0, len(users), _USERS_AT_ONCE):
        rows += _pairs(users[start : start + _USERS_AT_ONCE], known, own)
    table = validate(pa.Table.from_pylist(rows, schema=_NEAR), _NEAR, part)
    storage.write_part(table, {}, folder, part)
    return {}


@dataclass(frozen=True)
class _User:
    user_id: str
    items: np.ndarray
    """(H,) rows of the catalogue, oldest first."""
    last: Any
    """Time of the last event."""


def _users(events: pa.Table, vocabulary: Vocabulary) -> Iterator[_User]:
    item = vocabulary.encode(events["item_id"]) - NUM_SPECIAL
    names, times = events["user_id"], events["timestamp"]
    for start, end in group_bounds(names.to_numpy(zero_copy_only=False)):
        had = item[start:end]
        if (had >= 0).any():
            yield _User(names[start].as_py(), had[had >= 0], times[end - 1].as_py())


def _pairs(users: list[_User], known: Catalogue, own: ColdItemsConfig) -> Iterable[dict[str, Any]]:
    """Rows of `_NEAR`: for each cold item its nearest ones of these users, each with a rival."""
    from sklearn.preprocessing import normalize

    if len(known.cold) < 2:
        return
    tastes = normalize(
        np.stack([known.vectors[user.items[-own.max_history_len :]].mean(0) for user in users])
    )
    scores = known.vectors[known.cold] @ tastes.T  # (C, U)
    scores[~known.alive(np.array([user.last.timestamp() for user in users]))] = -np.inf
    for number, user in enumerate(users):
        scores[np.isin(known.cold, user.items), number] = -np.inf
    first, second = np.argsort(-scores, axis=0, kind="stable")[:2]
    ids = known.vocabulary.item_ids
    for row, own_scores in enumerate(scores):
        for number in np.argsort(-own_scores, kind="stable")[: own.users_per_item]:
            rival = second[number] if first[number] == row else first[number]
            if np.isfinite(own_scores[number]) and np.isfinite(scores[rival, number]):
                user = users[number]
                yield {
                    "user_id": user.user_id,
                    "item_id": ids[known.cold[row]],
                    "history": [ids[item] for item in user.items[-own.max_history_len :]],
                    "candidates": [ids[known.cold[row]], ids[known.cold[rival]]],
                    "held_out": [],
                    "timestamp": user.last,
                    "score": float(own_scores[number]),
                }


def _nearest(
    storage: Storage, folder: str, parts: list[str], users_per_item: int
) -> set[tuple[str, str]]:
    """(item, user) of the nearest users of each item, of all parts."""
    columns = ["item_id", "user_id", "score"]
    tables = [storage.read_part(folder, part, columns=columns) for part in parts]
    found = pa.concat_tables(tables).sort_by(
        [("item_id", "ascending"), ("score", "descending"), ("user_id", "ascending")]
    )
    items, users = found["item_id"].to_pylist(), found["user_id"].to_pylist()
    return {
        (items[row], users[row])
        for start, end in group_bounds(np.array(items, object))
        for row in range(start, min(end, start + users_per_item))
    }


def _keep(
    storage: Storage, near: str, folder: str, pairs: set[tuple[str, str]], part: str
) -> dict[str, Any]:
    """Those of `pairs`; two items that are each other's rivals for a user are one question."""
    found = storage.read_part(near, part)
    questions: dict[tuple[str, frozenset[str]], int] = {}
    rows = found.select(["item_id", "user_id", "candidates"]).to_pylist()
    for place, row in enumerate(rows):
        if (row["item_id"], row["user_id"]) in pairs:
            questions.setdefault((row["user_id"], frozenset(row["candidates"])), place)
    kept = found.select(SCHEMA.names).take(pa.array(sorted(questions.values()), pa.int64()))
    table = validate(kept.sort_by([("user_id", "ascending")]), SCHEMA, part)
    counts = {"users": pc.count_distinct(table["user_id"]).as_py()}
    storage.write_part(table, counts, folder, part)
    return counts
