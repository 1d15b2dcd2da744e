"""Ratings that users gave later to what they were recommended: four users by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from llmaug.evaluate.satisfaction import from_sums, satisfaction, sum_users
from llmaug.schema import EVENT, RECOMMENDATION
from tests.tables import events

Rating = tuple[str, str, float | None]
"""(user, item, value), each an hour after the one before."""


def ratings(rows: list[Rating]) -> pa.Table:
    table = events((user, item, number) for number, (user, item, _) in enumerate(rows))
    at = EVENT.names.index("value")
    values = pa.array([value for *_, value in rows], pa.float32())
    return table.set_column(at, EVENT.field(at), values)


def recommended(**items: str) -> pa.Table:
    """`recommended(u1="ab")`: u1 gets a first, then b."""
    rows = [
        {"user_id": user, "item_id": item, "position": place, "score": 1.0}
        for user, letters in items.items()
        for place, item in enumerate(letters, start=1)
    ]
    return pa.Table.from_pylist(rows, RECOMMENDATION)


def measure(
    shown: pa.Table, later: list[Rating], before: list[Rating], k: int = 2, seed: int = 7
) -> dict[str, Any]:
    return satisfaction(shown, ratings(later), ratings(before), k, 4.0, 500, seed)


SHOWN = recommended(u1="abc", u2="ab", u3="ab", u4="ab")
LATER: list[Rating] = [
    ("u1", "a", 5),
    ("u1", "b", 3),
    ("u1", "z", 1),  # not recommended
    ("u1", "c", 1),  # not among the first two
    ("u2", "a", 4),
    ("u3", "z", 2),  # rates, but nothing recommended
    ("u5", "a", 1),  # got no recommendations
]
BEFORE: list[Rating] = [("u1", "x", 5), ("u1", "y", 3), ("u3", "x", 1), ("u4", "x", 1)]


def test_four_users_by_hand() -> None:
    found = measure(SHOWN, LATER, BEFORE)
    counts = {name: value for name, value in found.items() if name.startswith("num_")}
    assert counts == {
        "num_users": 4,
        "num_users_with_ratings": 3,  # u4 rated nothing later
        "num_users_rated": 2,
        "num_users_with_own_mean": 1,  # u2 rated nothing before
        "num_rated": 3,
    }
    means = {name: value["mean"] for name, value in found.items() if name not in counts}
    assert means == pytest.approx(
        {
            "rated_share": (1 + 0.5 + 0) / 3,
            "rating": (4 + 4) / 2,
            "liked_share": (0.5 + 1) / 2,
            "held_out_rating": (2.5 + 4) / 2,
            "at_least_own_mean_share": 0.5,  # 5 is, 3 is not: its mean was 4
            "over_own_mean": 0.0,
        }
    )


def test_k_is_how_deep_we_look() -> None:
    assert measure(SHOWN, LATER, BEFORE, k=3)["num_rated"] == 4
    assert measure(SHOWN, LATER, BEFORE, k=1)["liked_share"]["mean"] == 1


def test_the_last_rating_counts_and_plain_events_do_not() -> None:
    later: list[Rating] = [("u1", "a", 1), ("u1", "a", 5), ("u1", "a", None), ("u1", "b", None)]
    found = measure(recommended(u1="ab"), later, [("u1", "x", 2), ("u1", "x", 4)])
    assert found["num_rated"] == 1 and found["rated_share"]["mean"] == 0.5
    assert found["rating"]["mean"] == 5 and found["over_own_mean"]["mean"] == 1


def test_someone_who_always_gives_the_same_is_at_its_mean() -> None:
    always = 4.3  # no exact binary fraction
    before: list[Rating] = [("u1", item, always) for item in "uvwxyz"]
    found = measure(recommended(u1="a"), [("u1", "a", always)], before)
    assert found["at_least_own_mean_share"]["mean"] == 1


def test_logs_without_ratings_give_nulls() -> None:
    found = measure(SHOWN, [("u1", "a", None)], [])
    assert found["num_users"] == 4 and found["num_users_with_ratings"] == 0
    assert {found[name] for name in ("rated_share", "rating", "over_own_mean")} == {None}
    assert measure(recommended(), LATER, BEFORE)["num_users"] == 0


def test_users_may_be_cut_into_parts_and_added_up() -> None:
    """Even the intervals stay: a user's weights in the resamples are its own."""

    def of(*users: str) -> np.ndarray:
        shown = pa.Table.from_pylist(
            [row for row in SHOWN.to_pylist() if row["user_id"] in users], RECOMMENDATION
        )
        later, before = ([row for row in rows if row[0] in users] for rows in (LATER, BEFORE))
        return sum_users(shown, ratings(later), ratings(before), 2, 4.0, 500, 7)

    cut = from_sums(of("u2", "u4") + of("u1") + of("u3", "u5"))
    whole = measure(SHOWN, LATER, BEFORE)
    for name, value in whole.items():
        assert cut[name] == pytest.approx(value), name


def test_intervals_cover_the_truth() -> None:
    """100 logs of 80 users, whose tastes spread by 0.5 around a mean rating of 3.5."""
    rng = np.random.default_rng(1)
    shown = recommended(**{f"u{user}": "abc" for user in range(80)})
    later = ratings([(f"u{user}", item, 0) for user in range(80) for item in "abc"])
    covered = 0
    for seed in range(100):
        values = rng.normal(np.repeat(rng.normal(3.5, 0.5, 80), 3), 1)
        at = EVENT.names.index("value")
        rated = later.set_column(at, EVENT.field(at), pa.array(values, pa.float32()))
        found = satisfaction(shown, rated, ratings([]), 3, 4.0, 150, seed)["rating"]
        covered += found["low"] <= 3.5 <= found["high"]
    assert 0.88 <= covered / 100 <= 0.99
