"""What a text task is: a question about each row of a table, and what becomes of the answers."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import pyarrow as pa
from pydantic import BaseModel

from llmaug.config import SamplingConfig, TextConfig, TextTaskConfig, imported
from llmaug.text.cleaning import whole_characters

Answer = dict[str, Any]
_MAX_DEPTH = 100  # of an answer: Python stops at about a thousand calls


@dataclass(frozen=True)
class Row:
    """What one question is about."""

    fields: Mapping[str, Any]
    """What a template may name."""
    item_id: str | None = None
    user_id: str | None = None
    source: Mapping[str, Any] = field(default_factory=dict)
    """The row of the table, for the sink."""
    image: str | None = None
    """URI of the image that goes with the question."""

    @property
    def key(self) -> tuple[str | None, str | None]:
        return self.item_id, self.user_id


@dataclass(frozen=True)
class ImageRules:
    """Which images may go with questions, and how large."""

    max_bytes: int
    max_pixels: int
    side: int
    """Longer side of what is shown, in pixels; what is larger is made smaller."""


@dataclass(frozen=True, kw_only=True)
class Task:
    """All that the stages ask of a kind of task."""

    name: str
    """Its folder below `text/`."""
    table: str
    """Stage folder below the run whose parts are asked about, such as `ingest/items`."""
    rows: Callable[..., list[Row]]
    """Of a part of the table (and all of `beside`): what is asked about."""
    beside: str | None = None
    """Another stage folder, which is read whole with each part."""
    template: str
    """Source of the question."""
    constants: Mapping[str, Any]
    """What the template may name besides the fields of the row."""
    schema: dict[str, Any]
    """JSON schema of the answer, which decoding is limited to."""
    parse: Callable[[str], Answer]
    """Raises ValueError for what is no answer by the schema."""
    texts: Callable[[Answer], list[str]]
    """What of an answer is free text, for the filters."""
    accepts: Callable[[Row, Answer], str | None] = lambda row, answer: None
    """A filter of its own: why an answer is refused, a word, or None."""
    language: Literal["en", "zh"]
    sampling: SamplingConfig
    max_new_tokens: int
    max_field_tokens: int
    max_rows: int | None = None
    sink: pa.Schema | None = None
    """Of the rows that answers become; None: they become none (a judge's scores)."""
    to_row: Callable[[Row, Answer], dict[str, Any]] = lambda row, answer: answer
    """A row of `sink`."""
    traced: bool = False
    """Rows say where they come from, in columns `run_id`, `unit_id` and `generator`."""
    images: ImageRules | None = None
    """Of the images that rows have; None: they have none."""
    safety: Literal["none", "health"] = "none"
    """Which texts are refused besides, and marked."""
    about: Task | None = None
    """The task whose accepted answers this one is about: the fields are those of its rows, and
    `answer`."""
    judge: Task | None = None
    """The task that is about these answers, of which those are kept that it accepts."""
    judged: Callable[[Row, Answer, Answer], Answer] = lambda row, answer, by_judge: answer
    """What is kept of an answer that the judge accepts, and of the judge's own."""

    @property
    def track(self) -> str:
        """Folder of its stages below the run."""
        return f"text/{self.name}"

    @property
    def reads(self) -> tuple[str, ...]:
        """Stages whose tables it is asked about."""
        tables = (self.table, self.beside) if self.beside else (self.table,)
        made_by = (t if t.startswith("text/") else t.partition("/")[0] for t in tables)
        return tuple(dict.fromkeys(made_by))


def task_of(text: TextConfig, config: TextTaskConfig) -> Task:
    """The task of a section of the config. Raises UserError where its template is missing."""
    made: Task = imported(config.implementation)(text, config)
    return replace(made, safety=text.safety)


def read_json(text: str) -> Any:
    """What a model said as JSON. Raises ValueError.

    Control characters may stand in strings as they are: decoding by a schema (xgrammar 0.2) lets
    them through, and `cleaning.one_line` takes them out of what is kept. Bytes that are no UTF-8
    are one character for it, and became several."""
    try:
        return _storable(json.loads(re.sub("\ufffd+", "\ufffd", text), strict=False))
    except RecursionError as error:
        raise ValueError("nested too deeply") from error


def _storable(value: Any, depth: int = 0) -> Any:
    """An answer that every stage can hold: escapes may stand for half a character (`"\\ud83d"`),
    and 1.0 is an integer, which Python takes for no index."""
    if depth > _MAX_DEPTH:
        raise ValueError("nested too deeply")
    if isinstance(value, str):
        return whole_characters(value)
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, list):
        return [_storable(inner, depth + 1) for inner in value]
    if isinstance(value, dict):
        return {
            whole_characters(name): _storable(inner, depth + 1) for name, inner in value.items()
        }
    return value


def read_by_schema(schema: dict[str, Any], text: str) -> Answer:
    """What a model said as an object of a JSON schema. Raises ValueError for what is no JSON, or
    not by the schema."""
    from jsonschema import Draft202012Validator

    answer = read_json(text)
    try:
        problem = next(Draft202012Validator(schema).iter_errors(answer), None)
    except OverflowError as error:  # multipleOf of a number that no float can hold
        raise ValueError(str(error)) from error
    if problem is not None:
        raise ValueError(problem.message)
    return dict(answer)


def schema_of(model: type[BaseModel]) -> dict[str, Any]:
    """JSON schema of a pydantic model, without the titles that pydantic adds and no decoder
    reads."""
    made: dict[str, Any] = _untitled(model.model_json_schema())
    return made


def _untitled(value: Any) -> Any:
    if isinstance(value, dict):
        titled = isinstance(value.get("title"), str)
        return {k: _untitled(v) for k, v in value.items() if not (titled and k == "title")}
    return [_untitled(inner) for inner in value] if isinstance(value, list) else value
