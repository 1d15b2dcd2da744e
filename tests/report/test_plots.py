"""Where marks lie: by hand."""

from __future__ import annotations

import re

import pytest

from llmaug.report import plots
from llmaug.report.plots import Interval, Scale


@pytest.mark.parametrize(
    ("low", "high", "marks"),
    [
        (0.0, 10.0, [0, 2, 4, 6, 8, 10]),
        (-0.05, 0.12, [-0.05, 0, 0.05, 0.1, 0.15]),
        (0.031, 0.034, [0.031, 0.032, 0.033, 0.034]),
        (0.0, 0.0, [-0.6, -0.4, -0.2, 0, 0.2, 0.4, 0.6]),
    ],
)
def test_ticks_are_round_and_cover_what_is_shown(
    low: float, high: float, marks: list[float]
) -> None:
    assert plots.ticks(low, high) == pytest.approx(marks)


def test_a_scale_keeps_within_its_ends() -> None:
    x = Scale(-1, 1, 100, 300)
    assert [x(value) for value in (-2, -1, 0, 0.5, 3)] == [100, 100, 200, 250, 300]


def test_differences_tell_gain_loss_and_chance_apart_by_their_shape() -> None:
    rows = [
        Interval("gain", 0.1, 0.05, 0.15),
        Interval("loss", -0.1, -0.2, -0.05),
        Interval("who knows", 0.1, -0.1, None),
    ]
    plot = plots.intervals("p", "Lifts", rows, "lift", line=0.0)
    marks = re.findall(r'<(circle|rect) [^>]*class="mark (\w+)"', plot.svg)
    assert marks == [("circle", "better"), ("rect", "worse"), ("circle", "unclear")]
    assert "no upper end" in plot.svg
    assert plot.numbers.rows[2][3].text == "no upper end"


def test_bars_are_as_high_as_their_shares() -> None:
    bins = [{"label": "a", "real": 0.4, "synthetic": 0.2},
            {"label": "b", "real": 0.2, "synthetic": 0.4}]  # fmt: skip
    svg = plots.both_sides("p", "Shares", bins, "what").svg
    heights = [float(h) for h in re.findall(r'height="([\d.]+)" class="bar c0"><title', svg)]
    assert heights == [160, 80]
    # The points of the synthetic side, in pixels from the top: the other way round.
    marks = re.findall(r'<rect x="[\d.]+" y="([\d.]+)" width="8" [^>]*c1"><title>[ab]', svg)
    assert [float(y) + 4 for y in marks] == [128, 48]


def test_the_best_step_of_a_curve_is_marked() -> None:
    curves = {"real": [(0.0, 0.0), (10.0, 1.0), (20.0, 0.5)]}
    plot = plots.lines("p", "Curves", curves, "step", "ndcg", {"real": 10.0})
    assert "real, best at 10" in plot.svg
    assert re.search(r'<polyline points="46.0,184.0 206.0,\d+.0 366.0,104.0"', plot.svg)


def test_labels_are_text() -> None:
    svg = plots.counts("p", "Reasons", [("<script>", 3)], "count").svg
    assert "<script>" not in svg and "&lt;script&gt;: 3" in svg


def test_a_long_label_is_cut_and_told_whole_where_a_pointer_rests() -> None:
    svg = plots.counts("p", "Reasons", [("a" * 60, 3)], "count").svg
    assert f">{'a' * 44}\u2026: 3<title>{'a' * 60}</title></text>" in svg
