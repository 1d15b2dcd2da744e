"""Columns as they come to text, numbers and times, with masks of what is wrong in them.

Vectorised: Python looks only at text that is not UTF-8 and at times in unusual notation.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from llmaug.errors import UserError

MICROSECONDS = {"s": 1_000_000, "ms": 1_000, "us": 1}
NUMBER = r"^\s*[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?\s*$"
_CLOCK = r"[T ]\d{2}:\d{2}(:\d{2}([.]\d{1,6})?)?"
ISO_LOCAL = rf"^\d{{4}}-\d{{2}}-\d{{2}}({_CLOCK})?$"
ISO_ZONED = rf"^\d{{4}}-\d{{2}}-\d{{2}}{_CLOCK}(Z|[+-]\d{{2}}(:?\d{{2}})?)$"


class Times(NamedTuple):
    """Timestamps of a piece as microseconds since 1970, with what is wrong with the others."""

    us: np.ndarray  # (rows,) int64; 0 where one of the masks is set
    null: np.ndarray  # (rows,) bool
    bad: np.ndarray
    beyond: np.ndarray  # does not fit 64 bits


def text_column(column: pa.ChunkedArray, name: str, file: str) -> tuple[pa.Array, np.ndarray]:
    """`column` as strings, blank ones null; and a mask of the rows that are not UTF-8.

    Raises UserError when it holds neither text nor integers.
    """
    kind = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
    if pa.types.is_integer(kind) or pa.types.is_null(kind):
        return _array(column.cast(kind).cast(pa.string())), np.zeros(len(column), bool)
    if not (is_text(kind) or _is_binary(kind)):
        raise UserError(
            f"{file}: column '{name}' is {column.type}, neither text nor integer; convert it, or "
            "name another column in the columns of the config"
        )
    raw = _array(column.cast(kind).cast(pa.binary()))
    broken = np.zeros(len(raw), bool)
    try:
        text = raw.cast(pa.string())  # checks UTF-8; Parquet readers do not
    except pa.ArrowInvalid:
        broken = np.array([not _is_utf8(value.as_py()) for value in raw], bool)
        text = pc.if_else(pa.array(broken), pa.scalar(None, raw.type), raw).cast(pa.string())
    blank = pc.equal(pc.utf8_trim_whitespace(text), "")
    return pc.if_else(blank, pa.scalar(None, pa.string()), text), broken


def number_column(column: pa.ChunkedArray, name: str, file: str) -> tuple[pa.Array, np.ndarray]:
    """`column` as float32 (NaN and blank are null); and a mask of what is no finite number."""
    kind = column.type
    if is_text(kind) or pa.types.is_dictionary(kind) or _is_binary(kind):
        text, bad = text_column(column, name, file)
        nan = mask_of(pc.equal(pc.utf8_lower(text), "nan"))
        numeric = mask_of(pc.match_substring_regex(text, NUMBER))
        bad = bad | (~numeric & ~nan & mask_of(pc.is_valid(text)))
        text = pc.if_else(
            pa.array(numeric), pc.utf8_trim_whitespace(text), pa.scalar(None, pa.string())
        )
        wide = text.cast(pa.float64())
    elif pa.types.is_null(kind) or _is_number(kind):
        wide, bad = _array(column).cast(pa.float64(), safe=False), np.zeros(len(column), bool)
    else:
        raise UserError(f"{file}: column '{name}' is {kind}, not a number; convert it")
    wide = pc.if_else(pc.is_nan(wide), pa.scalar(None, pa.float64()), wide)
    value = wide.cast(pa.float32(), safe=False)
    bad = bad | ~mask_of(pc.fill_null(pc.is_finite(value), True))
    return value, bad


def parse_times(
    column: pa.ChunkedArray, unit: str | None, file: str, setting: str = "ingest.timestamp_unit"
) -> Times:
    """Timestamps, dates, ISO 8601 text, or numbers in `unit`; what has no zone is UTC.

    `setting` is what sets the unit, for messages.
    Raises UserError when there are numbers and no unit, or the type has no time in it.
    """
    kind = column.type
    array = _array(column)
    if pa.types.is_date(kind):
        array = array.cast(pa.timestamp("ms" if kind == pa.date64() else "s"))
    if pa.types.is_timestamp(array.type):
        return _from_integers(array.cast(pa.int64()), array.type.unit)
    if pa.types.is_integer(kind) or pa.types.is_floating(kind):
        if unit is None:
            raise _no_unit(file, str(kind).replace("double", "float64"), setting)
        if pa.types.is_integer(kind):
            return _from_integers(array.cast(pa.int64(), safe=False), unit)
        return _from_floats(array.cast(pa.float64()), unit)
    if not (is_text(kind) or _is_binary(kind) or pa.types.is_dictionary(kind) or kind == pa.null()):
        raise UserError(
            f"{file}: column 'timestamp' is {kind}, not a time; use timestamps, ISO 8601 text or "
            f"numbers with {setting}"
        )
    text, broken = text_column(column, "timestamp", file)
    return _from_text(pc.utf8_trim_whitespace(text), broken, unit, file, setting)


# -- times -------------------------------------------------------------------------------


def _from_text(
    text: pa.Array, broken: np.ndarray, unit: str | None, file: str, setting: str
) -> Times:
    null = mask_of(pc.is_null(text)) & ~broken
    us, bad, beyond = np.zeros(len(text), np.int64), broken.copy(), np.zeros(len(text), bool)
    numeric = mask_of(pc.match_substring_regex(text, NUMBER))
    if numeric.any() and unit is None and (numeric | null | broken).all():
        raise _no_unit(file, "numbers", setting)
    if numeric.any() and unit is not None:
        digits = text.filter(pa.array(numeric))
        try:
            found = _from_integers(digits.cast(pa.int64()), unit)
        except pa.ArrowInvalid:  # fractions, exponents, or past 64 bits
            found = _from_floats(digits.cast(pa.float64()), unit)
        us[numeric], beyond[numeric] = found.us, found.beyond
    elif numeric.any():
        bad |= numeric
    rest = ~numeric & ~null & ~broken
    for pattern in (ISO_LOCAL, ISO_ZONED):
        matched = rest & mask_of(pc.match_substring_regex(text, pattern))
        if matched.any():
            kind = pa.timestamp("us", "UTC" if pattern == ISO_ZONED else None)
            try:
                us[matched] = text.filter(pa.array(matched)).cast(kind).cast(pa.int64())
                rest &= ~matched
            except pa.ArrowInvalid:
                pass  # a 13th month somewhere: one by one below
    for at in np.flatnonzero(rest):
        try:
            us[at] = microseconds(datetime.fromisoformat(text[int(at)].as_py()))
        except (ValueError, OverflowError):
            bad[at] = True
    return Times(us, null, bad, beyond)


def _from_integers(array: pa.Array, unit: str) -> Times:
    null = mask_of(pc.is_null(array))
    raw = array.fill_null(0).to_numpy(zero_copy_only=False)
    if unit == "ns":
        return Times(raw // 1_000, null, np.zeros(len(raw), bool), np.zeros(len(raw), bool))
    factor = MICROSECONDS[unit]
    limit = np.iinfo(np.int64).max // factor
    beyond = (raw > limit) | (raw < -limit)
    return Times(np.where(beyond, 0, raw) * factor, null, np.zeros(len(raw), bool), beyond)


def _from_floats(array: pa.Array, unit: str) -> Times:
    raw = array.fill_null(np.nan).to_numpy(zero_copy_only=False)
    null = np.isnan(raw)
    scaled = np.where(null, 0.0, raw) * (1e-3 if unit == "ns" else MICROSECONDS[unit])
    beyond = ~(np.abs(scaled) < 2.0**62)
    us = np.where(beyond, 0, scaled).round().astype(np.int64)
    return Times(us, null, np.zeros(len(raw), bool), beyond)


def _no_unit(file: str, kind: str, setting: str) -> UserError:
    has = "holds numbers" if kind == "numbers" else f"is {kind}"
    return UserError(
        f"{file}: column 'timestamp' {has} without a unit; set {setting} (s, ms, us, ns)"
    )


def microseconds(moment: datetime) -> int:
    moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return (moment - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)


# -- Arrow -------------------------------------------------------------------------------


def _array(column: pa.ChunkedArray) -> pa.Array:
    array = column.combine_chunks()
    return pa.concat_arrays(array.chunks) if isinstance(array, pa.ChunkedArray) else array


def mask_of(array: pa.Array) -> np.ndarray:
    return array.fill_null(False).to_numpy(zero_copy_only=False)


def is_text(kind: pa.DataType) -> bool:
    return pa.types.is_string(kind) or pa.types.is_large_string(kind) or kind == pa.string_view()


def _is_binary(kind: pa.DataType) -> bool:
    return pa.types.is_binary(kind) or pa.types.is_large_binary(kind)


def _is_number(kind: pa.DataType) -> bool:
    return pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind)


def _is_utf8(value: bytes | None) -> bool:
    try:
        return value is None or bool(value.decode("utf-8") or True)
    except UnicodeDecodeError:
        return False
