"""Bootstrap sums add up over parts, pair what is compared, and give honest intervals."""

from __future__ import annotations

import numpy as np
import pytest

from llmaug.evaluate.bootstrap import (
    interval,
    lift_text,
    mean_over_seeds,
    means,
    relative_lift,
    resampled_sums,
)


def users(number: int, prefix: str = "u") -> list[str]:
    return [f"{prefix}{i}" for i in range(number)]


def sums_of(
    user_ids: list[str], values: np.ndarray, num_samples: int = 400, seed: int = 1
) -> np.ndarray:
    groups = [(np.arange(len(user_ids)), values)]
    return resampled_sums(user_ids, groups, num_samples, seed)[0]


def test_the_first_row_is_the_data_itself() -> None:
    values = np.array([[1.0, 10.0], [3.0, 20.0]])
    sums = sums_of(["a", "b"], values)
    assert sums.shape == (401, 3)
    assert sums[0].tolist() == [2, 4, 30]
    assert means(sums)[0].tolist() == [2, 15]


def test_sums_of_parts_add_up_to_the_sums_of_all_however_they_are_cut() -> None:
    ids, values = users(1300), np.random.default_rng(0).random((1300, 3))
    whole = sums_of(ids, values)
    for cut in (1, 512, 700):
        parts = sums_of(ids[:cut], values[:cut]) + sums_of(ids[cut:], values[cut:])
        np.testing.assert_allclose(parts, whole)


def test_a_group_has_the_weights_of_its_users_wherever_they_stand() -> None:
    ids, values = users(900), np.random.default_rng(0).random((900, 1))
    some = np.arange(5, 900, 7)
    _, group = resampled_sums(ids, [(np.arange(900), values), (some, values[some])], 100, seed=1)
    alone = sums_of([ids[row] for row in some], values[some], num_samples=100)
    np.testing.assert_allclose(group, alone)


def test_another_seed_is_another_resampling() -> None:
    values = np.random.default_rng(0).random((50, 1))
    first, again, other = (sums_of(users(50), values, seed=seed) for seed in (1, 1, 2))
    assert (first == again).all() and (first[1:] != other[1:]).any()


def test_what_is_the_same_for_each_user_is_the_same_in_each_resample() -> None:
    """That is what pairs the arms: their difference is free of the choice of users."""
    values = np.random.default_rng(0).random(200)
    found = means(sums_of(users(200), np.stack([values, values + 0.1], axis=1)))
    np.testing.assert_allclose(found[:, 1] - found[:, 0], 0.1)


@pytest.mark.parametrize("num_users", [100, 2000])
def test_the_interval_is_as_wide_as_theory_says(num_users: int) -> None:
    values = np.random.default_rng(3).exponential(size=(num_users, 1))
    found = interval(means(sums_of(users(num_users), values, num_samples=2000))[:, 0])
    error = values.std() / np.sqrt(num_users)
    assert found["mean"] == pytest.approx(values.mean())
    assert found["high"] - found["low"] == pytest.approx(2 * 1.96 * error, rel=0.1)


def test_intervals_cover_the_truth_as_often_as_they_say() -> None:
    """300 experiments with a true mean of 1/2: about 95% of the intervals hold it."""
    rng, covered = np.random.default_rng(0), 0
    for experiment in range(300):
        values = rng.random((60, 1))
        found = means(sums_of(users(60, f"{experiment}-"), values))[:, 0]
        covered += interval(found)["low"] <= 0.5 <= interval(found)["high"]
    assert 0.90 <= covered / 300 <= 0.99


def test_a_resample_without_users_is_left_out() -> None:
    sums = sums_of(["only one"], np.array([[0.3]]))
    assert (sums[1:, 0] == 0).any()
    found = interval(means(sums)[:, 0])
    assert (found["low"], found["high"]) == pytest.approx((0.3, 0.3))


# -- seeds -------------------------------------------------------------------------------------


def test_one_seed_is_taken_as_it_is() -> None:
    values = np.random.default_rng(0).random((5, 1, 2))
    assert (mean_over_seeds(values, [1]) == values[:, 0]).all()


def test_several_seeds_are_averaged_and_drawn() -> None:
    """No doubt about users here: what is left is the variance of a mean over three seeds."""
    per_seed = np.array([1.0, 2.0, 6.0])
    values = np.tile(per_seed[None, :, None], (20_001, 1, 1))
    found = mean_over_seeds(values, [1])[:, 0]
    assert found[0] == 3
    assert found[1:].mean() == pytest.approx(3, abs=0.05)
    assert found[1:].var() == pytest.approx(per_seed.var(ddof=1) / 3, rel=0.05)


# -- lift --------------------------------------------------------------------------------------


def test_lift_is_relative_to_the_old_mean_of_the_same_resample() -> None:
    lift = relative_lift(np.array([1.2, 2.2, 3.3]), np.array([1.0, 2.0, 3.0]))
    assert lift["relative"] == pytest.approx(0.2)
    assert (lift["low"], lift["high"]) == pytest.approx((0.1, 0.1))
    assert lift_text(lift) == "+20.0% (+10.0% to +10.0%)"


def test_nothing_to_relate_to() -> None:
    lift = relative_lift(np.ones(3), np.zeros(3))
    assert lift == {"relative": None, "low": None, "high": None}
    assert lift_text(lift) == "n/a"


def test_a_rise_from_nothing_has_no_upper_end() -> None:
    """In 3% of the resamples the old arm has no hit at all, and the new one has some."""
    old = np.r_[1.0, np.zeros(30), np.ones(970)]
    lift = relative_lift(old + 0.5, old)
    assert (lift["relative"], lift["low"], lift["high"]) == (0.5, 0.5, None)
    assert lift_text(lift) == "+50.0% (+50.0% to no upper end)"
    fewer = np.delete(old, slice(1, 12))  # 2% of the resamples: the 2.5% at the end hold them
    assert relative_lift(fewer + 0.5, fewer)["high"] == 0.5


def test_a_resample_in_which_both_are_zero_shows_no_change() -> None:
    lift = relative_lift(np.array([0.1, 0, 0]), np.array([0.1, 0, 0]))
    assert (lift["relative"], lift["low"], lift["high"]) == (0, 0, 0)
