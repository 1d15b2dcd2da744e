"""Task `custom`: a template and a JSON schema of a user's own, without code.

Each property of the answer becomes a column, beside the id of the item or user. A judge is a
second question, about each answer that passed the filters: those that it scores too low go.
"""

from __future__ import annotations

import json
import re
from dataclasses import replace
from functools import partial
from typing import Any

import pyarrow as pa
from pydantic import BaseModel, ConfigDict, Field

from llmaug.config import CustomConfig, JudgeConfig, TextConfig
from llmaug.schema import SYNTHETIC
from llmaug.text.cleaning import one_line
from llmaug.text.task import Answer, Row, Task, read_by_schema, read_json, schema_of

_TYPES = {
    "string": pa.string(), "integer": pa.int64(), "number": pa.float64(), "boolean": pa.bool_(),
}  # fmt: skip
# Dates, numbers, codes: a string that has to fit a pattern, or a name, may be one and no text.
_CODE = re.compile(r"[\w.:/+-]+", re.ASCII)


class Score(BaseModel):
    """What a judge says."""

    model_config = ConfigDict(extra="forbid")

    score: int = Field(ge=1, le=5)


def task(text: TextConfig, config: CustomConfig) -> Task:
    schema = {
        **config.json_schema,
        "required": list(config.json_schema["properties"]),
        "additionalProperties": False,
    }
    common: dict[str, Any] = {
        "table": f"ingest/{config.table}",
        "rows": items if config.table == "items" else users,
        "language": config.language,
        "max_field_tokens": config.max_field_tokens,
        "constants": {},
    }
    own = Task(
        name=config.name,
        template=config.template,
        schema=schema,
        parse=partial(_parse, schema),
        texts=partial(_texts, schema),
        sampling=config,
        max_new_tokens=config.max_new_tokens,
        max_rows=config.max_rows,
        sink=columns_of(schema, config.table),
        to_row=partial(to_row, schema),
        **common,
    )
    return own if config.judge is None else _judged(own, config.judge, common)


def _judged(own: Task, judge: JudgeConfig, common: dict[str, Any]) -> Task:
    asked = Task(
        name=f"{own.name}/judge",
        template=judge.template,
        schema=schema_of(Score),
        parse=_score,
        texts=lambda answer: [],
        accepts=partial(_too_low, judge.min_score),
        sampling=judge,
        max_new_tokens=16,
        about=own,
        **common,
    )
    return replace(own, judge=asked)


def items(table: pa.Table) -> list[Row]:
    names = ("item_id", "title", "description", "tags", "price")
    return [
        Row({name: row[name] if row[name] is not None else "" for name in names}, row["item_id"])
        for row in table.sort_by("item_id").to_pylist()
    ]


def users(table: pa.Table) -> list[Row]:
    rows = sorted(table.to_pylist(), key=lambda row: row["user_id"])
    return [
        Row({"user_id": row["user_id"], "attributes": dict(row["attributes"] or ())},
            user_id=row["user_id"])
        for row in rows
    ]  # fmt: skip


def columns_of(schema: dict[str, Any], table: str) -> pa.Schema:
    """The id, a column for each property (text, number or truth value; JSON for what is neither),
    and `origin`."""
    properties = schema["properties"].items()
    return pa.schema(
        [
            pa.field("item_id" if table == "items" else "user_id", pa.string(), nullable=False),
            *(
                pa.field(name, _TYPES.get(_type(own) or "", pa.string()))
                for name, own in properties
            ),
            pa.field("origin", pa.string(), nullable=False),
        ]
    )


def to_row(schema: dict[str, Any], row: Row, answer: Answer) -> dict[str, Any]:
    key = "user_id" if row.item_id is None else "item_id"
    plain = {name: _plain(answer[name], _type(own)) for name, own in schema["properties"].items()}
    return {key: row.item_id or row.user_id, **plain, "origin": SYNTHETIC}


def _type(own: dict[str, Any]) -> str | None:
    """Of a property, None where it may have several; choices between strings need not say that
    they are some."""
    words, kind = [isinstance(each, str) for each in own.get("enum", ())], own.get("type")
    if words and all(words):
        return "string"
    return kind if isinstance(kind, str) else None


def _plain(value: Any, kind: str | None) -> Any:
    """A string in one line; what has no column type of its own as JSON."""
    if kind not in _TYPES:
        return json.dumps(value, ensure_ascii=False)
    return one_line(value) if isinstance(value, str) else value


def _parse(schema: dict[str, Any], text: str) -> Answer:
    """Raises ValueError for numbers that their columns cannot hold, too."""
    answer = read_by_schema(schema, text)
    for name, own in schema["properties"].items():
        if _type(own) == "integer" and not -(2**63) <= answer[name] < 2**63:
            raise ValueError(f"{name} is no integer of 64 bits")
        if _type(own) == "number":
            try:
                answer[name] = float(answer[name])
            except OverflowError as error:
                raise ValueError(f"{name}: {error}") from error
    return answer


def _texts(schema: Any, value: Any) -> list[str]:
    """Strings that the schema leaves free, at any depth, and names that it does not give."""
    own = schema if isinstance(schema, dict) else {}
    if "enum" in own or "const" in own:
        return []
    if isinstance(value, str):
        return [] if "pattern" in own and _CODE.fullmatch(value) else [value]
    if isinstance(value, list):
        return [text for inner in value for text in _texts(own.get("items"), inner)]
    if isinstance(value, dict):
        given, others = own.get("properties", {}), own.get("additionalProperties")
        names = [name for name in value if name not in given and not _CODE.fullmatch(name)]
        texts = (_texts(given.get(name, others), inner) for name, inner in value.items())
        return names + [text for found in texts for text in found]
    return []


def _score(text: str) -> Answer:
    return Score.model_validate(read_json(text)).model_dump()


def _too_low(min_score: int, row: Row, answer: Answer) -> str | None:
    return "low_score" if answer["score"] < min_score else None
