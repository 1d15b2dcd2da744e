"""Times as people and programs write them, to microseconds since 1970.

Read is what says by itself which number is the day: ISO 8601 with its usual liberties, and
notations that begin with the year or name the month. What does not (1/2/2019) takes a format. No
zone is UTC.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

_CLOCK = r"[T ]\d{2}:\d{2}(:\d{2}([.]\d{1,6})?)?"
_LOCAL = rf"^\d{{4}}-\d{{2}}-\d{{2}}({_CLOCK})?$"
_ZONED = rf"^\d{{4}}-\d{{2}}-\d{{2}}{_CLOCK}(Z|[+-]\d{{2}}(:?\d{{2}})?)$"
# From the liberties that are taken with ISO 8601 to what Arrow reads.
_LIBERTIES = (
    (r"^(\d{4})/(\d{2})/(\d{2})\b", r"\1-\2-\3"),
    (r"(:\d{2})[.,](\d{1,6})\d*", r"\1.\2"),  # nanoseconds; a comma as Python's logging has it
    (r"(Z|[+-]\d{2}:?\d{2}) ?\[[\w/+-]+\]$", r"\1"),  # Java: +01:00[Europe/Berlin]
    (r"(:\d{2}(?:[.]\d+)?) ?([+-]\d{2}:?\d{2}) [A-Z]{3,4}$", r"\1\2"),  # Go: +0000 UTC
    (r"(:\d{2}(?:[.]\d+)?) *(?:UTC|GMT|z)$", r"\1Z"),  # BigQuery, Snowflake
    (r"(:\d{2}(?:[.]\d+)?) +([+-]\d{2}(?::?\d{2})?)$", r"\1\2"),  # Ruby, Postgres
)
_NAMED = (
    "%d/%b/%Y:%H:%M:%S %z",  # web servers
    "%a, %d %b %Y %H:%M:%S %z",  # mail, HTTP
    "%a %b %d %H:%M:%S %z %Y",  # Ruby, Java
    "%a %b %d %Y %H:%M:%S GMT%z",  # JavaScript
    "%a %b %d %H:%M:%S %Y",  # C
    "%d %b %Y %H:%M:%S",
    "%d-%b-%Y %H:%M:%S",  # Oracle
    "%b %d, %Y %I:%M:%S %p",
    "%b %d, %Y, %I:%M:%S %p",
    "%b %d, %Y %H:%M:%S",
    "%Y-%m-%d %H:%M:%S",  # with a month or an hour of one digit
    "%Y-%m-%d %H:%M",
    "%Y-%m-%d %I:%M:%S %p",
    "%Y/%m/%d %H:%M:%S",
    "%Y/%m/%d %H:%M",
    "%Y/%m/%d",
)
_ASIDE = re.compile(r" \([^()]*\)$")  # (Coordinated Universal Time)
_UTC_NAME = re.compile(r"\b(?:UTC|GMT)\b(?=$| \d{4}$)")
_DAY_OR_MONTH = re.compile(
    r"^(\d{1,2})([/.-])(\d{1,2})\2(\d{4}|\d{2})"
    r"(?:(,? )\d{1,2}:\d{2}(:\d{2})?([.]\d{1,6})?( ?[AaPp][Mm])?)?$"
)
_ZONE_NAME = re.compile(r"\d ?(?:[A-Z][A-Za-z]+/[A-Za-z_/]+|[A-Z]{3,5})$")


def read_notations(text: pa.Array) -> tuple[np.ndarray, np.ndarray]:
    """Microseconds since 1970 of each value, and a mask of those that are read; 0 elsewhere."""
    us, todo = np.zeros(len(text), np.int64), _valid(text)
    _by_arrow(text, us, todo, _LOCAL, pa.timestamp("us"))
    _by_arrow(text, us, todo, _ZONED, pa.timestamp("us", "UTC"))
    if todo.any():
        plain = text
        for liberty, replacement in _LIBERTIES:
            plain = pc.replace_substring_regex(plain, liberty, replacement)
        _by_arrow(plain, us, todo, _LOCAL, pa.timestamp("us"))
        _by_arrow(plain, us, todo, _ZONED, pa.timestamp("us", "UTC"))
        _one_by_one(text, us, todo, _NAMED, iso=plain)
    return us, _valid(text) & ~todo


def read_format(text: pa.Array, time_format: str) -> tuple[np.ndarray, np.ndarray]:
    """As `read_notations`, by `datetime.strptime` alone."""
    us, todo = np.zeros(len(text), np.int64), _valid(text)
    _one_by_one(text, us, todo, (time_format,))
    return us, _valid(text) & ~todo


def microseconds(moment: datetime) -> int:
    moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return (moment - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)


def advice(text: str) -> str:
    """What to do about a time that is not read; empty where there is nothing to say."""
    if found := _DAY_OR_MONTH.match(text):
        formats = " or ".join(f"'{each}'" for each in _formats(found))
        return f" does not say which is the day: set ingest.time_format to {formats}"
    if _ZONE_NAME.search(text):
        return " names a zone: logs have to write its offset (+01:00) or UTC"
    return ""


def _valid(text: pa.Array) -> np.ndarray:
    return text.is_valid().to_numpy(zero_copy_only=False)


def _formats(found: re.Match[str]) -> list[str]:
    """Formats of a date of two small numbers: both, where the numbers do not tell."""
    first, dash, second, year, gap, seconds, fraction, half = found.groups()
    clock = ""
    if gap:
        clock = gap + ("%I:%M" if half else "%H:%M") + (":%S" if seconds else "")
        clock += (".%f" if fraction else "") + (half[:-2] + "%p" if half else "")
    end = f"{dash}{'%Y' if len(year) == 4 else '%y'}{clock}"
    month_first, day_first = f"%m{dash}%d{end}", f"%d{dash}%m{end}"
    if int(first) > 12:
        return [day_first]
    return [month_first] if int(second) > 12 else [month_first, day_first]


def _by_arrow(
    text: pa.Array, us: np.ndarray, todo: np.ndarray, pattern: str, kind: pa.DataType
) -> None:
    """Fill `us` where `pattern` matches and clear `todo` there, all at once or not at all."""
    matches = pc.match_substring_regex(text, pattern).fill_null(False)
    matched = todo & matches.to_numpy(zero_copy_only=False)
    if matched.any():
        try:
            us[matched] = text.filter(pa.array(matched)).cast(kind).cast(pa.int64())
            todo[matched] = False
        except pa.ArrowInvalid:
            pass  # a 13th month somewhere: one by one


def _one_by_one(
    text: pa.Array,
    us: np.ndarray,
    todo: np.ndarray,
    formats: tuple[str, ...],
    iso: pa.Array | None = None,
) -> None:
    """Fill `us` and clear `todo` where one of `formats` fits (a file mostly has one of them), or
    ISO 8601 the text in `iso`."""
    known: dict[str, int | None] = {}
    order = list(formats)
    for at in np.flatnonzero(todo):
        value = text[int(at)].as_py()
        if value not in known:
            found = None if iso is None else _parse_iso(iso[int(at)].as_py())
            plain = value if iso is None else _UTC_NAME.sub("+0000", _ASIDE.sub("", value))
            known[value] = _parse(plain, order) if found is None else found
        if known[value] is not None:
            us[at], todo[at] = known[value], False


def _parse_iso(text: str) -> int | None:
    try:
        return _in_64_bits(datetime.fromisoformat(text))
    except ValueError:
        return None


def _parse(text: str, formats: list[str]) -> int | None:
    """Microseconds, or None; the format that fits moves to the front."""
    for place, each in enumerate(formats):
        try:
            found = _in_64_bits(datetime.strptime(text, each))
        except (ValueError, re.error, LookupError):
            continue
        formats.insert(0, formats.pop(place))
        return found
    return None


def _in_64_bits(moment: datetime) -> int | None:
    try:
        return microseconds(moment)
    except OverflowError:  # the year 1, east of Greenwich
        return None
