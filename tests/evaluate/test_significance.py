"""Ratios over users: the delta method against brute force, and tests that err as often as told."""

from __future__ import annotations

import numpy as np
import pytest

from llmaug.evaluate.significance import (
    holm,
    interval,
    lift,
    minimal_effect,
    power,
    ratio,
    sample_ratio,
    two_sided_p,
)


def bootstrap_means(values: np.ndarray, num_samples: int, seed: int) -> np.ndarray:
    """(N, K) values to (S, K) means of resamples of the N users."""
    rng = np.random.default_rng(seed)
    drawn = rng.integers(len(values), size=(num_samples, len(values)))
    return np.stack([values[rows].mean(axis=0) for rows in drawn])


def clicks_and_views(
    rng: np.random.Generator, num_users: int, click_rate: float = 0.2
) -> tuple[np.ndarray, np.ndarray]:
    """Users differ in how much they view and how gladly they click: rows are not independent."""
    views = 1 + rng.poisson(rng.exponential(10, num_users))
    return rng.binomial(views, rng.beta(2 * click_rate, 2 - 2 * click_rate, num_users)), views


def test_a_ratio_by_hand() -> None:
    found = ratio(np.array([1.0, 0.0, 2.0]), np.array([2.0, 1.0, 3.0]))
    assert found.value == 0.5
    # Each user's clicks beyond half of its views, over the mean of two views.
    assert found.influence.tolist() == [0.0, -0.25, 0.25]
    assert found.standard_error == pytest.approx(0.25 / np.sqrt(3))


def test_the_delta_method_agrees_with_the_bootstrap() -> None:
    clicks, views = clicks_and_views(np.random.default_rng(1), 1000)
    found = interval(*(lambda r: (r.value, r.standard_error))(ratio(clicks, views)))
    means = bootstrap_means(np.stack([clicks, views], 1), 3000, seed=2)
    low, high = np.quantile(means[:, 0] / means[:, 1], [0.025, 0.975])
    width = high - low
    assert found["low"] == pytest.approx(low, abs=width / 20)
    assert found["high"] == pytest.approx(high, abs=width / 20)
    naive = 2 * 1.96 * np.sqrt(found["value"] * (1 - found["value"]) / views.sum())
    assert naive < width / 2  # what treating views as independent would claim


def test_intervals_of_the_lift_cover_the_truth() -> None:
    rng = np.random.default_rng(3)
    covered = np.zeros(2)
    for _ in range(400):
        new = ratio(*clicks_and_views(rng, 300, 0.3))
        old = ratio(*clicks_and_views(rng, 300, 0.2))
        found = lift(new, old)
        for at, (name, truth) in enumerate({"absolute": 0.1, "relative": 0.5}.items()):
            covered[at] += found[name]["low"] <= truth <= found[name]["high"]
    assert ((covered / 400 >= 0.92) & (covered / 400 <= 0.98)).all(), covered / 400


def test_nothing_to_relate_to_and_nothing_that_varies() -> None:
    none, ones = ratio(np.zeros(5), np.ones(5)), ratio(np.ones(5), np.ones(5))
    found = lift(ones, none)
    assert (found["absolute"]["value"], found["relative"], found["p_value"]) == (1, None, None)


def test_power_is_how_often_a_simulated_test_finds_the_effect() -> None:
    rng = np.random.default_rng(4)
    error = 0.5
    for effect in (0.3, 1.0, minimal_effect(error)):
        z = rng.normal(effect, error, 20_000) / error
        found = np.mean([two_sided_p(value) < 0.05 for value in z])
        assert power(effect, error) == pytest.approx(found, abs=0.01)
    assert power(minimal_effect(error), error) == pytest.approx(0.8, abs=1e-5)
    assert power(0, error) == pytest.approx(0.05)
    assert power(-1.0, error) == power(1.0, error)


def test_the_stated_power_of_a_ratio_is_how_often_its_lift_is_found() -> None:
    rng = np.random.default_rng(5)
    stated, found = [], []
    for _ in range(600):
        old = ratio(*clicks_and_views(rng, 300, 0.20))
        result = lift(ratio(*clicks_and_views(rng, 300, 0.25)), old)
        stated.append(power(0.05, result["standard_error"]))
        found.append(result["p_value"] < 0.05)
    assert 0.3 < np.mean(stated) < 0.8  # where a wrong formula would show
    assert np.mean(found) == pytest.approx(np.mean(stated), abs=0.06)  # 3 standard errors


def test_holm_by_hand() -> None:
    assert holm({"a": 0.01, "b": 0.04, "c": 0.03}) == pytest.approx(
        {"a": 0.03, "c": 0.06, "b": 0.06}
    )
    assert holm({"a": 0.9, "b": 0.8}) == {"b": 1.0, "a": 1.0}
    assert holm({}) == {}


def test_sample_ratio() -> None:
    off = sample_ratio(600, 400, expected_share=0.5)
    assert off["chi_square"] == pytest.approx(40)
    assert off["p_value"] == pytest.approx(2.54e-10, rel=0.01) and off["mismatch"]
    planned = sample_ratio(600, 400, expected_share=0.6)
    assert planned["p_value"] == 1 and not planned["mismatch"]
    # 3.29 standard deviations are p = 0.001.
    assert not sample_ratio(5160, 4840, 0.5)["mismatch"]
    assert sample_ratio(5170, 4830, 0.5)["mismatch"]
