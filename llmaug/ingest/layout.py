"""What log files look like, and what a reader gives back: pieces of rows, and refused rows."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from llmaug.config import FilesConfig
from llmaug.core.sources import Source
from llmaug.errors import UserError
from llmaug.ingest.patterns import Pattern, compile_pattern

ROWS_PER_PIECE = 50_000
PIECE_BYTES = 64 * 2**20
"""Text of a piece; a longer one is cut, so that a task never holds much more."""
MAX_ID_BYTES = 1_024
"""A longer user id, item id or action is a damaged row, not a name."""
DETAIL_LEN = 80  # characters of a refused field that may be shown
NAMES = ("user_id", "item_id", "action")

_NUMBER = re.compile(r"[-+]?\d+([.]\d+)?")


class Refused(NamedTuple):
    """A row that is quarantined, or a whole file (row None)."""

    row: int | None  # from 1
    reason: str
    detail: str | None


class Piece(NamedTuple):
    """Some consecutive rows of a file."""

    table: pa.Table  # under our column names
    rows: np.ndarray  # (table rows,) int64: their numbers in the file, from 1, ascending
    refused: list[Refused]


@dataclass(frozen=True)
class Layout:
    """What the files look like, and which columns are wanted from them."""

    where: str
    """Section of the config, for messages: `ingest`, `ingest.items`."""
    files: FilesConfig
    """Format and dialect; our column name: the name in the files."""
    required: tuple[str, ...]
    """Our names of the columns without which a row is nothing."""
    wanted: tuple[str, ...] | None = None
    """Our names of the columns to read; None: all."""
    naming: str = "set {where}.columns.{name} to the right one"
    """Fix in the message about a column that is not there."""

    def __post_init__(self) -> None:
        named = {name for name, theirs in self.files.columns.items() if theirs is not None}
        if self.wanted is not None and (unknown := named - set(self.wanted)):
            raise UserError(
                f"{self.where}.columns: unknown {sorted(unknown)}; the keys are our names: "
                f"{', '.join(self.wanted)}"
            )
        if unread := [name for name in self.required if self.theirs(name) is None]:
            raise UserError(f"{self.where}.columns.{unread[0]} may not be null: it is needed")
        if self.files.pattern is not None:
            self.pattern()

    def theirs(self, name: str) -> str | None:
        """Name in the files of our column `name`; None: not read."""
        return self.files.columns.get(name, name)

    def mapped(self) -> list[str]:
        """Our names of the columns that the config names."""
        return [name for name, theirs in self.files.columns.items() if theirs is not None]

    def pattern(self) -> Pattern:
        """Raises UserError when the pattern is no regular expression."""
        return compile_pattern(self.files.pattern or "", f"{self.where}.pattern")

    def columns_in(self, found: Iterable[str], source: Source) -> dict[str, str]:
        """{our name: name in the file} of the columns that a file with `found` has, in an
        order that follows from it; what `found` holds may be the head of a dotted path. Where the
        config gives our name to one column, another that is called so is not read."""
        there = [*source.partition, *found]
        if self.wanted is None:
            columns = self.files.columns
            mapped = {name: path for name, path in columns.items() if path and _heads(path, there)}
            unread = {name for name, theirs in columns.items() if theirs is None}
            known = {*mapped, *mapped.values(), *unread}
            return mapped | {name: name for name in there if name not in known}
        pairs = ((name, self.theirs(name)) for name in self.wanted)
        return {name: theirs for name, theirs in pairs if theirs and _heads(theirs, there)}


def _heads(path: str, found: list[str]) -> bool:
    """Is `path` one of `found`, or a dotted path into one of them?"""
    steps = path.split(".")
    return any(".".join(steps[: end + 1]) in found for end in range(len(steps)))


def missing_column(name: str, found: Iterable[str], source: Source, layout: Layout) -> UserError:
    """The error about our column `name`, which a file with the columns `found` does not have:
    what there is instead, and the fix."""
    theirs = layout.theirs(name)
    known = sorted({*found, *source.partition})
    shown = ", ".join(repr(each) if _strange(each) else each for each in known[:30]) or "none"
    return UserError(
        f"{source.name}: no column '{theirs}' for {name}; there are {shown}; "
        f"{_fix(name, theirs or name, known, layout)}"
    )


def _fix(name: str, theirs: str, known: list[str], layout: Layout) -> str:
    where, files = layout.where, layout.files
    if files.format == "text":
        return f"name a group (?P<{name}>...) in {where}.pattern"
    if files.format == "csv":
        for mark in ("::", "\t", ";", "|", ","):
            if mark != files.delimiter and any(mark in column for column in known):
                shown = '"\\t"' if mark == "\t" else f'"{mark}"'
                return f"the fields seem to be separated by {shown}: set {where}.delimiter: {shown}"
        if files.header is None and any(_NUMBER.fullmatch(column) for column in known):
            return (
                "the first line seems to be data: name the columns of files without a header in "
                f"{where}.header: [user_id, item_id, ...]"
            )
    for path in known:
        plain = path.replace("[]", "")
        if plain == theirs or plain.split(".")[-1] == theirs:
            columns = f"{where}.columns.{name}: {plain}"
            if "[]" in path:
                return f"it is in a list: set {where}.explode: {path.split('[]')[0]} and {columns}"
            return f"it is nested: set {columns}"
    close = difflib.get_close_matches(theirs, known, 1, 0.75)
    hint = f" ({close[0]}?)" if close else ""
    return layout.naming.format(where=where, name=name) + hint


def _strange(name: str) -> bool:
    return not name or not name.isprintable()
