"""The stage: who is ranked against what, and sums of parts that become one table."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pyarrow as pa
import pytest
import torch

from llmaug import recommenders
from llmaug.arms.arms import ARMS
from llmaug.config import EvaluateConfig
from llmaug.core.stage import Context
from llmaug.evaluate import stage as evaluate
from tests.tables import (
    Row,
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


def write_split(
    context: Context,
    parts: dict[str, set[str]],
    test: list[Row] = TEST,
    values: dict[tuple[str, str], float] | None = None,
) -> None:
    """The three folds, each part with the users that `parts` gives it; `values` has the
    ratings of (user, item)."""
    for fold, rows in (("train", TRAIN), ("validation", VALIDATION), ("test", test)):
        for part, users in parts.items():
            own = [row for row in rows if row[0] in users]
            given = [(values or {}).get((user, item)) for user, item, _ in own]
            table = events(own)
            at = table.schema.get_field_index("value")
            table = table.set_column(at, table.field(at), pa.array(given, pa.float32()))
            context.storage.write_part(table, {}, context.folder(f"split/{fold}"), part)
    write_vocabulary(context, WORDS, {})


def rank(context: Context, monkeypatch: pytest.MonkeyPatch, **config: Any) -> list[dict[str, Any]]:
    write_split(context, {"p": {"u1", "u2", "u3", "u4"}})
    monkeypatch.setattr(recommenders, "load_recommender_once", lambda *_: (Alphabetical(), WORDS))
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
    assert (first["num_ranked"], second["num_ranked"]) == (2, 3)  # unseen ones
    assert first["log_loss"] is None  # a model of sequences judges no pairs
    a, c, d = 3, 5, 6
    assert (first["recommended"], second["recommended"]) == ([c, d], [a, c])


def test_all_held_out_events_can_be_asked_for(
    make_context: MakeContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = rank(make_context(), monkeypatch, targets="all")
    found = [(row["user_id"], row["item_id"], row["rank"]) for row in rows]
    assert found == [("u1", "d", 1), ("u1", "c", 0), ("u2", "d", 2)]  # d twice is d once
    assert [row["num_ranked"] for row in rows] == [2, 2, 3]
    assert [row["recommended"] is None for row in rows] == [False, True, False]


def test_seen_items_compete_where_repeats_are_normal(
    make_context: MakeContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = rank(make_context(), monkeypatch, exclude_seen=False)
    assert [row["rank"] for row in rows] == [3, 3]
    assert [row["num_ranked"] for row in rows] == [4, 4]


def evaluated(
    make_context: MakeContext,
    monkeypatch: pytest.MonkeyPatch,
    run_id: str,
    *parts: set[str],
    test: list[Row] = TEST,
    values: dict[tuple[str, str], float] | None = None,
) -> tuple[Context, dict[str, Any]]:
    """Two arms: `real` likes a best, `augmented` likes d best, which both users take."""
    context = make_context(
        run_id, evaluate={"cutoffs": [2, 3], "num_bootstrap": 100, "min_users": 3},
        train={"seeds": [1, 2]},
    )  # fmt: skip
    write_split(context, {f"part-{i}": users for i, users in enumerate(parts)}, test, values)
    seeds = {f"seed-{seed}": {"model_digest": "x"} for seed in (1, 2)}
    for arm in ("real", "augmented"):
        write_finished(context, f"model/{arm}", **seeds)
    monkeypatch.setattr(evaluate, "map_parts", map_parts_here)
    monkeypatch.setattr(
        recommenders,
        "load_recommender_once",
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
    assert (real["auc"]["mean"], augmented["auc"]["mean"]) == (0, 1)
    assert found["labels"] == {}
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


class Judge(Alphabetical):
    """A model of pairs: d is taken with probability 0.8, anything else with 0.5."""

    def score_pairs(self, users: list[str], tokens: list[int]) -> torch.Tensor:
        return torch.tensor([math.log(4) if WORDS.decode(t) == "d" else 0.0 for t in tokens])

    def probability(self, scores: torch.Tensor) -> torch.Tensor:
        return scores.sigmoid()


def test_a_model_of_pairs_is_judged_by_its_probabilities(
    make_context: MakeContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    context = make_context("pairs", train={"model": "linear"}, evaluate={"num_bootstrap": 100})
    write_split(context, {"p": {"u1", "u2", "u3", "u4"}})
    write_finished(context, "model/real", **{"seed-1": {"model_digest": "x"}})
    monkeypatch.setattr(evaluate, "map_parts", map_parts_here)
    monkeypatch.setattr(recommenders, "load_recommender_once", lambda *_: (Judge(), WORDS))
    found = evaluate.run(tuple(arm for arm in ARMS if arm.name == "real"), context)
    judged = found["labels"]["real"]
    assert judged["log_loss"]["mean"] == pytest.approx(-(math.log(0.8) + math.log(0.5)) / 2)
    assert judged["rmse"]["mean"] == pytest.approx(math.sqrt((0.2**2 + 0.5**2) / 2))


# -- satisfaction ------------------------------------------------------------------------------

# u1 gets c, d of `real` and d, c of `augmented`; u2 a, c and d, c. Only d is rated later.
RATED = {("u1", "d"): 5.0, ("u2", "d"): 2.0, ("u1", "a"): 3.0, ("u2", "b"): 2.0}


@pytest.mark.parametrize("parts", [[{"u1", "u2", "u3", "u4"}], [{"u1"}, {"u3", "u4"}, {"u2"}]])
def test_recommendations_are_judged_by_later_ratings(
    make_context: MakeContext, monkeypatch: pytest.MonkeyPatch, parts: list[set[str]]
) -> None:
    _, found = evaluated(make_context, monkeypatch, "rated", *parts, values=RATED)
    real, augmented = found["satisfaction"]["real"], found["satisfaction"]["augmented"]
    assert (real["num_users"], real["num_users_with_ratings"]) == (2, 2)
    assert (real["num_users_rated"], augmented["num_users_rated"]) == (1, 2)
    assert (real["rating"]["mean"], augmented["rating"]["mean"]) == (5, 3.5)
    assert (real["liked_share"]["mean"], augmented["liked_share"]["mean"]) == (1, 0.5)
    # u1 gave a 3 in training and u2 gave b 2: 5 and 2 are both at least that.
    assert augmented["at_least_own_mean_share"]["mean"] == 1
    assert augmented["over_own_mean"]["mean"] == 1


def test_without_held_out_ratings_nothing_is_judged(
    make_context: MakeContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    training_only = {("u1", "a"): 3.0}
    _, found = evaluated(
        make_context, monkeypatch, "x", {"u1", "u2", "u3", "u4"}, values=training_only
    )
    assert found["satisfaction"] == {}


class Listening(Alphabetical):
    """Remembers the histories that it was asked about."""

    def __init__(self) -> None:
        super().__init__()
        self.heard: dict[str, list[str]] = {}

    def score(self, users: list[str], histories: list[list[int]]) -> torch.Tensor:
        for user, tokens in zip(users, histories, strict=True):
            self.heard[user] = [WORDS.decode(token) for token in tokens]
        return super().score(users, histories)


def test_what_is_judged_was_recommended_without_a_look_at_the_held_out_events(
    make_context: MakeContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Other held-out events and ratings of the same users: the same histories, the same lists."""
    lists = []
    for run_id, test in (("one", TEST), ("other", histories(u1="c", u2="a", u3="a"))):
        model = Listening()
        context = make_context(run_id)
        write_split(context, {"p": {"u1", "u2", "u3", "u4"}}, test, RATED)
        monkeypatch.setattr(
            recommenders, "load_recommender_once", lambda *_, model=model: (model, WORDS)
        )
        evaluate._rank_part(
            context.storage, ("m", "x"), context.folder("split"), run_id, "real", 1,
            EvaluateConfig(cutoffs=[2]), "p",
        )  # fmt: skip
        assert model.heard == {"u1": ["a", "a", "b"], "u2": ["b"]}  # train, then validation
        ranks = context.storage.read_part(run_id, "p")
        lists.append(evaluate._recommendations(ranks, WORDS).to_pylist())
    assert lists[0] == lists[1]
    assert [(row["user_id"], row["item_id"], row["position"]) for row in lists[0]] == [
        ("u1", "c", 1), ("u1", "d", 2), ("u2", "a", 1), ("u2", "c", 2)
    ]  # fmt: skip
