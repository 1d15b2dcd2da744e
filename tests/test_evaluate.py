"""The stage: who is ranked against what, and sums of parts that become one table."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from llmaug import evaluate, recommenders
from llmaug.arms import ARMS
from llmaug.config import EvaluateConfig
from llmaug.stage import Context
from tests.tables import (
    catalogue,
    events,
    histories,
    map_parts_here,
    read_rows,
    write_finished,
    write_vocabulary,
)

MakeContext = Callable[..., Context]
WORDS = catalogue("abcd", tags={"a": ["x"], "b": ["x"], "c": ["y"]}, train_events={"a": 3, "d": 42})
TRAIN = histories(u1="aa", u2="b", u4="b")
VALIDATION = histories(u1="b", u3="a")
TEST = histories(u1="dcd", u2="d", u3="d")


class Alphabetical:
    """Likes a best, then b, c and d; or the other way round."""

    def __init__(self, sign: int = 1) -> None:
        self._sign = sign

    def score(self, users: list[str], histories: list[list[int]]) -> torch.Tensor:
        return -self._sign * torch.arange(7.0).repeat(len(users), 1)


def write_split(context: Context, parts: dict[str, set[str]]) -> None:
    """The three folds, each part with the users that `parts` gives it."""
    for fold, rows in (("train", TRAIN), ("validation", VALIDATION), ("test", TEST)):
        for part, users in parts.items():
            table = events([row for row in rows if row[0] in users])
            context.storage.write_part(table, {}, context.folder(f"split/{fold}"), part)
    write_vocabulary(context, WORDS, {})


def rank(context: Context, monkeypatch: pytest.MonkeyPatch, **config: Any) -> list[dict[str, Any]]:
    write_split(context, {"p": {"u1", "u2", "u3", "u4"}})
    monkeypatch.setattr(recommenders, "load_once", lambda *_: (Alphabetical(), WORDS))
    counts = evaluate._rank_part(
        context.storage, ("m", "x"), context.folder("split"), "ranks", "real", 1,
        EvaluateConfig.model_validate({"cutoffs": [2], **config}), "p",
    )  # fmt: skip
    assert counts == {"users": 2}  # u3 has no training event, u4 no held-out one
    return read_rows(context.storage, "ranks")


def test_the_first_held_out_event_is_ranked_among_unseen_items(
    make_context: MakeContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = rank(make_context(), monkeypatch)
    # u1 saw a and b (b in validation): c alone is before d. u2 saw b: a and c are.
    assert (first["user_id"], first["item_id"], first["rank"]) == ("u1", "d", 1)
    assert (second["user_id"], second["item_id"], second["rank"]) == ("u2", "d", 2)
    assert (first["history_len"], first["item_train_events"]) == (2, 42)  # training events alone
    a, c, d = 3, 5, 6
    assert (first["recommended"], second["recommended"]) == ([c, d], [a, c])


def test_all_held_out_events_can_be_asked_for(
    make_context: MakeContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = rank(make_context(), monkeypatch, targets="all")
    found = [(row["user_id"], row["item_id"], row["rank"]) for row in rows]
    assert found == [("u1", "d", 1), ("u1", "c", 0), ("u2", "d", 2)]  # d twice is d once
    assert [row["recommended"] is None for row in rows] == [False, True, False]


def test_seen_items_compete_where_repeats_are_normal(
    make_context: MakeContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = rank(make_context(), monkeypatch, exclude_seen=False)
    assert [row["rank"] for row in rows] == [3, 3]


def evaluated(
    make_context: MakeContext, monkeypatch: pytest.MonkeyPatch, run_id: str, *parts: set[str]
) -> tuple[Context, dict[str, Any]]:
    """Two arms: `real` likes a best, `augmented` likes d best, which both users take."""
    context = make_context(
        run_id, evaluate={"cutoffs": [2, 3], "num_bootstrap": 100, "min_users": 3},
        train={"seeds": [1, 2]},
    )  # fmt: skip
    write_split(context, {f"part-{i}": users for i, users in enumerate(parts)})
    seeds = {f"seed-{seed}": {"model_digest": "x"} for seed in (1, 2)}
    for arm in ("real", "augmented"):
        write_finished(context, f"model/{arm}", **seeds)
    monkeypatch.setattr(evaluate, "map_parts", map_parts_here)
    monkeypatch.setattr(
        recommenders,
        "load_once",
        lambda _, folder, digest: (Alphabetical(-1 if "augmented" in folder else 1), WORDS),
    )
    arms = tuple(arm for arm in ARMS if arm.name in ("real", "augmented"))
    return context, evaluate.run(arms, context)


def test_the_table_of_two_arms(make_context: MakeContext, monkeypatch: pytest.MonkeyPatch) -> None:
    context, found = evaluated(make_context, monkeypatch, "one", {"u1", "u2", "u3", "u4"})
    assert found["num_users"] == 2
    real, augmented = found["arms"]["real"], found["arms"]["augmented"]
    assert (real["hr@2"]["mean"], real["hr@3"]["mean"], augmented["hr@2"]["mean"]) == (0.5, 1, 1)
    assert found["lift"]["hr@2"]["relative"] == 1
    # u1 gets c, d and u2 a, c; backwards u1 gets d, c and u2 d, c.
    assert found["lists"]["real"]["coverage@2"] == 3 / 4
    assert found["lists"]["augmented"]["coverage@2"] == 2 / 4
    assert found["lists"]["real"]["diversity@2"] == 1  # of a and c; d has no tags
    assert found["interval"]["covers"] == "users and seeds"
    assert "only 2 held-out users" in context.progress.notes[0]  # type: ignore[attr-defined]


def test_the_table_is_the_same_however_users_are_cut_into_parts(
    make_context: MakeContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Even the intervals: the weights of a resample are the user's own."""
    _, whole = evaluated(make_context, monkeypatch, "one", {"u1", "u2", "u3", "u4"})
    _, cut = evaluated(make_context, monkeypatch, "three", {"u1"}, {"u3", "u4"}, {"u2"})
    assert whole == cut
