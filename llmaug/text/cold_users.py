"""Task `cold_users`: first histories of people of whom only the users table knows.

The question is a persona, the attributes of somebody without training events, and what users with
the same attributes take most. What a chat model names in both orders of the candidates
(`choosing`) is the history of a synthetic user: nobody's name is put to it.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from llmaug.config import ColdUsersConfig, TextConfig
from llmaug.core.placing import TASKS
from llmaug.core.stage import Context, Stage
from llmaug.core.storage import Storage, digest
from llmaug.ingest.split import TRAIN
from llmaug.ingest.users import load_users
from llmaug.items.vocabulary import NUM_SPECIAL, Vocabulary, load_statistics, load_vocabulary
from llmaug.schema import CANDIDATES as SCHEMA
from llmaug.schema import validate
from llmaug.text.choosing import CANDIDATES, asked_twice
from llmaug.text.task import Task

_FEW = 5  # users: an attribute that fewer have tells what they took, and counts for nothing
_USERS_A_PART = 1_000
_PAIR = pa.struct([pa.field("key", pa.string(), nullable=False), pa.field("value", pa.string())])


def task(text: TextConfig, config: ColdUsersConfig) -> Task:
    return asked_twice(text, config, config.num_candidates, config.num_events)


def candidates_stage(own: ColdUsersConfig) -> Stage:
    return Stage(
        name=f"text/{own.name}/{CANDIDATES}",
        run=partial(candidates, own),
        inputs=("ingest", "split", "vocabulary"),
        settings=lambda config: [own.max_users, own.attributes, own.num_candidates],
        asks=lambda config, on_gpus: TASKS,
    )


def candidates(own: ColdUsersConfig, context: Context) -> dict[str, Any]:
    """Personas and what they may choose from: rows of schema CANDIDATES."""
    storage, folder = context.storage, context.folder(f"text/{own.name}/{CANDIDATES}")
    train = f"{context.folder('split')}/{TRAIN}"
    vocabulary = load_vocabulary(storage, context.folder("vocabulary"))
    end_s = load_statistics(storage, context.folder("vocabulary")).window_end_s
    users = load_users(storage, f"{context.folder('ingest')}/users")
    ids = users.rows["user_id"]
    having = attributes_of(users.rows["attributes"], own.attributes)
    taken = taken_by(storage, train, ids, vocabulary)
    shares, there = tastes(having, taken), _alive(vocabulary, end_s)
    cold = {ids[row].as_py(): row for row in without_events(having, taken).tolist()}
    chosen = sorted(cold)[: own.max_users]
    known = users.attributes_of(chosen)
    rows = [
        {
            "user_id": user,
            "history": [],
            "candidates": [
                vocabulary.item_ids[item]
                for item in _drawn(_best(having[cold[user]] @ shares, there, own), user)
            ],
            "held_out": [],
            "attributes": [
                (name, value)
                for name, value in known[user].items()
                if own.attributes is None or name in own.attributes
            ],
            "timestamp": datetime.fromtimestamp(end_s, UTC),
        }
        for user in chosen
    ]
    for start in range(0, max(1, len(rows)), _USERS_A_PART):
        some = rows[start : start + _USERS_A_PART]
        table = validate(pa.Table.from_pylist(some, schema=SCHEMA), SCHEMA, own.name)
        part = f"new-{start // _USERS_A_PART:05d}"  # no part of the training events has this name
        storage.write_part(table, {"users": len(some)}, folder, part)
    context.progress.note(f"{own.name}: {len(rows):,} of {len(cold):,} users without an event")
    return {"users": len(rows), "rows": len(rows)}


def attributes_of(column: pa.ChunkedArray, wanted: Sequence[str] | None) -> Any:
    """(U, A + 1) sparse: which attributes, each a name and a value, the users have; the last one
    has everybody who has any."""
    from scipy.sparse import csr_matrix, hstack

    lists = column.combine_chunks().cast(pa.list_(_PAIR))  # functions of lists know no maps
    pairs = pa.table(
        {
            "user": pc.list_parent_indices(lists),
            "name": pc.struct_field(pc.list_flatten(lists), "key"),
            "value": pc.struct_field(pc.list_flatten(lists), "value"),
        }
    )
    if wanted is not None:
        pairs = pairs.filter(pc.is_in(pairs["name"], value_set=pa.array(wanted, pa.string())))
    each = pc.binary_join_element_wise(pairs["name"], pairs["value"], "\n").combine_chunks()
    codes = each.dictionary_encode()
    row, attribute = pairs["user"].to_numpy(), codes.indices.to_numpy()
    shape = (len(column), len(codes.dictionary))
    having = csr_matrix((np.ones(len(row)), (row, attribute)), shape)
    return hstack([having, (np.diff(having.indptr) > 0)[:, None]]).tocsr()


def taken_by(storage: Storage, train: str, ids: pa.ChunkedArray, vocabulary: Vocabulary) -> Any:
    """(U, I) sparse: which items the users `ids` have in the training events."""
    from scipy.sparse import coo_matrix, csr_matrix

    shape = (len(ids), vocabulary.num_items)
    taken = csr_matrix(shape, dtype=np.float64)
    for part in storage.parts(train):
        events = storage.read_part(train, part, columns=["user_id", "item_id"])
        found = pc.index_in(events["user_id"], value_set=ids.combine_chunks())
        user = pc.fill_null(found, -1).to_numpy()
        item = vocabulary.encode(events["item_id"]) - NUM_SPECIAL
        own = (user >= 0) & (item >= 0)
        once = np.ones(int(own.sum()))
        taken += coo_matrix((once, (user[own], item[own])), shape=shape).tocsr()
    taken.data[:] = 1
    return taken


def tastes(having: Any, taken: Any) -> Any:
    """(A + 1, I) sparse: of the users with an attribute who have events, the share that took an
    item; none where these are few."""
    from scipy.sparse import diags

    of = (diags((np.diff(taken.indptr) > 0).astype(float)) @ having).T.tocsr()
    size = np.asarray(of.sum(1)).ravel()
    return (diags(np.where(size >= _FEW, 1 / np.maximum(size, 1), 0)) @ (of @ taken)).tocsr()


def without_events(having: Any, taken: Any) -> np.ndarray:
    """Rows of the users who have an attribute and no training event."""
    return np.flatnonzero((np.diff(having.indptr) > 0) & (np.diff(taken.indptr) == 0))


def _best(scores: Any, there: np.ndarray, own: ColdUsersConfig) -> np.ndarray:
    """Rows of the items with the highest of (1, I) sparse scores, of those that are `there`."""
    score = np.where(there, scores.toarray().ravel(), 0)
    best = np.argsort(-score, kind="stable")[: own.num_candidates]
    return best[score[best] > 0]


def _alive(vocabulary: Vocabulary, at_s: float) -> np.ndarray:
    """(I,) which items are there at a time."""
    if vocabulary.lives is None:
        return np.ones(vocabulary.num_items, bool)
    return ~vocabulary.lives.gone(np.array([at_s]))[0, NUM_SPECIAL : vocabulary.num_tokens]


def _drawn(items: np.ndarray, user: str) -> np.ndarray:
    """In an order that says nothing of what is taken most."""
    return np.random.default_rng(int(digest(user.encode())[:16], 16)).permutation(items)
