"""Task `cold_users`: first histories of people of whom only the users table knows.

The question is a persona, the attributes of somebody without training events, and what users with
the same attributes take most. What a chat model names in both orders of the candidates
(`choosing`) is the history of a synthetic user: nobody's name is put to it.
"""

from __future__ import annotations

from dataclasses import dataclass
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
_EVERYBODY = ("", "")
_USERS_A_PART = 1_000


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
    known = _personas(storage, f"{context.folder('ingest')}/users", own)
    taste, cold = tastes(storage, train, known, vocabulary)
    there = _alive(vocabulary, end_s)
    rows = [
        {
            "user_id": user,
            "history": [],
            "candidates": [
                vocabulary.item_ids[item]
                for item in _drawn(taste.best(known[user], there, own.num_candidates), user)
            ],
            "held_out": [],
            "attributes": list(known[user].items()),
            "timestamp": datetime.fromtimestamp(end_s, UTC),
        }
        for user in cold[: own.max_users]
    ]
    for start in range(0, max(1, len(rows)), _USERS_A_PART):
        some = rows[start : start + _USERS_A_PART]
        table = validate(pa.Table.from_pylist(some, schema=SCHEMA), SCHEMA, own.name)
        part = f"new-{start // _USERS_A_PART:05d}"  # no part of the training events has this name
        storage.write_part(table, {"users": len(some)}, folder, part)
    context.progress.note(f"{own.name}: {len(rows):,} users without a training event")
    return {"users": len(rows), "rows": len(rows)}


@dataclass(frozen=True)
class Tastes:
    """What users with an attribute take."""

    row_of: dict[tuple[str, str], int]
    shares: Any
    """(A, I) sparse: of the users with an attribute, the share that took an item."""

    def best(self, attributes: dict[str, str], there: np.ndarray, number: int) -> np.ndarray:
        """(number,) rows of the items that users with these attributes take most, of those that
        are `there`: an attribute counts as much as any other."""
        rows = [self.row_of[own] for own in (*attributes.items(), _EVERYBODY) if own in self.row_of]
        score = np.asarray(self.shares[rows].sum(0)).ravel()
        score[~there] = 0
        best = np.argsort(-score, kind="stable")[:number]
        return best[score[best] > 0]


def tastes(
    storage: Storage, train: str, known: dict[str, dict[str, str]], vocabulary: Vocabulary
) -> tuple[Tastes, list[str]]:
    """By the training events; and the users of `known` who have none."""
    from scipy.sparse import coo_matrix, csr_matrix, diags

    users = pa.array(known, pa.string())
    shape = (len(users), vocabulary.num_items)
    taken = csr_matrix(shape, dtype=np.float32)
    for part in storage.parts(train):
        events = storage.read_part(train, part, columns=["user_id", "item_id"])
        user = pc.fill_null(pc.index_in(events["user_id"], value_set=users), -1).to_numpy()
        item = vocabulary.encode(events["item_id"]) - NUM_SPECIAL
        own = (user >= 0) & (item >= 0)
        once = np.ones(int(own.sum()), np.float32)
        taken += coo_matrix((once, (user[own], item[own])), shape=shape).tocsr()
    taken.data[:] = 1
    has_events = np.diff(taken.indptr) > 0
    pairs = [
        (own, number)
        for number, attributes in enumerate(known.values())
        if has_events[number]
        for own in (*attributes.items(), _EVERYBODY)
    ]
    row_of = {own: row for row, own in enumerate(sorted({own for own, _ in pairs}))}
    row, column = [row_of[own] for own, _ in pairs], [number for _, number in pairs]
    of = csr_matrix((np.ones(len(pairs), np.float32), (row, column)), (len(row_of), len(users)))
    size = np.diff(of.indptr)
    shares = diags(np.where(size >= _FEW, 1 / np.maximum(size, 1), 0)) @ (of @ taken)
    cold = sorted(user for user, has in zip(known, has_events, strict=True) if not has)
    return Tastes(row_of, csr_matrix(shares)), cold


def _personas(storage: Storage, folder: str, own: ColdUsersConfig) -> dict[str, dict[str, str]]:
    """{user: the attributes that make the persona} of all who have some."""
    found = {
        row["user_id"]: {
            name: value
            for name, value in row["attributes"] or ()
            if own.attributes is None or name in own.attributes
        }
        for row in load_users(storage, folder).rows.to_pylist()
    }
    return {user: attributes for user, attributes in found.items() if attributes}


def _alive(vocabulary: Vocabulary, at_s: float) -> np.ndarray:
    """(I,) which items are there at a time."""
    if vocabulary.lives is None:
        return np.ones(vocabulary.num_items, bool)
    return ~vocabulary.lives.gone(np.array([at_s]))[0, NUM_SPECIAL : vocabulary.num_tokens]


def _drawn(items: np.ndarray, user: str) -> np.ndarray:
    """In an order that says nothing of what is taken most."""
    return np.random.default_rng(int(digest(user.encode())[:16], 16)).permutation(items)
