"""How like real behaviour is generated behaviour: by hand, and of generators with known faults."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from llmaug.config import EvaluateConfig, GateConfig
from llmaug.core.stage import Context
from llmaug.evaluate import fidelity, gate
from llmaug.evaluate import fidelity_measures as measures
from llmaug.evaluate.two_sample import History, paired, two_sample
from llmaug.schema import EVENT, SYNTHETIC
from tests.evaluate.test_gate import figures as evaluated
from tests.nights import without_ray
from tests.tables import catalogue, events, histories, write_finished, write_vocabulary

MakeContext = Callable[..., Context]


def test_jensen_shannon_is_0_of_equal_shares_and_1_of_what_has_nothing_in_common() -> None:
    assert measures.jensen_shannon(np.array([1, 3]), np.array([10, 30])) == 0
    assert measures.jensen_shannon(np.array([4, 0]), np.array([0, 4])) == pytest.approx(1)
    # (1, 0) and (1/2, 1/2): the mean is (3/4, 1/4).
    divergence = (math.log2(4 / 3) + 0.5 * math.log2(2 / 3) + 0.5 * math.log2(2)) / 2
    found = measures.jensen_shannon(np.array([8, 0]), np.array([1, 1]))
    assert found == pytest.approx(math.sqrt(divergence))
    assert measures.jensen_shannon(np.array([1, 3]), np.zeros(2)) is None


def test_kolmogorov_smirnov_is_the_largest_difference_of_cumulative_shares() -> None:
    # 1/4, 2/4, 1 beside 1/2, 1/2, 1/2, 1: 1/4, 0, 1/2, 0 apart.
    assert measures.kolmogorov_smirnov(np.array([1, 1, 2]), np.array([1, 0, 0, 1])) == 0.5


def test_the_order_of_popularity_is_compared_by_ranks_of_items_that_anybody_has() -> None:
    ranks = measures.rank_correlation
    assert ranks(np.array([100, 9, 1, 0]), np.array([3, 2, 1, 0])) == pytest.approx(1)
    assert ranks(np.array([3, 2, 1]), np.array([1, 2, 3])) == pytest.approx(-1)
    assert ranks(np.array([2, 2]), np.array([1, 3])) is None  # all the same: no order


def test_transitions_are_compared_pair_by_pair() -> None:
    first, second = np.array([[1, 5], [2, 2]]), np.array([[1, 7], [3, 3]])
    # Half of either is the same pair, the rest nowhere else: 1 - 1/2 bit.
    assert measures.transition_distance(first, second) == pytest.approx(math.sqrt(0.5))


def test_diversity_is_the_number_of_equally_popular_items() -> None:
    assert measures.effective_items(np.array([5, 5, 0, 5])) == pytest.approx(3)
    assert measures.effective_items(np.array([7, 0, 0, 0])) == pytest.approx(1)
    assert measures.effective_items(np.zeros(3)) == 0


def test_of_the_tail_as_much_is_expected_as_draws_from_real_popularity_hit() -> None:
    train_events = np.array([6, 6, 2, 2, 2, 0])
    tail = measures.tail_items(train_events)
    assert tail.tolist() == [False, False, True, True, True, False]
    # An item with a ninth of the events is missed by two draws with a chance of 64/81.
    assert measures.expected_coverage(train_events, tail, 2) == pytest.approx(17 / 81)
    assert measures.expected_coverage(train_events, np.zeros(6, bool), 2) is None


def test_gaps_are_binned_by_powers_of_two() -> None:
    seconds = np.array([-5, 0, 1, 2, 3, 6, 7, 3600])
    assert measures.gap_bins(seconds).tolist() == [0, 0, 1, 1, 2, 2, 3, 11]


# -- can they be told apart? ---------------------------------------------------------------

NUM_ITEMS = 40


def walks(seed: int, number: int = 120, step: int = 1) -> list[History]:
    """Histories that go up the catalogue, an hour an event."""
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(number):
        start, length = rng.integers(NUM_ITEMS), rng.integers(6, 12)
        items = (start + np.cumsum(rng.integers(0, 3, length)) * step) % NUM_ITEMS
        seconds = 3600 * np.arange(length) + rng.integers(0, 600, length)
        found.append(History(items, seconds, np.zeros(length, np.int64)))
    return found


EVEN = np.full(NUM_ITEMS, 20)


def test_what_comes_from_the_same_source_is_not_told_apart() -> None:
    found = two_sample(walks(1), walks(2), EVEN, seed=7)
    assert found and found["low"] < 0.5 < found["high"]


def test_a_shuffled_history_is_told_from_a_real_one() -> None:
    rng = np.random.default_rng(3)
    shuffled = [History(rng.permutation(w.items), w.seconds, w.actions) for w in walks(2)]
    found = two_sample(walks(1), shuffled, EVEN, seed=7)
    assert found and found["low"] > 0.8


def test_times_that_are_too_regular_are_told() -> None:
    regular = [History(w.items, w.seconds // 3600 * 3600, w.actions) for w in walks(2)]
    found = two_sample(walks(1), regular, EVEN, seed=7)
    assert found and found["low"] > 0.9


def test_histories_meet_real_ones_of_their_length() -> None:
    def of(length: int, first: int) -> History:
        return History(np.full(length, first), np.arange(length), np.zeros(length, np.int64))

    pairs = paired([of(2, 1), of(9, 2)], [of(3, 3), of(2, 4), of(1, 5)])
    assert [(len(a.items), len(b.items)) for a, b in pairs] == [(3, 3), (2, 2)]
    assert [a.items[0] for a, _ in pairs] == [2, 1]


def test_of_few_histories_nothing_is_said() -> None:
    assert two_sample(walks(1, 49), walks(2, 49), EVEN, seed=7) is None


# -- the stage ------------------------------------------------------------------------------

TRAIN = {"p": histories(u1="abcd", u2="abc"), "q": histories(u3="cd", u4="ab")}


def generated(unit: str, items: str, user: str = "", places: list[int] | None = None) -> pa.Table:
    rows = events(histories(**{unit: items})).to_pylist()
    for number, row in enumerate(rows):
        row |= {"origin": SYNTHETIC, "unit_id": unit, "user_id": user or f"synthetic:{unit}",
                "place": places and places[number]}  # fmt: skip
    return pa.Table.from_pylist(rows, schema=EVENT)


def found_of(
    make_context: MakeContext, monkeypatch: pytest.MonkeyPatch, *synthetic: pa.Table
) -> dict[str, Any] | None:
    context = make_context()
    without_ray(monkeypatch)
    for part, rows in TRAIN.items():
        context.storage.write_part(events(rows), {}, context.folder("split/train"), part)
    write_finished(context, "split")
    both = pa.concat_tables([events(TRAIN["p"]), *synthetic])
    context.storage.write_part(both, {}, context.folder("merged/augmented"), "p")
    number = sum(table.num_rows for table in synthetic)
    write_finished(context, "merged/augmented", synthetic=number, real=7)
    train_events = {"a": 3, "b": 3, "c": 3, "d": 2}
    write_vocabulary(context, catalogue("abcd", train_events=train_events), {})
    return fidelity.run(context)["found"]


def test_training_events_are_compared_with_what_was_generated(
    make_context: MakeContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = found_of(
        make_context, monkeypatch, generated("s1", "abcd"), generated("s2", "cab"),
        generated("s3", "dd", user="u1", places=[4, 4]),
    )  # fmt: skip
    assert found is not None
    assert (found["synthetic_events"], found["synthetic_histories"]) == (9, 2)
    real, synthetic = np.array([3, 3, 3, 2]), np.array([2, 2, 2, 3])
    expected = measures.jensen_shannon(real, synthetic)
    assert found["popularity_js"]["value"] == pytest.approx(expected)
    # Real: 2, 2, 3 and 4 events; new users: 4 and 3.
    assert found["length_ks"]["value"] == 0.5
    # Real: three times ab, twice bc and cd; generated: ab, bc, cd, ca, ab, dd.
    steps = measures.jensen_shannon(np.array([3, 2, 2, 0, 0]), np.array([2, 1, 1, 1, 1]))
    assert found["transition_js"]["value"] == pytest.approx(steps)
    assert (found["gap_ks"]["value"], found["action_js"]["value"]) == (0, 0)
    assert found["distinct_histories"] == {"real": 1.0, "synthetic": 1.0}
    assert found["tail_share"]["synthetic"] == pytest.approx(3 / 9)  # d
    assert found["classifier"] is None


def test_what_stands_at_several_places_of_a_history_are_no_neighbours(
    make_context: MakeContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    apart = generated("s1", "ac", user="u1", places=[0, 3])
    found = found_of(make_context, monkeypatch, apart)
    assert found is not None
    assert found["transition_js"] is None and found["gap_ks"] is None
    assert found["length_ks"] is None  # nobody is new


def test_where_nothing_was_generated_there_is_nothing_to_compare(
    make_context: MakeContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert found_of(make_context, monkeypatch) is None


# -- the gate -------------------------------------------------------------------------------


def decide(found: dict[str, Any] | None, **limits: float) -> dict[str, Any]:
    config = GateConfig.model_validate({"fidelity": limits})
    return gate.decide(evaluated(), config, EvaluateConfig(), None, found)


FOUND = {
    "popularity_js": {"value": 0.2, "halves": 0.1}, "popularity_spearman": {"value": 0.7,
    "halves": None}, "length_ks": None, "tail_coverage": 0.4, "classifier": {"auc": 0.9},
}  # fmt: skip


@pytest.mark.parametrize(
    ("limits", "refused"),
    [
        ({}, None),
        ({"max_popularity_js": 0.2, "min_popularity_spearman": 0.7}, None),
        ({"max_popularity_js": 0.19}, "popularity_js is 0.200, and gate.fidelity.max_popularity_js "
                                      "is 0.19"),
        ({"min_popularity_spearman": 0.8}, "popularity_spearman is 0.700"),
        ({"min_tail_coverage": 0.5}, "tail_coverage is 0.400"),
        ({"max_classifier_auc": 0.8}, "classifier_auc is 0.900"),
        ({"max_length_ks": 0.9}, "length_ks was not measured"),
    ],
)  # fmt: skip
def test_the_gate_refuses_what_is_too_unlike(limits: dict[str, float], refused: str | None) -> None:
    decision = decide(FOUND, **limits)
    assert decision["passed"] is (refused is None)
    assert refused is None or f"fidelity: {refused}" in decision["reasons"][0]


def test_a_limit_refuses_where_nothing_was_compared() -> None:
    assert decide(None)["passed"] and not decide(None, max_gap_ks=1.0)["passed"]
