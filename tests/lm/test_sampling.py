"""Drawing from rows of probabilities."""

from __future__ import annotations

import numpy as np
import pytest

from llmaug.lm.ngram.sampling import draw, shaped

ROW = np.array([[0.1, 0.4, 0.3, 0.2]])


def shares(weights: np.ndarray) -> list[float]:
    return (weights[0] / weights[0].sum()).round(6).tolist()


@pytest.mark.parametrize(
    ("temperature", "top_k", "top_p", "expected"),
    [
        (1.0, -1, 1.0, [0.1, 0.4, 0.3, 0.2]),
        (0.5, -1, 1.0, [1 / 30, 16 / 30, 9 / 30, 4 / 30]),  # squares
        (1.0, 2, 1.0, [0, 4 / 7, 3 / 7, 0]),
        (1.0, 4, 1.0, [0.1, 0.4, 0.3, 0.2]),
        (1.0, -1, 0.5, [0, 4 / 7, 3 / 7, 0]),  # the smallest set that holds one half
        (1.0, -1, 0.01, [0, 1, 0, 0]),
        (1.0, 2, 0.5, [0, 1, 0, 0]),  # of what top-k has left, 0.4 / 0.7 is one half
    ],
)
def test_what_is_sampled_from_by_hand(
    temperature: float, top_k: int, top_p: float, expected: list[float]
) -> None:
    assert shares(shaped(ROW, temperature, top_k, top_p)) == pytest.approx(expected, abs=1e-6)


def test_a_cold_temperature_does_not_underflow() -> None:
    tiny = np.array([[1e-300, 2e-300, 0.0]])
    assert shares(shaped(tiny, 0.1, -1, 1.0)) == pytest.approx([1 / 1025, 1024 / 1025, 0], abs=1e-6)


def test_a_uniform_number_picks_its_column() -> None:
    rows = np.repeat([[0.0, 1.0, 0.0, 3.0, 0.0]], 5, axis=0)
    almost_one = np.nextafter(1, 0)
    assert draw(rows, np.array([0, 0.24, 0.26, 0.99, almost_one])).tolist() == [1, 1, 3, 3, 3]


def test_rounding_never_draws_what_has_no_weight() -> None:
    rng = np.random.default_rng(0)
    weights = rng.random((2000, 50)) * (rng.random((2000, 50)) < 0.2) * 1e-30
    weights[:, 7] += 1e-35
    drawn = draw(weights, np.full(2000, np.nextafter(1, 0)))
    assert (weights[np.arange(2000), drawn] > 0).all()


def test_a_row_without_weight_draws_nothing() -> None:
    assert draw(np.zeros((2, 3)), np.array([0.0, 0.9])).tolist() == [-1, -1]
