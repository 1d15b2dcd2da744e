"""Plots as inline SVG, laid out by hand: no library, no script, a few kilobytes each.

A phone shows them at their own size (`WIDTH`), so that texts stay legible; wider screens scale them
up. Colours are classes: the page's style sheet has them for light and dark, from the palette of
Okabe and Ito (2008), which the colour-blind can tell apart; no two marks differ by colour alone.
Each has a title, a description and the same numbers as a table.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from xml.etree import ElementTree

from markupsafe import Markup

from llmaug.report.tables import Cell, Form, Table, table

WIDTH = 380
_LEFT, _RIGHT, _TOP, _BOTTOM = 46, 14, 8, 40
_TICK_LEN = 12
_LABEL_LEN = 48  # characters that fit beside each other
_ROW = 38  # of a plot of rows: a label above its mark


@dataclass(frozen=True)
class Plot:
    """A figure of the page."""

    name: str
    title: str
    svg: Markup
    numbers: Table


@dataclass(frozen=True)
class Interval:
    """A row of `intervals`."""

    label: str
    mean: float
    low: float
    high: float | None
    """None: no upper end."""
    counts: bool = True
    """Else no side is taken, wherever it lies."""


@dataclass(frozen=True)
class Scale:
    """Values from `low` to `high` onto pixels from `start` to `end`."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        share = (value - self.low) / (self.high - self.low)
        return round(self.start + min(max(share, 0.0), 1.0) * (self.end - self.start), 1)


def ticks(low: float, high: float, about: int = 5) -> list[float]:
    """Round values (1, 2 or 5 times a power of ten apart) that cover low to high."""
    if high - low <= 1e-9 * max(abs(low), abs(high)):  # one value, but for its last digits
        low, high = low - 0.5 * (abs(low) or 1), high + 0.5 * (abs(high) or 1)
    rough = (high - low) / about
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(own * power for own in (1, 2, 5, 10) if own * power >= rough)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(place * step, 12) for place in range(first, last + 1)]


def plain(value: float) -> str:
    """A number on an axis: `1,500`, `0.05`."""
    return f"{value:,.0f}" if abs(value) >= 100 or value == int(value) else f"{value:.4g}"


def percent(value: float) -> str:
    return f"{100 * value:.4g}%"


def signed_percent(value: float) -> str:
    return f"{100 * value:+.4g}%" if value else "0%"


def intervals(
    name: str,
    title: str,
    rows: Sequence[Interval],
    axis: str,
    form: Form = plain,
    line: float | None = None,
) -> Plot:
    """A dot and its interval for each row. line: a value that is marked; at 0 the rows are
    differences, which lie surely on one side of it or do not."""
    ends = [end for row in rows for end in (row.low, row.mean, row.high, line) if end is not None]
    marks = ticks(min(ends), max(ends))
    x = Scale(marks[0], marks[-1], 12, WIDTH - _RIGHT)
    bottom = _TOP + _ROW * len(rows)
    described = "; ".join(
        f"{row.label}: {form(row.mean)}, interval {form(row.low)} to "
        f"{'no upper end' if row.high is None else form(row.high)}"
        for row in rows
    )
    svg = _canvas(name, title, described, bottom + _BOTTOM)
    _x_axis(svg, x, marks, axis, form, bottom)
    if line is not None:
        _add(svg, "line", x1=x(line), x2=x(line), y1=_TOP, y2=bottom, class_="zero")
    for number, row in enumerate(rows):
        y = _TOP + _ROW * number + 28
        _label(svg, row.label, 12, y - 13)
        end = marks[-1] if row.high is None else row.high
        kind = _side(row) if line == 0 else "c0"
        _add(svg, "line", x1=x(row.low), x2=x(end), y1=y, y2=y, class_=f"whisker {kind}")
        for place in (row.low, row.high):
            if place is not None:
                _add(svg, "line", x1=x(place), x2=x(place), y1=y - 4, y2=y + 4,
                     class_=f"whisker {kind}")  # fmt: skip
        _mark(svg, kind, x(row.mean), y, f"{row.label}: {form(row.mean)}")
    numbers = table(
        f"{name}-numbers", title, ("", axis, "low", "high"),
        [[row.label, *(Cell(form(v), v) if v is not None else Cell("no upper end") for v in
                       (row.mean, row.low, row.high))] for row in rows],
    )  # fmt: skip
    return Plot(name, title, _markup(svg), numbers)


def lines(
    name: str,
    title: str,
    series: dict[str, list[tuple[float, float]]],
    x_axis: str,
    y_axis: str,
    best: dict[str, float] | None = None,
) -> Plot:
    """A line for each series of (x, y), told apart by colour and dashes. best: x of a point of a
    series that stands out."""
    points = [point for own in series.values() for point in own]
    x_marks = ticks(min(x for x, _ in points), max(x for x, _ in points))
    y_marks = ticks(min(0.0, min(y for _, y in points)), max(y for _, y in points))
    legend = 20 * len(series) if len(series) > 1 else 0
    top, bottom = _TOP + 16 + legend, _TOP + 16 + legend + 160
    x = Scale(x_marks[0], x_marks[-1], _LEFT, WIDTH - _RIGHT)
    y = Scale(y_marks[0], y_marks[-1], bottom, top)
    described = "; ".join(
        f"{label}: from {plain(own[0][1])} to {plain(own[-1][1])}, at most "
        f"{plain(max(v for _, v in own))}"
        for label, own in series.items()
    )
    svg = _canvas(name, title, f"{y_axis} over {x_axis}. {described}", bottom + _BOTTOM)
    _x_axis(svg, x, x_marks, x_axis, plain, bottom, top)
    _y_axis(svg, y, y_marks, y_axis, plain, top)
    for number, (label, own) in enumerate(series.items()):
        kind = f"c{number % 6}"
        drawn = f"line {kind} d{(number + number // 6) % 3}"
        path = " ".join(f"{x(a)},{y(b)}" for a, b in own)
        _add(svg, "polyline", points=path, class_=drawn)
        if best and label in best:
            at = next((point for point in own if point[0] == best[label]), None)
            if at:
                _mark(svg, kind, x(at[0]), y(at[1]), f"{label}, best at {plain(at[0])}")
        if legend:
            at_y = _TOP + 20 * number + 8
            _add(svg, "line", x1=_LEFT, x2=_LEFT + 30, y1=at_y, y2=at_y, class_=drawn)
            _label(svg, label, _LEFT + 38, at_y + 4)
    rows = [[label, Cell(plain(a), a), Cell(plain(b), b)] for label, own in series.items() for
            a, b in own]  # fmt: skip
    numbers = table(f"{name}-numbers", title, ("", x_axis, y_axis), rows)
    return Plot(name, title, _markup(svg), numbers)


def both_sides(name: str, title: str, bins: Sequence[dict[str, Any]], x_axis: str) -> Plot:
    """Shares of real events as bars, those of synthetic ones as points on a line."""
    most = max(max(row["real"], row["synthetic"]) for row in bins)
    marks = ticks(0.0, most or 1.0, 4)
    top, bottom = _TOP + 40, _TOP + 200
    y = Scale(0.0, marks[-1], bottom, top)
    described = f"Shares by {x_axis}: real as bars, synthetic as points. " + "; ".join(
        f"{row['label']}: {percent(row['real'])} and {percent(row['synthetic'])}" for row in bins
    )
    svg = _canvas(name, title, described, bottom + _BOTTOM)
    _y_axis(svg, y, marks, "share", percent, top)
    width = (WIDTH - _LEFT - _RIGHT) / len(bins)
    longest = min(_TICK_LEN, max(len(row["label"]) for row in bins))
    every = math.ceil(len(bins) / max(1, 300 // (7 * longest + 10)))
    for number, row in enumerate(bins):
        left, at = round(_LEFT + width * number, 1), y(row["real"])
        bar = _add(svg, "rect", x=round(left + width * 0.1, 1), y=at, width=round(width * 0.8, 1),
                   height=round(bottom - at, 1), class_="bar c0")  # fmt: skip
        _add(bar, "title", f"{row['label']}: real {percent(row['real'])}")
        if number % every == 0:
            _add(svg, "text", row["label"][:_TICK_LEN], x=round(left + width / 2, 1), y=bottom + 14,
                 class_="tick middle")  # fmt: skip
    centres = [round(_LEFT + width * (number + 0.5), 1) for number in range(len(bins))]
    path = " ".join(f"{a},{y(row['synthetic'])}" for a, row in zip(centres, bins, strict=True))
    _add(svg, "polyline", points=path, class_="line c1")
    for at_x, row in zip(centres, bins, strict=True):
        _mark(svg, "c1", at_x, y(row["synthetic"]),
              f"{row['label']}: synthetic {percent(row['synthetic'])}")  # fmt: skip
    _add(svg, "line", x1=_LEFT, x2=WIDTH - _RIGHT, y1=bottom, y2=bottom, class_="axis")
    _add(svg, "text", x_axis, x=(WIDTH + _LEFT) / 2, y=bottom + 34, class_="name middle")
    _add(svg, "rect", x=_LEFT, y=_TOP, width=14, height=10, class_="bar c0")
    _add(svg, "text", "real", x=_LEFT + 20, y=_TOP + 9, class_="label")
    _mark(svg, "c1", _LEFT + 77, _TOP + 5, "synthetic")
    _add(svg, "text", "synthetic", x=_LEFT + 88, y=_TOP + 9, class_="label")
    numbers = table(
        f"{name}-numbers", title, (x_axis, "real", "synthetic"),
        [[row["label"], *(Cell(percent(row[n]), row[n]) for n in ("real", "synthetic"))] for row in
         bins],
    )  # fmt: skip
    return Plot(name, title, _markup(svg), numbers)


def counts(name: str, title: str, rows: Sequence[tuple[str, int]], axis: str) -> Plot:
    """A bar for each count, with its label above and its number beside it."""
    marks = ticks(0, max(count for _, count in rows) or 1)
    x = Scale(0, marks[-1], 12, WIDTH - _RIGHT)
    bottom = _TOP + _ROW * len(rows)
    described = "; ".join(f"{label}: {count:,}" for label, count in rows)
    svg = _canvas(name, title, described, bottom + _BOTTOM)
    _x_axis(svg, x, marks, axis, plain, bottom)
    for number, (label, count) in enumerate(rows):
        y = _TOP + _ROW * number
        _label(svg, label, 12, y + 14, f": {count:,}")
        _add(svg, "rect", x=12, y=y + 19, width=round(max(x(count) - 12, 1), 1), height=10,
             class_="bar c0")  # fmt: skip
    numbers = table(f"{name}-numbers", title, ("", axis), rows)
    return Plot(name, title, _markup(svg), numbers)


# -- pieces ---------------------------------------------------------------------------------


def _label(svg: ElementTree.Element, text: str, x: float, y: float, after: str = "") -> None:
    """Cut where it would leave the plot; what a pointer rests on is told whole."""
    room = _LABEL_LEN - len(after)
    short = text if len(text) <= room else f"{text[: room - 1]}\u2026"
    label = _add(svg, "text", f"{short}{after}", x=x, y=y, class_="label")
    if short != text:
        _add(label, "title", text)


def _side(row: Interval) -> str:
    """Where a difference lies: surely above zero, surely below, or who knows."""
    if not row.counts:
        return "unclear"
    if row.low > 0:
        return "better"
    return "worse" if row.high is not None and row.high < 0 else "unclear"


def _canvas(name: str, title: str, described: str, height: float) -> ElementTree.Element:
    svg = ElementTree.Element(
        "svg",
        {"viewBox": f"0 0 {WIDTH} {height:g}", "role": "img",
         "aria-labelledby": f"{name}-title {name}-desc"},
    )  # fmt: skip
    ElementTree.SubElement(svg, "title", id=f"{name}-title").text = title
    ElementTree.SubElement(svg, "desc", id=f"{name}-desc").text = described
    return svg


def _add(
    parent: ElementTree.Element, tag: str, text: str = "", class_: str = "", **attributes: Any
) -> ElementTree.Element:
    values = {key: f"{value:g}" if isinstance(value, float) else str(value) for key, value in
              attributes.items()}  # fmt: skip
    element = ElementTree.SubElement(parent, tag, values | ({"class": class_} if class_ else {}))
    if text:
        element.text = text
    return element


def _mark(svg: ElementTree.Element, kind: str, x: float, y: float, told: str) -> None:
    """A dot; a square where it is the synthetic side or a loss, a ring where nobody knows."""
    if kind in ("c1", "worse"):
        mark = _add(svg, "rect", x=round(x - 4, 1), y=round(y - 4, 1), width=8, height=8,
                    class_=f"mark {kind}")  # fmt: skip
    else:
        mark = _add(svg, "circle", cx=x, cy=y, r=4.5, class_=f"mark {kind}")
    _add(mark, "title", told)


def _x_axis(
    svg: ElementTree.Element,
    x: Scale,
    marks: list[float],
    name: str,
    form: Form,
    bottom: float,
    top: float = _TOP,
) -> None:
    _add(svg, "line", x1=x.start, x2=x.end, y1=bottom, y2=bottom, class_="axis")
    every = 2 if max(len(form(mark)) for mark in marks) * 7 * len(marks) > x.end - x.start else 1
    for number, mark in enumerate(marks):
        _add(svg, "line", x1=x(mark), x2=x(mark), y1=top, y2=bottom, class_="grid")
        if number % every == 0:
            side = "start" if x(mark) < 20 else "end" if x(mark) > WIDTH - 30 else "middle"
            _add(svg, "text", form(mark), x=x(mark), y=bottom + 14, class_=f"tick {side}")
    _add(svg, "text", name, x=(x.start + x.end) / 2, y=bottom + 34, class_="name middle")


def _y_axis(
    svg: ElementTree.Element, y: Scale, marks: list[float], name: str, form: Form, top: float
) -> None:
    for mark in marks:
        _add(svg, "line", x1=_LEFT, x2=WIDTH - _RIGHT, y1=y(mark), y2=y(mark), class_="grid")
        _add(svg, "text", form(mark), x=_LEFT - 5, y=y(mark) + 4, class_="tick end")
    _add(svg, "text", name, x=4, y=top - 8, class_="name")


def _markup(svg: ElementTree.Element) -> Markup:
    # Text and attributes are escaped by ElementTree.
    return Markup(ElementTree.tostring(svg, encoding="unicode"))
