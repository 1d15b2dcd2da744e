"""The parts of a plan: some hundred units each, written, listed and found again.

A source (one part of the training events, or one range of new users) becomes parts of
`units_per_part` units, those to be served first in the first part; what is known of the parts
stands in `plan/_sources`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from llmaug.core.formats import PLANNED, UNITS
from llmaug.core.storage import Storage
from llmaug.schema import UNIT, validate

SOURCES = "_sources"


@dataclass(frozen=True)
class PlanPart:
    """A part of the plan."""

    name: str
    source: str
    """What it was made from; the outcomes cache is kept by it."""
    strategy: int
    """Place in `plan.strategies`."""
    train_part: str | None
    """Part of the training events whose users it continues; None for new users. Of a text task the
    part of the table that it is about."""
    num_units: int
    max_tokens: int
    """Tokens that its units can generate, all together."""
    place: float
    """Of its source's units, the share that comes before its middle: parts are generated in
    this order, so whatever ends generation early cuts every strategy by the same share."""


def read_parts(storage: Storage, plan: str) -> list[PlanPart]:
    """The parts of a finished plan, in the order in which they should be generated."""
    folder = f"{plan}/{SOURCES}"
    parts = [
        PlanPart(**row)
        for source in storage.parts(folder)
        for row in storage.read_part(folder, source, stored=PLANNED).to_pylist()
    ]
    return sorted(parts, key=lambda part: (part.place, part.name))


@dataclass(frozen=True)
class Source:
    """What some parts of the plan are made from."""

    name: str
    """First part of their names."""
    cache: str
    """Name of the source in the outcomes cache."""
    strategy: int
    train_part: str | None
    units_per_part: int
    place: float | None = None
    """Place of its one part, where all parts of a strategy are sources of their own."""


def write_source(
    storage: Storage,
    plan: str,
    source: Source,
    units: list[dict[str, Any]],
    counts: dict[str, int] | None = None,
) -> int:
    """Write the parts of a source, then the note that makes the source count as done, with
    `counts`."""
    rows = []
    starts = range(0, len(units), source.units_per_part)
    for number, start in enumerate(starts):
        piece = units[start : start + source.units_per_part]
        part = source.name if source.place is not None else f"{source.name}-{number:05d}"
        table = validate(pa.Table.from_pylist(piece, schema=UNIT), UNIT, part)
        storage.write_part(UNITS.stamped(table), {"units": len(piece)}, plan, part)
        described = PlanPart(
            name=part,
            source=source.cache,
            strategy=source.strategy,
            train_part=source.train_part,
            num_units=len(piece),
            max_tokens=sum(unit["sampling"]["max_tokens"] for unit in piece),
            place=(number + 0.5) / len(starts) if source.place is None else source.place,
        )
        rows.append(vars(described))
    table = pa.Table.from_pylist(rows, schema=_SOURCE_SCHEMA)
    table = PLANNED.stamped(table)
    storage.write_part(
        table, {"units": len(units), **(counts or {})}, f"{plan}/{SOURCES}", source.name
    )
    return len(units)


_SOURCE_SCHEMA = pa.schema(
    [
        pa.field("name", pa.string()),
        pa.field("source", pa.string()),
        pa.field("strategy", pa.int32()),
        pa.field("train_part", pa.string()),
        pa.field("num_units", pa.int64()),
        pa.field("max_tokens", pa.int64()),
        pa.field("place", pa.float64()),
    ]
)
