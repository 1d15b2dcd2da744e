"""The format of each kind of file that outlives a run, and how older ones become today's.

Every such file says `format_version`, and `llmaug_version` that wrote it; one that says neither
is of format 1. A change that would make an older file unreadable, or read otherwise (a field
renamed, moved or dropped; a column of a table), is one more function at the end of that format's
`upgrades`. It takes what one version wrote and returns what the next one would have written. A
new field whose default is what went before needs none.

`tests/corpus/formats/` holds what earlier versions wrote: all of it stays readable.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from llmaug import __version__
from llmaug.errors import UserError

VERSION, WRITER = "format_version", "llmaug_version"
_UNMARKED = "0.1.0 or earlier"


@dataclass(frozen=True)
class Format:
    """Of one kind of file: JSON objects, or tables."""

    name: str
    """What people call such a file."""
    upgrades: tuple[Callable[[Any], Any], ...] = ()
    """The first makes format 2 of format 1, the next 3 of 2."""

    @property
    def version(self) -> int:
        """The one that is written today."""
        return 1 + len(self.upgrades)

    @property
    def stamp(self) -> dict[str, Any]:
        """What a JSON object of today says of itself."""
        return {VERSION: self.version, WRITER: __version__}

    def upgraded(self, value: dict[str, Any], where: str) -> dict[str, Any]:
        """The object that was read from `where`, as today's code would have written it. Raises
        UserError for one of a later llmaug, and for one that is damaged."""
        found = value.get(VERSION, 1)
        return {**self._upgrade(value, found, writer(value), where), VERSION: self.version}

    def stamped(self, table: pa.Table) -> pa.Table:
        """The table with the same stamp in its metadata."""
        stamp = {key: str(said) for key, said in self.stamp.items()}
        return table.replace_schema_metadata({**(table.schema.metadata or {}), **stamp})

    def is_of_today(self, schema: pa.Schema, where: str) -> bool:
        """Of a stored table. Raises UserError for one of a later llmaug."""
        found, by = _said(schema)
        self._check(found, by, where)
        return found == self.version

    def upgraded_table(self, table: pa.Table, where: str) -> pa.Table:
        """As `upgraded`, for a table with all of its columns."""
        found, by = _said(table.schema)
        return self.stamped(self._upgrade(table, found, by, where))

    def _check(self, found: Any, by: str, where: str) -> None:
        if not isinstance(found, int) or isinstance(found, bool) or found < 1:
            raise UserError(f"{where}: damaged: {VERSION} is {found!r}, no number from 1")
        if found > self.version:
            readable = "format 1" if self.version == 1 else f"formats 1 to {self.version}"
            raise UserError(
                f"{where}: {self.name} of format {found}, written by llmaug {by}. This is llmaug "
                f"{__version__}, which reads {readable}: install llmaug {by} or later"
            )

    def _upgrade(self, value: Any, found: Any, by: str, where: str) -> Any:
        self._check(found, by, where)
        try:
            for upgrade in self.upgrades[found - 1 :]:
                value = upgrade(value)
        except (LookupError, TypeError, ValueError, AttributeError) as error:
            raise UserError(
                f"{where}: damaged: no {self.name} of format {found} ({error!r})"
            ) from error
        return value


def writer(value: dict[str, Any]) -> str:
    """The version of llmaug that wrote a JSON object."""
    return str(value.get(WRITER, _UNMARKED))


def written_by(value: dict[str, Any]) -> str:
    """What to add where a field of it is one that nobody here knows."""
    by = writer(value)
    return f"It was written by llmaug {by}, this is {__version__}: llmaug {by} reads it"


def _said(schema: pa.Schema) -> tuple[Any, str]:
    """(format, version of llmaug that wrote it) by the metadata of a table."""
    said = {key.decode(): text.decode() for key, text in (schema.metadata or {}).items()}
    version = said.get(VERSION, "1")
    return int(version) if version.isdecimal() else version, writer(said)


def _night_of_card(card: dict[str, Any]) -> dict[str, Any]:
    """Cards had no night once: it ended no later than they were published."""
    return {**card, "night": card.get("night") or [card.get("published_utc") or ""]}


RUN = Format("run.json")
MANIFEST = Format("manifest")
NOTE = Format("note of a part")
CARD = Format("card of a published model", (_night_of_card,))
MODEL = Format("recommender")
LANGUAGE_MODEL = Format("behaviour model")
UNITS = Format("part of a plan")
PLANNED = Format("list of the parts of a plan")
OUTCOMES = Format("part of the outcomes")
