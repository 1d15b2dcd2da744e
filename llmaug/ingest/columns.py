"""Columns as they come to text, ids, numbers and times, with masks of what is wrong in them.

Vectorised: Python looks only at text that is not UTF-8 and at times in unusual notation.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from llmaug.errors import UserError
from llmaug.ingest.time_text import read_format, read_notations

MICROSECONDS = {"s": 1_000_000, "ms": 1_000, "us": 1}
NUMBER = r"^[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?$"
SHORT_INTEGER = r"^-?(\d{1,18}|[1-8]\d{18})$"  # fits 64 bits
DATE_DIGITS = r"^(19|20)\d{6}(\d{6})?$"
MARKS = "\ufeff\u200b"  # byte order mark and zero width space: where files were joined or pasted
MAX_ID_BYTES = 1024
MAX_WHOLE = 2.0**53  # floats above it skip integers


class Ids(NamedTuple):
    """Ids of users or items, written one way whatever the files wrote them in."""

    ids: pa.Array  # strings; null where there is none, or one of the masks is set
    not_utf8: np.ndarray  # (rows,) bool
    bad: np.ndarray  # fractions, and whole numbers that floats cannot tell apart
    long: np.ndarray  # more than MAX_ID_BYTES
    null_word: np.ndarray  # a word that stands for nothing


class Times(NamedTuple):
    """Timestamps of a piece as microseconds since 1970, with what is wrong with the others."""

    us: np.ndarray  # (rows,) int64; 0 where one of the masks is set
    null: np.ndarray  # (rows,) bool
    bad: np.ndarray
    beyond: np.ndarray  # does not fit 64 bits


def text_column(column: pa.ChunkedArray, name: str, file: str) -> tuple[pa.Array, np.ndarray]:
    """`column` as strings without blanks around them, blank ones null; and a mask of the rows
    that are not UTF-8. Whole numbers are written without a fraction, whatever their type.

    Raises UserError when it holds neither text nor numbers nor booleans.
    """
    array = _plain(column)
    kind, good = array.type, np.zeros(len(array), bool)
    if pa.types.is_decimal(kind):
        return _decimal_text(array), good
    if pa.types.is_floating(kind):
        array = pc.if_else(pc.is_nan(array), pa.scalar(None, kind), array).cast(pa.float64())
        whole = pc.and_(pc.equal(array, pc.round(array)), pc.less(pc.abs(array), MAX_WHOLE))
        integers = pc.if_else(whole, array, None).cast(pa.int64()).cast(pa.string())
        return pc.if_else(pc.fill_null(whole, True), integers, array.cast(pa.string())), good
    if pa.types.is_integer(kind) or pa.types.is_boolean(kind) or pa.types.is_null(kind):
        return array.cast(pa.string()), good
    if not (is_text(kind) or _is_binary(kind)):
        raise _no_scalar(kind, name, file, "text")
    raw, broken = array.cast(pa.binary()), good
    try:
        text = raw.cast(pa.string())  # checks UTF-8; Parquet readers do not
    except pa.ArrowInvalid:
        broken = np.array([not _is_utf8(value.as_py()) for value in raw], bool)
        text = pc.if_else(pa.array(broken), pa.scalar(None, raw.type), raw).cast(pa.string())
    text = pc.utf8_trim_whitespace(pc.utf8_trim(pc.utf8_trim_whitespace(text), MARKS))
    return pc.if_else(pc.equal(text, ""), pa.scalar(None, pa.string()), text), broken


def id_column(column: pa.ChunkedArray, name: str, file: str, null_words: Sequence[str] = ()) -> Ids:
    """`column` as ids: of users and items, in logs, catalogues and live tables alike.

    Raises UserError when its type has no ids in it.
    """
    array = _plain(column)
    if pa.types.is_boolean(array.type):
        raise _no_scalar(array.type, name, file, "an id")
    text, broken = text_column(column, name, file)
    long = mask_of(pc.greater(pc.binary_length(text), MAX_ID_BYTES))
    bad = np.zeros(len(text), bool)
    if pa.types.is_floating(array.type) or pa.types.is_decimal(array.type):
        bad = ~mask_of(pc.match_substring_regex(text, r"^-?\d+$")) & mask_of(pc.is_valid(text))
    words = mask_of(pc.is_in(text, pa.array(null_words, pa.string())))
    return Ids(_without(text, bad | long | words), broken, bad, long, words)


def number_column(
    column: pa.ChunkedArray, name: str, file: str, null_words: Sequence[str] = ()
) -> tuple[pa.Array, np.ndarray]:
    """`column` as float32 (NaN and blank are null); and a mask of what is no finite number."""
    array = _plain(column)
    kind = array.type
    if is_text(kind) or _is_binary(kind):
        text, bad = text_column(column, name, file)
        lower = pc.utf8_lower(text)
        nothing = mask_of(pc.is_in(text, pa.array(null_words, pa.string())))
        nothing |= mask_of(pc.equal(lower, "nan"))
        numeric = mask_of(pc.match_substring_regex(text, NUMBER))
        truth = mask_of(pc.is_in(lower, pa.array(["true", "false"])))
        bad = bad | (~(numeric | truth | nothing) & mask_of(pc.is_valid(text)))
        wide = pc.if_else(
            pa.array(truth), _without(lower, ~truth).cast(pa.bool_()).cast(pa.float64()),
            _without(text, ~numeric).cast(pa.float64()),
        )  # fmt: skip
    elif pa.types.is_null(kind) or pa.types.is_boolean(kind) or _is_number(kind):
        wide, bad = array.cast(pa.float64(), safe=False), np.zeros(len(array), bool)
    else:
        raise _no_scalar(kind, name, file, "a number")
    wide = pc.if_else(pc.is_nan(wide), pa.scalar(None, pa.float64()), wide)
    value = wide.cast(pa.float32(), safe=False)
    bad = bad | ~mask_of(pc.fill_null(pc.is_finite(value), True))
    return _without(value, bad), bad


def parse_times(
    column: pa.ChunkedArray,
    unit: str | None,
    file: str,
    setting: str = "ingest.timestamp_unit",
    time_format: str | None = None,
    null_words: Sequence[str] = (),
) -> Times:
    """Timestamps, dates, text (by `time_format`, ISO 8601, or a notation that names the month),
    or numbers in `unit`; what has no zone is UTC.

    `setting` is what sets the unit, for messages.
    Raises UserError when there are numbers and no unit, or the type has no time in it.
    """
    array = _plain(column)
    kind = array.type
    if pa.types.is_date(kind):
        array = array.cast(pa.timestamp("ms" if kind == pa.date64() else "s"))
    if pa.types.is_timestamp(array.type):
        return _from_integers(array.cast(pa.int64()), array.type.unit)
    if _is_number(kind) and not (time_format and unit is None):
        if unit is None:
            raise _no_unit(file, str(kind).replace("double", "float64"), setting)
        if pa.types.is_decimal(kind):
            array = _decimal_text(array)
            return _from_text(array, np.zeros(len(array), bool), unit, file, setting, None)
        if pa.types.is_integer(kind):
            return _from_integers(array, unit)
        return _from_floats(array.cast(pa.float64(), safe=False), unit)
    if not (is_text(kind) or _is_binary(kind) or _is_number(kind) or kind == pa.null()):
        fix = f"use timestamps, ISO 8601 text or numbers with {setting}"
        raise _no_scalar(kind, "timestamp", file, "a time", fix)
    text, broken = text_column(column, "timestamp", file)
    text = _without(text, mask_of(pc.is_in(text, pa.array(null_words, pa.string()))))
    return _from_text(text, broken, unit, file, setting, time_format)


# -- times -------------------------------------------------------------------------------


def _from_text(
    text: pa.Array,
    broken: np.ndarray,
    unit: str | None,
    file: str,
    setting: str,
    time_format: str | None,
) -> Times:
    null = mask_of(pc.is_null(text)) & ~broken
    us, beyond = np.zeros(len(text), np.int64), np.zeros(len(text), bool)
    rest = ~null & ~broken
    if time_format is not None:
        us, read = read_format(text, time_format)
        rest &= ~read
    numeric = rest & mask_of(pc.match_substring_regex(text, NUMBER))
    if numeric.any() and unit is None and not (rest & ~numeric).any() and time_format is None:
        dates = pc.match_substring_regex(text.filter(pa.array(numeric)), DATE_DIGITS)
        raise _no_unit(file, "numbers", setting, all(dates.to_pylist()))
    if unit is not None:
        short = numeric & mask_of(pc.match_substring_regex(text, SHORT_INTEGER))
        for part, kind in ((short, pa.int64()), (numeric & ~short, pa.float64())):
            digits = text.filter(pa.array(part)).cast(kind)
            found = (_from_integers if kind == pa.int64() else _from_floats)(digits, unit)
            us[part], beyond[part] = found.us, found.beyond
        rest &= ~numeric
    found_us, read = read_notations(_without(text, ~rest | numeric))
    us[read] = found_us[read]
    return Times(us, null, broken | (rest & ~read), beyond)


def _from_integers(array: pa.Array, unit: str) -> Times:
    null = mask_of(pc.is_null(array))
    raw = array.fill_null(0).to_numpy(zero_copy_only=False)
    limit = np.iinfo(np.int64).max // (1 if unit == "ns" else MICROSECONDS[unit])
    beyond = raw > limit
    beyond |= False if raw.dtype.kind == "u" else raw < -limit
    raw = np.where(beyond, 0, raw).astype(np.int64)
    us = raw // 1_000 if unit == "ns" else raw * MICROSECONDS[unit]
    return Times(us, null, np.zeros(len(raw), bool), beyond)


def _from_floats(array: pa.Array, unit: str) -> Times:
    raw = array.fill_null(np.nan).to_numpy(zero_copy_only=False)
    null = np.isnan(raw)
    with np.errstate(over="ignore"):
        scaled = np.where(null, 0.0, raw) * (1e-3 if unit == "ns" else MICROSECONDS[unit])
    beyond = ~(np.abs(scaled) < 2.0**62)
    us = np.where(beyond, 0, scaled).round().astype(np.int64)
    return Times(us, null, np.zeros(len(raw), bool), beyond)


def _no_unit(file: str, kind: str, setting: str, dates: bool = False) -> UserError:
    has = "holds numbers" if kind == "numbers" else f"is {kind}"
    more = ", or ingest.time_format '%Y%m%d' if they are dates" if dates else ""
    return UserError(
        f"{file}: column 'timestamp' {has} without a unit; set {setting} (s, ms, us, ns){more}"
    )


# -- Arrow -------------------------------------------------------------------------------


def mask_of(array: pa.Array) -> np.ndarray:
    return array.fill_null(False).to_numpy(zero_copy_only=False)


def is_text(kind: pa.DataType) -> bool:
    return pa.types.is_string(kind) or pa.types.is_large_string(kind) or kind == pa.string_view()


def _plain(column: pa.ChunkedArray) -> pa.Array:
    """One array, no dictionary; UUIDs as text."""
    array = column.combine_chunks()
    array = pa.concat_arrays(array.chunks) if isinstance(array, pa.ChunkedArray) else array
    if pa.types.is_dictionary(array.type):
        array = array.dictionary_decode()
    if isinstance(array.type, pa.BaseExtensionType):
        if array.type.extension_name == "arrow.uuid":
            return pa.array([value and str(value) for value in array.to_pylist()], pa.string())
        array = array.storage
    return array


def _without(array: pa.Array, mask: np.ndarray) -> pa.Array:
    """`array` with nulls where `mask` is set."""
    return pc.if_else(pa.array(mask), pa.scalar(None, array.type), array)


def _decimal_text(array: pa.Array) -> pa.Array:
    """Without exponents, and without fractions that are nothing but zeros."""
    if array.type.scale < 0:
        array = array.cast(pa.decimal256(76, 0))
    text = array.cast(pa.string())
    if array.type.scale > 0:
        text = pa.array(
            [each if each is None else f"{each:f}" for each in array.to_pylist()], pa.string()
        )
        text = pc.replace_substring_regex(text, r"[.]0+$", "")
    return text


def _no_scalar(
    kind: pa.DataType,
    name: str,
    file: str,
    what: str,
    fix: str = "convert it, or name another column (or null) in the columns of the config",
) -> UserError:
    if pa.types.is_struct(kind) and kind.num_fields:
        inner = kind.field(0).name
        fix = f"name the field of it in the columns of the config, such as {name}: {name}.{inner}"
    return UserError(f"{file}: column '{name}' is {kind}, not {what}; {fix}")


def _is_binary(kind: pa.DataType) -> bool:
    return (
        pa.types.is_binary(kind)
        or pa.types.is_large_binary(kind)
        or pa.types.is_fixed_size_binary(kind)
        or kind == pa.binary_view()
    )


def _is_number(kind: pa.DataType) -> bool:
    return pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind)


def _is_utf8(value: bytes | None) -> bool:
    try:
        return value is None or bool(value.decode("utf-8") or True)
    except UnicodeDecodeError:
        return False
