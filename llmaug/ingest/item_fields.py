"""The optional columns of a catalogue: texts, tags, prices and times, in the shapes that exporters
give them. A value that is of no use is null; its row keeps the others.
"""

from __future__ import annotations

import ast
import json
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from llmaug.ingest.columns import mask_of, number_column, parse_times, text_column

_Column = tuple[pa.Array, np.ndarray]  # values, and a mask of the bad ones (null there)
BAD = object()
MAX_DEPTH = 8  # of lists in lists


def texts(column: pa.ChunkedArray, name: str, file: str, null_words: Sequence[str]) -> _Column:
    """Strings; lists of them, also written as JSON, are joined by spaces.

    Raises UserError when the type has no text in it.
    """
    if _is_list(column.type):
        values = plain_values(column)
    else:
        text, broken = text_column(column, name, file)
        words = pa.array(null_words, pa.string())
        text = pc.if_else(pc.is_in(text, words), pa.scalar(None, pa.string()), text)
        opened = pc.or_(pc.starts_with(text, "["), pc.starts_with(text, "{"))
        if not mask_of(opened).any():
            return text, broken
        values = [_nested_text(value) for value in text.to_pylist()]
        for at in np.flatnonzero(broken):
            values[at] = BAD
    found = [_joined(value) for value in values]
    bad = [value is BAD for value in found]
    plain = [None if value is BAD else value or None for value in found]
    return pa.array(plain, pa.string()), np.array(bad, bool)


def tags(column: pa.ChunkedArray, name: str, file: str, null_words: Sequence[str]) -> _Column:
    """Lists of strings: from lists, lists written as JSON or by Python, or text split on `|`
    (else on `,`).

    Raises UserError when the type has none of these in it.
    """
    if _is_list(column.type):
        values = plain_values(column)
    else:
        text, broken = text_column(column, name, file)
        values = [_split(value) for value in text.to_pylist()]
        for at in np.flatnonzero(broken):
            values[at] = BAD
    found = [_flat(value) for value in values]
    lists = [
        list(dict.fromkeys(tag for tag in each or () if tag and tag not in null_words))
        for each in found
    ]
    bad = np.array([each is None for each in found], bool)
    return pa.array(lists, pa.list_(pa.string())), bad


def times(column: pa.ChunkedArray, name: str, file: str, null_words: Sequence[str]) -> _Column:
    """Timestamps, dates, or text as the logs have it; no numbers, of which the unit is not known.

    Raises UserError when the type has no time in it.
    """
    fix = f"write {name} as timestamps or ISO 8601 text"
    found = parse_times(column, None, file, f"nothing: {fix}", null_words=null_words)
    known = pa.array(found.us, mask=found.null | found.bad | found.beyond)
    return known.cast(pa.timestamp("us", "UTC")), found.bad | found.beyond


FIELDS: dict[str, Callable[..., _Column]] = {
    "title": texts,
    "description": texts,
    "image_uri": texts,
    "tags": tags,
    "price": number_column,
    "available_from": times,
    "available_until": times,
}


def _nested_text(text: str | None) -> Any:
    """What stands in `text` as a JSON object or a JSON list of strings; else `text`."""
    found = _json(text)
    if isinstance(found, list) and all(isinstance(each, str | None) for each in found):
        return found
    return found if isinstance(found, dict) else text


def _split(text: str | None) -> Any:
    if text is None or not text.startswith("["):
        found: Any = text
    elif (found := _json(text)) is None:
        try:
            found = ast.literal_eval(text)
        except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError):
            found = text.strip("[]")
    return found.split("|" if "|" in found else ",") if isinstance(found, str) else found


def _json(text: str | None) -> Any:
    if text is None or text[0] not in "[{":
        return None
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _joined(value: Any) -> Any:
    """Text, or `BAD` for what has none in it."""
    if isinstance(value, list):
        parts = _flat(value)
        return BAD if parts is None else " ".join(part for part in parts if part)
    return BAD if isinstance(value, dict) and value else value or None


def _flat(value: Any, depth: int = 0) -> list[str] | None:
    """The strings in nested lists; None where there is something else in them."""
    if value is None:
        return []
    if isinstance(value, list | tuple) and depth < MAX_DEPTH:
        inner = [_flat(each, depth + 1) for each in value]
        return None if None in inner else [tag for each in inner for tag in each or ()]
    if not isinstance(value, str | int | float):
        return None
    text = str(value).strip()
    return [text] if text.isascii() or _encodes(text) else None


def _encodes(text: str) -> bool:
    try:
        return bool(text.encode())
    except UnicodeEncodeError:  # half of a surrogate pair, from JSON
        return False


def plain_values(column: pa.ChunkedArray) -> list[Any]:
    """`column` as Python values, `BAD` where Python has none (bytes that are not UTF-8)."""
    try:
        return list(column.to_pylist())
    except (ValueError, OverflowError):
        return [_plain_value(value) for value in column]


def _plain_value(value: pa.Scalar) -> Any:
    try:
        return value.as_py()
    except (ValueError, OverflowError):
        return BAD


def _is_list(kind: pa.DataType) -> bool:
    return (
        pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
    )
