"""Tables of the report as data: what the page shows, sorts and filters."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

NOT_THERE = "n/a"


@dataclass(frozen=True)
class Cell:
    """What stands in a table, and what it is sorted by."""

    text: str
    order: float | None = None
    """Of a number; texts are sorted by themselves."""


@dataclass(frozen=True)
class Table:
    """First column: what the row is about."""

    name: str
    """Its id on the page."""
    caption: str
    columns: tuple[str, ...]
    rows: list[list[Cell]] = field(default_factory=list)
    note: str = ""

    def numeric(self, column: int) -> bool:
        """Whether all that stands in a column are numbers: it is aligned to the right."""
        filled = [row[column] for row in self.rows if row[column].text not in ("", NOT_THERE)]
        return bool(filled) and all(cell.order is not None for cell in filled)


def table(
    name: str, caption: str, columns: Sequence[str], rows: Iterable[Sequence[Any]], note: str = ""
) -> Table:
    """A table of cells, texts and integers; None is an empty cell."""
    return Table(name, caption, tuple(columns), [[_cell(v) for v in row] for row in rows], note)


def number(value: float | None, form: str = "{:.4f}") -> Cell:
    """`n/a` for what there is not."""
    return Cell(NOT_THERE) if value is None else Cell(form.format(value), value)


def interval(value: dict[str, Any] | None, form: str = "{:.4f}") -> Cell:
    """`0.1234 (0.1000 to 0.1500)`, sorted by the mean."""
    if value is None:
        return Cell(NOT_THERE)
    mean, low, high = (form.format(value[name]) for name in ("mean", "low", "high"))
    return Cell(f"{mean} ({low} to {high})", value["mean"])


def words(name: str) -> str:
    """`by_reason` as people read it."""
    return name.replace("_", " ")


def flat(value: dict[str, Any], above: str = "") -> list[tuple[str, Cell]]:
    """(name, cell) of each number, text and truth value in nested dicts; lists are left out."""
    found: list[tuple[str, Cell]] = []
    for name, own in value.items():
        label = f"{above}{words(name)}"
        if isinstance(own, dict):
            found += flat(own, f"{label}: ")
        elif isinstance(own, bool) or own is None:
            found.append((label, Cell({True: "yes", False: "no", None: NOT_THERE}[own])))
        elif isinstance(own, int):
            found.append((label, _cell(own)))
        elif isinstance(own, float):
            found.append((label, number(own, "{:.4g}")))
        elif isinstance(own, str):
            found.append((label, Cell(own)))
    return found


def _cell(value: Any) -> Cell:
    if isinstance(value, Cell):
        return value
    if isinstance(value, int):
        return Cell(f"{value:,}", value)
    return Cell("" if value is None else str(value))


Form = Callable[[float], str]
