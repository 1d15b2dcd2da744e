"""Lines to records (name: value), for the formats whose files are lines: text and JSON.

A record has the number of its line; where a line holds several, they count on from it, so
that numbers ascend and are unique within a file.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from itertools import accumulate, chain
from typing import Any

from llmaug.core.sources import Source
from llmaug.ingest.layout import Layout, Refused
from llmaug.ingest.lines import Stream, lines

Record = tuple[int, dict[str, Any]]
_DECODER = json.JSONDecoder()
_SPACE = " \t\r\n"
_PARTS = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*"?|[\[\]{}]')  # strings, whole or torn; brackets
MAX_DOCUMENT_LINES = 100_000  # of one value that is spread over lines


def text_records(stream: Stream, source: Source, layout: Layout) -> Iterator[Record | Refused]:
    """Named groups of `pattern` in each line."""
    pattern = layout.pattern()
    for number, text in lines(stream, layout):
        if isinstance(text, Refused):
            yield text
            continue
        try:
            match = pattern.search(text)
        except TimeoutError as error:
            yield Refused(number, "pattern_timeout", str(error))
            continue
        if match is not None:
            yield number, match.groupdict()
        else:
            yield Refused(number, "pattern_mismatch", f"{len(text)} characters")


def json_records(stream: Stream, source: Source, layout: Layout) -> Iterator[Record | Refused]:
    """Objects: one a line, several a line, the elements of an array, or spread over lines
    (where the first line does not end its value)."""
    last = 0
    for number, value in _json_values(lines(stream, layout), layout):
        number = max(number, last + 1)
        last = number
        yield value._replace(row=number) if isinstance(value, Refused) else (number, value)


def _json_values(
    numbered: Iterator[tuple[int, str | Refused]], layout: Layout
) -> Iterator[tuple[int, Any]]:
    first = next(numbered, None)
    if first is None:
        return
    if isinstance(first[1], str) and _opens_a_document(first[1]):
        yield from _document(chain([first], numbered), layout)
        return
    for number, text in chain([first], numbered):
        if isinstance(text, Refused):
            yield number, text
            continue
        halves = _may_have_halves(text)
        try:
            found = json.loads(text)
        except json.JSONDecodeError as error:
            for value in _several(text, error):
                yield number, value if isinstance(value, Refused) else _checked(value, halves)
            continue
        except (ValueError, RecursionError) as error:  # digits without end, nesting without end
            yield number, Refused(number, "bad_json", type(error).__name__)
            continue
        for value in found if isinstance(found, list) and _all_objects(found) else [found]:
            yield number, _checked(value, halves)


def _several(text: str, error: json.JSONDecodeError) -> Iterator[Any]:
    """The objects that stand on one line after each other, then what is wrong with the rest."""
    if error.msg != "Extra data":
        yield Refused(0, "bad_json", _why(text, error))
        return
    at = 0
    while at < len(text):
        try:
            value, at = _DECODER.raw_decode(text, at)
        except (ValueError, RecursionError) as wrong:
            is_syntax = isinstance(wrong, json.JSONDecodeError)
            detail = _why(text, wrong) if is_syntax else type(wrong).__name__  # type: ignore[arg-type]
            yield Refused(0, "bad_json", detail)
            return
        yield value
        while at < len(text) and text[at] in _SPACE + ",":
            at += 1


def _opens_a_document(text: str) -> bool:
    """Does the first line begin a value that it does not end (and is not torn in a string)?"""
    if not text.lstrip().startswith(("{", "[")):
        return False
    try:
        _DECODER.raw_decode(text.strip())
    except json.JSONDecodeError as error:
        return error.pos >= len(text.strip()) and not error.msg.startswith("Unterminated")
    except (ValueError, RecursionError):
        return False
    return False


def _document(
    numbered: Iterator[tuple[int, str | Refused]], layout: Layout
) -> Iterator[tuple[int, Any]]:
    """Values that are spread over lines: one array, or objects one after another. After
    something that is no JSON, reading goes on at the next line that begins an object."""
    held, start, size = "", 0, 0  # text not yet decoded, its first line, its lines
    depth, tried = 0, 0  # brackets open at its end, its length when it was last found unfinished
    for number, text in numbered:
        if isinstance(text, Refused):
            yield number, text
            continue
        if not held:
            text = text[_skip(text, 0) :]  # an array's bracket is none of its objects'
            start, size, depth, tried = number, 0, 0, 0
        held += text + "\n"
        size += 1
        lowest, depth = _depths(text, depth)
        # Not at every line that may end a value, which would take the square of the lines. But
        # one that was torn leaves its brackets open for ever.
        may_be_torn = len(held) >= 2 * tried and text.rstrip().endswith(("}", "},", "]"))
        if lowest <= 0 or may_be_torn or size > MAX_DOCUMENT_LINES:
            at = 0
            while True:
                at = _skip(held, at)
                if at == len(held):
                    held = ""
                    break
                try:
                    value, end = _DECODER.raw_decode(held, at)
                except json.JSONDecodeError as error:
                    too_long = size > MAX_DOCUMENT_LINES or len(held) > layout.files.max_line_bytes
                    if error.pos < len(held.rstrip()) or too_long:
                        why = _why(held, error)
                        for line in range(start, number + 1):
                            yield line, Refused(line, "bad_json", why)
                        held = ""
                    else:
                        held = held[at:]
                        depth, tried = _depths(held, 0)[1], len(held)
                    break
                except (ValueError, RecursionError) as error:
                    yield start, Refused(start, "bad_json", type(error).__name__)
                    held = ""
                    break
                yield start, _checked(value, _may_have_halves(held[at:end]))
                at, start = end, number
    if held.strip(_SPACE + "[],"):
        yield start, Refused(start, "bad_json", "the file ends within a value")


def _skip(text: str, at: int) -> int:
    """Past blanks, commas and the brackets of an array of objects."""
    while at < len(text) and text[at] in _SPACE + "[],":
        at += 1
    return at


def _depths(text: str, depth: int) -> tuple[int, int]:
    """How many brackets are open in `text` where they are fewest, and at its end, after `depth`
    that were open before it. Those in strings do not count."""
    steps = [1 if part in "[{" else -1 for part in _PARTS.findall(text) if part in "[]{}"]
    depths = list(accumulate(steps, initial=depth))
    return min(depths[1:] or depths), depths[-1]


def _all_objects(values: list[Any]) -> bool:
    return bool(values) and all(isinstance(value, dict) for value in values)


def _may_have_halves(text: str) -> bool:
    """Does JSON text hold an escape of half a surrogate pair, or of a whole one?"""
    return "\\ud" in text.lower()


def _checked(value: Any, may_have_halves: bool) -> Any:
    """`value` when it is an object that can be stored, else Refused."""
    if not isinstance(value, dict):
        return Refused(0, "bad_json", f"a {type(value).__name__}, not an object")
    if may_have_halves and not _encodes(value):
        return Refused(0, "bad_json", "half of a surrogate pair (\\ud800)")
    return value


def odd_field(ours: str, theirs: str, value: Any, where: str) -> str | None:
    """What is wrong with a field that must be text or an integer, or a time."""
    if isinstance(value, dict) and value:
        key = next(iter(value))
        return f"{theirs} is an object: set {where}.columns.{ours}: {theirs}.{key}"
    if isinstance(value, list):
        return f"{theirs} is a list: set {where}.explode to read an event for each element"
    if ours == "timestamp" and not isinstance(value, dict):
        return None
    kind = "boolean" if isinstance(value, bool) else type(value).__name__
    return f"{theirs} is a {kind}, not a string or integer"


def _why(text: str, error: json.JSONDecodeError) -> str:
    at = f"{error.msg} at character {error.colno}"
    start = text.lstrip()[:2]
    if start[:1] == "{" and ("{'" in text[:200] or ": None" in text or ": True" in text):
        return f"{at}: a Python literal; write it with json.dumps"
    return at


def _encodes(record: Any) -> bool:
    try:
        return bool(json.dumps(record, ensure_ascii=False).encode())
    except UnicodeEncodeError:
        return False
