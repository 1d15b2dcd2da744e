"""Before and after by hand: a few users, a few arms, and intervals that mean something."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from llmaug.config import EvaluateConfig
from llmaug.evaluate.comparison import EVERYBODY, Lists, figures, segments, sum_lists, sum_ranks
from llmaug.schema import RANK
from tests.tables import catalogue

CONFIG = EvaluateConfig(cutoffs=[2], num_bootstrap=500)
SECOND = 1 / np.log2(3)  # what rank 1 (the second place) is worth
# Head: the item with 4 of 10 training events; middle: those with 2; tail: 1 and 0.
TRAIN_EVENTS = np.array([4, 2, 2, 1, 1, 0])


def ranks(
    found: list[int], history_len: int | list[int] = 5, item_train_events: int | list[int] = 4
) -> pa.Table:
    """`ranks([0, 5])`: user u00 has rank 0, u01 has rank 5."""
    size = len(found)
    lengths = [history_len] * size if isinstance(history_len, int) else history_len
    popular = (
        [item_train_events] * size if isinstance(item_train_events, int) else item_train_events
    )
    columns = zip(found, lengths, popular, strict=True)
    rows = [
        {"user_id": f"u{i:05}", "item_id": "a", "arm": "", "seed": 0, "rank": rank, "num_ranked": 9,
         "history_len": length, "item_train_events": events}
        for i, (rank, length, events) in enumerate(columns)
    ]  # fmt: skip
    return pa.Table.from_pylist(rows, schema=RANK)


def compare(seed: int = 7, config: EvaluateConfig = CONFIG, **arms: Any) -> dict[str, Any]:
    """Figures of arms, each given its ranks (a list of tables: one for each seed)."""
    models, tables = [], []
    for arm, given in arms.items():
        for number, table in enumerate(given if isinstance(given, list) else [given], start=1):
            models.append((arm, number))
            tables.append(table)
    sums = sum_ranks(tables, segments(TRAIN_EVENTS), config, seed)
    return figures(sums, {}, models, TRAIN_EVENTS, config, seed)


def random_ranks(num_users: int, seed: int) -> pa.Table:
    return ranks(np.random.default_rng(seed).integers(0, 5, num_users).tolist())


def test_four_users_by_hand() -> None:
    found = compare(real=ranks([0, 1, 5, 5]), augmented=ranks([0, 0, 1, 5]))
    assert found["num_users"] == 4
    real, augmented = found["arms"]["real"], found["arms"]["augmented"]
    assert real["ndcg@2"]["mean"] == pytest.approx((1 + SECOND) / 4)
    assert augmented["ndcg@2"]["mean"] == pytest.approx((1 + 1 + SECOND) / 4)
    assert (real["hr@2"]["mean"], augmented["hr@2"]["mean"]) == (0.5, 0.75)
    assert (real["mrr@2"]["mean"], augmented["mrr@2"]["mean"]) == (1.5 / 4, 2.5 / 4)
    lift = found["lift"]["ndcg@2"]
    assert lift["relative"] == pytest.approx((2 + SECOND) / (1 + SECOND) - 1)
    assert lift["against"] == "real"
    assert found["lift"]["hr@2"]["relative"] == pytest.approx(0.5)


def test_a_user_with_several_relevant_items_is_one_user() -> None:
    table = ranks([0, 5, 1])
    two = table.set_column(0, "user_id", pa.array(["u1", "u1", "u2"]))
    two = two.set_column(1, "item_id", pa.array(["a", "b", "a"]))
    found = compare(real=two)
    assert found["num_users"] == 2
    assert found["arms"]["real"]["recall@2"]["mean"] == (1 / 2 + 1) / 2
    assert found["arms"]["real"]["hr@2"]["mean"] == 1


def test_intervals_contain_the_mean_and_shrink_with_more_users() -> None:
    widths = []
    for num_users in (50, 2000):
        found = compare(real=random_ranks(num_users, 1), augmented=random_ranks(num_users, 2))
        for arm in ("real", "augmented"):
            for value in found["arms"][arm].values():
                assert value["low"] < value["mean"] < value["high"]
        lift = found["lift"]["ndcg@2"]
        assert lift["low"] < lift["relative"] < lift["high"]
        widths.append(lift["high"] - lift["low"])
    assert widths[1] < widths[0] / 4


def test_arms_are_paired_by_user() -> None:
    """Users differ a lot, arms not at all: only a paired interval can see that."""
    same = ranks([0] * 20 + [9] * 20)
    found = compare(real=same, augmented=same)
    paired = found["lift"]["hr@2"]
    assert paired["low"] == paired["relative"] == paired["high"] == 0
    assert found["arms"]["real"]["hr@2"]["high"] - found["arms"]["real"]["hr@2"]["low"] > 0.1


def test_a_real_arm_without_a_hit_has_nothing_to_relate_to() -> None:
    lift = compare(real=ranks([9, 9]), augmented=ranks([0, 0]))["lift"]["ndcg@2"]
    assert (lift["relative"], lift["low"], lift["high"]) == (None, None, None)


def test_the_order_of_the_rows_does_not_matter() -> None:
    real, augmented = random_ranks(30, 1), random_ranks(30, 2)
    shuffled = [t.take(np.random.default_rng(0).permutation(30)) for t in (real, augmented)]
    assert compare(real=shuffled[0], augmented=shuffled[1]) == compare(
        real=real, augmented=augmented
    )


def test_arms_that_rank_other_users_are_not_compared() -> None:
    with pytest.raises(AssertionError, match="other events"):
        compare(real=ranks([0, 1]), augmented=ranks([0, 1, 2]))


# -- seeds -------------------------------------------------------------------------------------


def test_a_users_metric_is_the_mean_over_seeds_and_each_seed_is_told() -> None:
    found = compare(real=[ranks([0, 9]), ranks([9, 9])])
    assert found["num_users"] == 2
    assert found["arms"]["real"]["hr@2"]["mean"] == 0.25
    assert {s: row["hr@2"] for s, row in found["by_seed"]["real"].items()} == {"1": 0.5, "2": 0}
    assert found["lift"] == {}


def test_intervals_say_what_they_cover() -> None:
    one = compare(real=random_ranks(500, 1))["interval"]
    assert one == {"level": 0.95, "covers": "users", "num_seeds": 1}
    three = compare(real=[random_ranks(500, seed) for seed in (1, 2, 3)])["interval"]
    assert three == {"level": 0.95, "covers": "users and seeds", "num_seeds": 3}


def test_seeds_that_disagree_widen_the_interval() -> None:
    """The mean is the same, but with good and bad seeds it says less about the next one."""
    alike = [ranks([0, 9] * 200)] * 3
    unlike = [ranks([0] * 400), ranks([0, 9] * 200), ranks([9] * 400)]
    narrow, wide = (compare(real=found)["arms"]["real"]["hr@2"] for found in (alike, unlike))
    assert narrow["mean"] == wide["mean"] == 0.5
    assert wide["high"] - wide["low"] > 3 * (narrow["high"] - narrow["low"])


# -- many arms ---------------------------------------------------------------------------------


def test_each_arm_is_compared_with_real_and_augmented_with_all() -> None:
    names = ("real", "oversampled", "fusion", "augmented", "augmented_fusion")
    found = compare(**{name: ranks([0, 1, 9]) for name in names})
    pairs = [(x["arm"], x["against"]) for x in found["lifts"] if x["metric"] == "ndcg@2"]
    assert sorted(pairs) == [
        ("augmented", "augmented_fusion"), ("augmented", "fusion"),
        ("augmented", "oversampled"), ("augmented", "real"),
        ("augmented_fusion", "fusion"), ("augmented_fusion", "real"),
        ("fusion", "real"), ("oversampled", "real"),
    ]  # fmt: skip


def test_the_headline_is_the_lift_over_the_control() -> None:
    arms = {"real": ranks([0, 9, 9]), "augmented": ranks([0, 0, 0])}
    assert compare(**arms)["lift"]["hr@2"]["relative"] == pytest.approx(2)
    with_control = compare(**arms, oversampled=ranks([0, 0, 9]))["lift"]["hr@2"]
    assert with_control["against"] == "oversampled"
    assert with_control["relative"] == pytest.approx(0.5)


# -- segments ----------------------------------------------------------------------------------


def test_segments_by_history_length() -> None:
    lengths = [1, 3, 4, 7, 8, 19, 20, 400]
    real, augmented = ranks([0] * 8, lengths), ranks([0, 9] + [0] * 6, lengths)
    found = compare(real=real, augmented=augmented)["segments"]
    by_history = [s for s in found if s["segment"].startswith("history")]
    assert [(s["segment"], s["arm"], s["num_users"]) for s in by_history] == [
        (name, arm, 2)
        for name in ("history <=3", "history 4-7", "history 8-19", "history >=20")
        for arm in ("real", "augmented")
    ]
    assert {segment["metric"] for segment in found} == {"ndcg@2"}
    shortest = by_history[1]
    assert (shortest["mean"], shortest["difference"]["mean"]) == (0.5, -0.5)
    assert by_history[3]["difference"] == {"mean": 0, "low": 0, "high": 0, "error": 0}
    assert "difference" not in by_history[0]


def test_segments_by_popularity_of_the_item() -> None:
    table = ranks([0, 1, 0, 9, 9], item_train_events=[4, 2, 2, 1, 0])
    found = {s["segment"]: s for s in compare(real=table)["segments"]}
    head, middle, tail = (found[f"items {band}"] for band in ("head", "middle", "tail"))
    assert [s["num_users"] for s in (head, middle, tail)] == [1, 2, 2]
    assert head["mean"] == 1 and tail["mean"] == 0
    assert middle["mean"] == pytest.approx((1 + SECOND) / 2)


@pytest.mark.parametrize(
    ("train_events", "head", "middle"),
    [
        ([9, 1, 1], 9, 9),  # one item has more than two thirds: no middle
        ([5] * 9, 5, 5),  # all alike: all head
        ([3, 3, 3, 3, 2, 2, 2], 3, 3),  # ties go to the higher band
        ([6, 4, 4, 2, 1, 1], 6, 4),
        ([0, 0], 0, 0),
    ],
)
def test_bands_hold_a_third_of_the_training_events_each(
    train_events: list[int], head: int, middle: int
) -> None:
    bands = {s.name: (s.low, s.high) for s in segments(np.array(train_events))}
    assert bands["items head"][0] == head
    assert bands["items middle"] == (middle, head - 1)
    assert bands["items tail"][1] == middle - 1


def test_the_error_of_a_difference_is_that_of_theory() -> None:
    rng = np.random.default_rng(0)
    real, augmented = (rng.integers(0, 4, 1000) for _ in range(2))
    found = compare(real=ranks(real.tolist()), augmented=ranks(augmented.tolist()))
    change = next(s for s in found["segments"] if "difference" in s)["difference"]
    gain = np.array([1, SECOND, 0, 0])
    expected = (gain[augmented] - gain[real]).std() / np.sqrt(1000)
    assert change["error"] == pytest.approx(expected, rel=0.1)


def test_empty_segments_are_not_shown_and_no_users_is_no_crash() -> None:
    shown = {s["segment"] for s in compare(real=ranks([0, 1]))["segments"]}
    assert shown == {"history 4-7", "items head"}
    nobody = compare(real=ranks([]), augmented=ranks([]))
    assert nobody["num_users"] == 0
    assert nobody["arms"] == {"real": {}, "augmented": {}}
    assert (nobody["lift"], nobody["lifts"], nobody["segments"]) == ({}, [], [])


# -- parts and lists ---------------------------------------------------------------------------


def test_parts_of_the_users_add_up() -> None:
    real, augmented = random_ranks(700, 1), random_ranks(700, 2)
    whole = sum_ranks([real, augmented], segments(TRAIN_EVENTS), CONFIG, 7)
    parts = [
        sum_ranks(
            [t.slice(start, size) for t in (real, augmented)], segments(TRAIN_EVENTS), CONFIG, 7
        )
        for start, size in ((0, 100), (100, 600))
    ]
    for name, sums in whole.items():
        np.testing.assert_allclose(parts[0][name] + parts[1][name], sums)


def test_lists_of_two_seeds_by_hand() -> None:
    """Four items; a and b share their only tag."""
    words = catalogue("abcd", tags={"a": ["x"], "b": ["x"], "c": ["y"], "d": ["z"]})
    A, B, C, none = 3, 4, 5, -1
    train_events = np.array([2, 1, 1, 0])
    lists = {
        (("real", 1), 2): sum_lists(np.array([[A, B], [A, B]]), 2, words),
        (("real", 2), 2): sum_lists(np.array([[A, C], [B, none]]), 2, words),
    }
    sums = sum_ranks([ranks([0, 1])] * 2, segments(train_events), CONFIG, 7)
    found = figures(sums, lists, [("real", 1), ("real", 2)], train_events, CONFIG, 7)
    assert found["lists"]["real"] == {
        "coverage@2": pytest.approx((2 / 4 + 3 / 4) / 2),
        "novelty@2": pytest.approx((1.5 + (1 + 2 + 2) / 3) / 2),
        "diversity@2": (0 + 1) / 2,
        "gini@2": pytest.approx((0.5 + 0.25) / 2),
    }


def test_only_the_first_k_of_a_list_count() -> None:
    words = catalogue("abcd")
    found = sum_lists(np.array([[3, 4, 5]]), 1, words)
    assert found.exposures.tolist() == [1, 0, 0, 0]


def test_without_tags_nothing_is_said_about_diversity() -> None:
    lists = {(("real", 1), 2): Lists(np.array([1, 1, 0, 0, 0, 0]))}
    sums = sum_ranks([ranks([0])], segments(TRAIN_EVENTS), CONFIG, 7)
    found = figures(sums, lists, [("real", 1)], TRAIN_EVENTS, CONFIG, 7)
    assert found["lists"]["real"]["diversity@2"] is None
    assert EVERYBODY not in {s["segment"] for s in found["segments"]}
