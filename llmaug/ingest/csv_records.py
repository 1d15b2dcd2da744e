"""CSV to records: a stray quote costs its own line, not all that follow it."""

from __future__ import annotations

import csv
import io
from collections import Counter, deque
from collections.abc import Iterator

from llmaug.core.sources import Source
from llmaug.errors import UserError
from llmaug.ingest.layout import Layout, Refused
from llmaug.ingest.lines import Stream, lines
from llmaug.ingest.records import Record

MAX_RECORD_LINES = 1_000
"""Lines of one row (line ends within quotes) at most."""


def csv_records(stream: Stream, source: Source, layout: Layout) -> Iterator[Record | Refused]:
    """One record a row; a row's number is that of its first line, without the header's."""
    rows = _Rows(stream, layout)
    header, num_before = _header(rows, source, layout)
    width = len(header)
    for number, fields in rows:
        row = number - num_before
        if isinstance(fields, Refused):
            yield fields._replace(row=row)
        elif len(fields) != width:
            yield Refused(row, "bad_csv", f"{len(fields)} fields, the header has {width}")
        elif num_before and _names(fields) == header:
            yield Refused(row, "repeated_header", "files were joined")
        else:
            yield row, dict(zip(header, fields, strict=True))


def _header(rows: _Rows, source: Source, layout: Layout) -> tuple[list[str], int]:
    """Names of the columns, and the number of the line that they stand in (0: in the config)."""
    if layout.files.header is not None:
        header, number = layout.files.header, 0
    else:
        number, found = next(rows, (0, []))
        if isinstance(found, Refused):
            raise UserError(f"{source.name}: the header: {found.reason}: {found.detail}")
        header = _names(found)
        if not header:
            raise EOFError("no header line")
    rows.width = len(header)
    names = {theirs for theirs in layout.columns_in(header, source).values()}
    twice = [name for name, count in Counter(header).items() if count > 1 and name in names]
    if twice:
        raise UserError(
            f"{source.name}: column '{twice[0]}' stands twice in the header; name each column once"
        )
    return header, number


def _names(fields: list[str]) -> list[str]:
    return [name.strip() for name in fields]


class _Rows:
    """(number of the first line, fields or Refused) of each row."""

    def __init__(self, stream: Stream, layout: Layout) -> None:
        self.width = 0
        """Fields of the header, once it is known."""
        self._lines = lines(stream, layout)
        self._ahead: deque[tuple[int, str | Refused]] = deque()
        self._delimiter = layout.files.delimiter
        self._quote = layout.files.quote if len(self._delimiter) == 1 else None

    def __iter__(self) -> _Rows:
        return self

    def __next__(self) -> tuple[int, list[str] | Refused]:
        number, text = self._ahead.popleft() if self._ahead else next(self._lines)
        if isinstance(text, Refused):
            return number, text
        if self._quote is None or self._quote not in text:
            return number, text.split(self._delimiter)
        try:
            return number, self._parsed(text)
        except csv.Error as error:
            if not _is_open(error):
                return number, Refused(number, "bad_csv", str(error))
        fields = self._continued(number, text)
        return number, fields or Refused(number, "bad_csv", "a quote that is not closed")

    def _continued(self, number: int, text: str) -> list[str] | None:
        """The fields of the row that begins with `text` in line `number`; None when it does not
        end as a row should: then the lines after it stand for themselves."""
        taken: list[tuple[int, str | Refused]] = []
        texts, whole = [text], text
        while len(taken) < MAX_RECORD_LINES:
            following = self._ahead.popleft() if self._ahead else next(self._lines, None)
            if following is None:
                break
            taken.append(following)
            if isinstance(following[1], Refused):
                break
            texts.append(following[1])
            # Blank lines are no rows, but within quotes they are text.
            whole += "\n" * (following[0] - number) + following[1]
            number = following[0]
            if self._quote in following[1]:  # type: ignore[operator]
                try:
                    fields = self._parsed(whole)
                except csv.Error as error:
                    if not _is_open(error):
                        break
                    continue
                if not self._hides_rows(texts):
                    return fields
                break
        self._ahead.extendleft(reversed(taken))
        return None

    def _hides_rows(self, texts: list[str]) -> bool:
        """Are all lines of what was taken for one row rows themselves, the first and the last up
        to and from the quotes as well? Then it is no text with line ends, but two stray quotes."""
        _, *inner, _ = texts
        if not inner:
            return False
        *before, opened = self._parsed(f"{texts[0]}{self._quote}")
        closed, *after = self._parsed(f"{self._quote}{texts[-1]}")
        more = [len(before), *(0 for _ in inner), len(after)]
        return all(
            num + len(text.split(self._delimiter)) == self.width
            for num, text in zip(more, [opened, *inner, closed], strict=True)
        )

    def _parsed(self, text: str) -> list[str]:
        # Other characters that end a line for Python are part of the text.
        lines_in = io.StringIO(text, newline="\n")
        reader = csv.reader(lines_in, delimiter=self._delimiter, quotechar=self._quote, strict=True)
        fields = next(reader)
        if next(reader, None) is not None:
            raise csv.Error("a line end outside quotes")
        return fields


def _is_open(error: csv.Error) -> bool:
    return "unexpected end of data" in str(error)
