"""`evaluate.max_users`: who is drawn, and what the figures of a sample say."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from llmaug import recommenders
from llmaug.arms.arms import ARMS
from llmaug.core.stage import Context
from llmaug.evaluate import stage as evaluate
from llmaug.evaluate.sample import Sample, keys
from llmaug.report.sentences import covers
from tests.evaluate.test_evaluate import WORDS, Alphabetical, MakeContext
from tests.tables import (
    events,
    histories,
    map_parts_here,
    read_rows,
    write_finished,
    write_vocabulary,
)

USERS = [f"u{number:03d}" for number in range(200)]


def evaluated(
    make_context: MakeContext,
    monkeypatch: pytest.MonkeyPatch,
    run_id: str,
    num_parts: int,
    max_users: int | None,
    seed: int = 1,
) -> tuple[Context, dict[str, Any]]:
    """200 users took a and then, every fourth d and the others b; `real` likes b best and
    `augmented` d."""
    sampled = {"num_bootstrap": 200, "cutoffs": [1], "max_users": max_users}
    context = make_context(run_id, evaluate=sampled, seed=seed)
    folds = {
        "train": histories(**dict.fromkeys(USERS, "a")),
        "validation": [],
        "test": histories(**{u: "d" if n % 4 == 0 else "b" for n, u in enumerate(USERS)}),
    }
    for fold, rows in folds.items():
        for part in range(num_parts):
            own = [row for row in rows if int(row[0][1:]) % num_parts == part]
            folder = context.folder(f"split/{fold}")
            context.storage.write_part(events(own), {}, folder, f"part-{part}")
    write_vocabulary(context, WORDS, {})
    for arm in ("real", "augmented"):
        write_finished(context, f"model/{arm}", **{"seed-1": {"model_digest": "x"}})
    monkeypatch.setattr(evaluate, "map_parts", map_parts_here)
    monkeypatch.setattr(
        recommenders,
        "load_recommender_once",
        lambda _, folder, digest: (Alphabetical(-1 if "augmented" in folder else 1), WORDS),
    )
    arms = tuple(arm for arm in ARMS if arm.name in ("real", "augmented"))
    return context, evaluate.run(arms, context)


def ranked(context: Context, arm: str) -> list[str]:
    rows = read_rows(context.storage, context.folder(f"evaluation/{arm}-seed-1"))
    return sorted(row["user_id"] for row in rows)


def test_all_arms_see_the_same_sample_however_users_are_cut(
    make_context: MakeContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, found = evaluated(make_context, monkeypatch, "one", 1, 40)
    three, same = evaluated(make_context, monkeypatch, "three", 3, 40)
    assert found["num_users"] == 40 and len(ranked(one, "real")) == 40
    assert ranked(one, "real") == ranked(one, "augmented") == ranked(three, "real")
    assert found == same
    other, _ = evaluated(make_context, monkeypatch, "other", 1, 40, seed=2)
    assert ranked(other, "real") != ranked(one, "real")


def test_the_figures_say_that_they_are_of_a_sample_and_how_sure_it_is(
    make_context: MakeContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, everybody = evaluated(make_context, monkeypatch, "all", 2, None)
    _, sampled = evaluated(make_context, monkeypatch, "some", 2, 50)
    assert everybody["interval"].get("sampled_from") is None
    assert sampled["interval"]["sampled_from"] == 200
    assert "a random sample of 200 (evaluate.max_users)" in covers(sampled["interval"])
    assert "sample" not in covers(everybody["interval"])
    true = everybody["arms"]["real"]["hr@1"]
    found = sampled["arms"]["real"]["hr@1"]
    assert true["mean"] == 0.75 and found["low"] <= true["mean"] <= found["high"]
    # A quarter of the users: an interval twice as wide.
    width = (found["high"] - found["low"]) / (true["high"] - true["low"])
    assert 1.5 < width < 2.7


def test_with_fewer_users_than_that_everybody_is_evaluated(
    make_context: MakeContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, found = evaluated(make_context, monkeypatch, "few", 2, 200)
    assert found["num_users"] == 200 and found["interval"].get("sampled_from") is None


def test_keys_are_even_and_know_the_seed() -> None:
    """The share of users up to a key is the key's place among all: chi-square of ten bins."""
    users = [f"user {number}" for number in range(20_000)]
    for seed in (1, 2):
        bins = np.bincount((keys(users, seed) / 2**64 * 10).astype(int), minlength=10)
        assert ((bins - 2000) ** 2 / 2000).sum() < 27.9  # 0.999 quantile with 9 degrees of freedom
    first, second = (set(Sample(seed, 2**62, 20_000).of(users)) for seed in (1, 2))
    # A quarter each, and a quarter of a quarter in both.
    assert 4700 < len(first) < 5300 and 1100 < len(first & second) < 1400
