"""Before and after by hand: four users, two arms, and intervals that mean something."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch

from llmaug import evaluate, recommenders
from llmaug.config import EvaluateConfig
from llmaug.schema import RANK
from llmaug.storage import Storage
from tests.tables import catalogue, events, histories, read_rows

CONFIG = EvaluateConfig(cutoffs=[2], num_bootstrap=500)
SECOND = 1 / np.log2(3)  # what rank 1 (the second place) is worth


def ranks(history_len: int | list[int] = 5, seed: int = 1, **arms: list[int]) -> pa.Table:
    """`ranks(real=[0, 5])`: user u0 has rank 0, u1 has rank 5, in arm `real`."""
    rows = []
    for arm, found in arms.items():
        lengths = [history_len] * len(found) if isinstance(history_len, int) else history_len
        rows += [
            {"user_id": f"u{i}", "item_id": "a", "arm": arm, "seed": seed, "rank": rank,
             "history_len": length, "item_train_events": 1}
            for i, (rank, length) in enumerate(zip(found, lengths, strict=True))
        ]  # fmt: skip
    return pa.Table.from_pylist(rows, schema=RANK)


def compare(table: pa.Table, *arms: str) -> dict[str, Any]:
    return evaluate.compare(table, arms or ("real", "augmented"), CONFIG, seed=7)


def test_four_users_by_hand() -> None:
    figures = compare(ranks(real=[0, 1, 5, 5], augmented=[0, 0, 1, 5]))
    assert figures["num_users"] == 4
    real, augmented = figures["arms"]["real"], figures["arms"]["augmented"]
    assert real["ndcg@2"]["mean"] == pytest.approx((1 + SECOND) / 4)
    assert augmented["ndcg@2"]["mean"] == pytest.approx((1 + 1 + SECOND) / 4)
    assert (real["hr@2"]["mean"], augmented["hr@2"]["mean"]) == (0.5, 0.75)
    assert (real["mrr@2"]["mean"], augmented["mrr@2"]["mean"]) == (1.5 / 4, 2.5 / 4)
    lift = figures["lift"]["ndcg@2"]
    assert lift["relative"] == pytest.approx((2 + SECOND) / (1 + SECOND) - 1)
    assert lift["against"] == "real"
    assert figures["lift"]["hr@2"]["relative"] == pytest.approx(0.5)


def test_a_users_metric_is_the_mean_over_seeds() -> None:
    table = pa.concat_tables([ranks(seed=1, real=[0, 9]), ranks(seed=2, real=[9, 9])])
    figures = compare(table, "real")
    assert figures["num_users"] == 2
    assert figures["arms"]["real"]["hr@2"]["mean"] == 0.25
    assert figures["lift"] == {}


def random_ranks(num_users: int, seed: int) -> list[int]:
    return np.random.default_rng(seed).integers(0, 5, num_users).tolist()


def test_intervals_contain_the_mean_and_shrink_with_more_users() -> None:
    widths = []
    for num_users in (50, 2000):
        table = ranks(real=random_ranks(num_users, 1), augmented=random_ranks(num_users, 2))
        figures = compare(table)
        for arm in ("real", "augmented"):
            for figure in figures["arms"][arm].values():
                assert figure["low"] < figure["mean"] < figure["high"]
        lift = figures["lift"]["ndcg@2"]
        assert lift["low"] < lift["relative"] < lift["high"]
        assert lift["low"] < 0 < lift["high"]  # both arms are equally random
        widths.append(lift["high"] - lift["low"])
    assert widths[1] < widths[0] / 3  # a fortieth of the users: about a sixth


def test_the_bootstrap_is_paired() -> None:
    """Users differ, but both arms hit the same ones: that leaves no doubt about the lift."""
    real = [0, 1] * 20 + [9] * 40
    augmented = [0, 0] * 20 + [9] * 40
    figures = compare(ranks(real=real, augmented=augmented))
    paired = figures["lift"]["hr@2"]
    assert paired["low"] == paired["relative"] == paired["high"] == 0
    assert figures["arms"]["real"]["hr@2"]["high"] - figures["arms"]["real"]["hr@2"]["low"] > 0.1


@pytest.mark.parametrize("num_hits", [1, 20])
def test_identical_arms_have_no_lift_and_no_doubt_about_it(num_hits: int) -> None:
    same = [0] * num_hits + [9] * (20 - num_hits)
    lift = compare(ranks(real=same, augmented=same))["lift"]["ndcg@2"]
    assert (lift["relative"], lift["low"], lift["high"]) == (0, 0, 0)


def test_a_real_arm_without_a_hit_has_nothing_to_relate_to() -> None:
    lift = compare(ranks(real=[9, 9], augmented=[0, 0]))["lift"]["ndcg@2"]
    assert (lift["relative"], lift["low"], lift["high"]) == (None, None, None)


def test_the_order_of_the_rows_does_not_matter() -> None:
    table = ranks(real=random_ranks(30, 1), augmented=random_ranks(30, 2))
    shuffled = table.take(np.random.default_rng(0).permutation(table.num_rows))
    assert compare(shuffled) == compare(table)


def test_segments_by_history_length() -> None:
    lengths = [1, 3, 4, 7, 8, 19, 20, 400]
    table = ranks(lengths, real=[0] * 8, augmented=[0, 9] + [0] * 6)
    segments = compare(table)["segments"]
    assert [(s["segment"], s["arm"], s["num_users"]) for s in segments] == [
        (name, arm, 2)
        for name in ("history <=3", "history 4-7", "history 8-19", "history >=20")
        for arm in ("real", "augmented")
    ]
    assert {segment["metric"] for segment in segments} == {"ndcg@2"}
    shortest = segments[1]
    assert (shortest["mean"], shortest["difference"]["mean"]) == (0.5, -0.5)
    assert segments[3]["difference"] == {"mean": 0, "low": 0, "high": 0}
    assert "difference" not in segments[0]


def test_empty_segments_are_not_shown_and_no_users_is_no_crash() -> None:
    assert {s["segment"] for s in compare(ranks(5, real=[0, 1]), "real")["segments"]} == {
        "history 4-7"
    }
    nobody = compare(ranks(real=[], augmented=[]))
    assert nobody == {
        "num_users": 0,
        "arms": {"real": {}, "augmented": {}},
        "lift": {},
        "segments": [],
    }


def test_who_is_ranked_and_against_what(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first test event of each user with a training history, against what it had not seen."""
    storage = Storage(str(tmp_path))
    folds = {
        "train": histories(u1="aa", u2="b", u4="b"),
        "validation": histories(u1="b", u3="a"),
        "test": histories(u1="dc", u2="d", u3="d"),
    }
    for fold, rows in folds.items():
        storage.write_part(events(rows), {}, f"split/{fold}", "p")

    class Alphabetical:
        """Likes a best, then b, c and d."""

        def score(self, users: list[str], histories: list[list[int]]) -> torch.Tensor:
            return -torch.arange(7.0).repeat(len(users), 1)

    words = catalogue("abcd", train_events={"d": 42})
    monkeypatch.setattr(recommenders, "load_once", lambda *_: (Alphabetical(), words))
    counts = evaluate._rank_part(storage, ("m", "x"), "split", "ranks", "real", 1, True, "p")

    assert counts == {"users": 2}
    first, second = read_rows(storage, "ranks")
    # u1 saw a and b (b in validation): c alone is before d. u2 saw b: a and c are.
    assert (first["user_id"], first["item_id"], first["rank"]) == ("u1", "d", 1)
    assert (second["user_id"], second["item_id"], second["rank"]) == ("u2", "d", 2)
    assert (first["history_len"], first["item_train_events"]) == (2, 42)  # training events alone
