"""A task of one's own: what a config may say, and what becomes of the answers."""

from __future__ import annotations

import json
from typing import Any

import pyarrow as pa
import pytest

from llmaug.config import parse_config
from llmaug.errors import UserError
from llmaug.schema import USER
from llmaug.text.task import Row, Task, task_of
from tests.text.chat import items

SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "mood": {"type": "string", "enum": ["glad", "sad"]},
        "why": {"type": "string", "maxLength": 60},
        "age": {"type": "integer", "minimum": 0},
        "for": {"type": "array", "items": {"type": "string"}},
    },
}
MOOD = {"kind": "custom", "name": "mood", "template": "{{ title }}?", "json_schema": SCHEMA}


def config(*tasks: dict[str, Any], **more: Any) -> Any:
    tables = {name: {"path": "logs"} for name in ("items", "users")}
    return parse_config(
        {"ingest": tables, "text": {"folder": "chat", "tasks": list(tasks), **more}}
    )


def task(**fields: Any) -> Task:
    text = config({**MOOD, **fields}).text
    return task_of(text, text.tasks[0])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"template": "{% if %}"}, r"template: line 1: Expected an expression"),
        ({"judge": {"template": "{{ }"}}, r"judge.template: line 1: "),
        ({"json_schema": {"type": "text"}}, r"json_schema: no JSON schema: 'text' is not valid"),
        ({"json_schema": {"type": "array"}}, r"the answer is an object"),
        ({"json_schema": {**SCHEMA, "$ref": "http://x"}}, r"\$ref is not followed"),
        ({"json_schema": {"type": "object", "properties": {"item_id": {}}}}, r"becomes a column"),
        ({"json_schema": {"type": "object", "properties": {"a b": {}}}}, r"becomes a column"),
        (
            {"json_schema": {"type": "object", "properties": {"why": True}}},
            r"'why' is True: say what",
        ),
        ({"name": "../x"}, r"cannot be a folder's name"),
        ({"tabel": "users"}, r"unknown key; did you mean 'table'"),
        ({"max_new_tokens": 1000}, r"more than half of text.context_len"),
        ({"kind": "describe"}, r"no text task is called 'describe': did you mean 'describe_items'"),
    ],
)
def test_mistakes_are_told_before_anything_runs(change: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        config({**MOOD, **change})


def test_tasks_do_not_share_a_folder_and_need_a_model() -> None:
    with pytest.raises(UserError, match="two are called mood"):
        config(MOOD, MOOD)
    with pytest.raises(UserError, match="`model` is the folder"):
        config({**MOOD, "name": "model"})
    with pytest.raises(UserError, match="text.endpoint is missing: text.engine is openai"):
        config(MOOD, engine="openai")
    with pytest.raises(UserError, match="an address that begins with http"):
        config(MOOD, engine="openai", endpoint={"base_url": "localhost", "model": "m"})


def test_a_task_needs_its_table() -> None:
    with pytest.raises(UserError, match="mood asks about items, .* set ingest.items"):
        parse_config({"text": {"folder": "chat", "tasks": [MOOD]}})


def test_each_property_becomes_a_column() -> None:
    mood = task()
    assert {field.name: str(field.type) for field in mood.sink or ()} == {
        "item_id": "string", "mood": "string", "why": "string", "age": "int64", "for": "string",
        "origin": "string",
    }  # fmt: skip
    [row] = mood.rows(items(["A film"]))
    answer = mood.parse('{"mood": "sad", "why": "it rains", "age": 12, "for": ["all"]}')
    assert mood.to_row(row, answer) == {
        "item_id": "i00", "mood": "sad", "why": "it rains", "age": 12, "for": '["all"]',
        "origin": "synthetic",
    }  # fmt: skip
    assert mood.texts(answer) == ["it rains", "all"]  # a choice is no free text


def test_what_may_be_missing_is_a_column_of_json() -> None:
    """A column cannot tell a missing text from one that says "null"; JSON can."""
    own = task(json_schema={"type": "object", "properties": {"why": {"type": ["string", "null"]}}})
    made = [own.to_row(Row({}, "i00"), own.parse(said)) for said in
            ('{"why": null}', '{"why": "null"}', '{"why": "it rains"}')]  # fmt: skip
    rows = pa.Table.from_pylist(made, schema=own.sink)
    assert rows["why"].to_pylist() == ["null", '"null"', '"it rains"']
    assert own.texts(own.parse('{"why": "it rains"}')) == ["it rains"]


def test_free_text_is_found_at_any_depth() -> None:
    own = task(json_schema={"type": "object", "properties": {
        "when": {"type": "string", "pattern": "^.{4,40}$"},
        "steps": {"type": "array", "items": {"type": "object", "properties": {
            "kind": {"enum": ["warm", "cold"]}, "say": {"type": "string"}}}},
        "more": {"type": "object"},
        "moods": {"type": "object", "additionalProperties": {"enum": ["glad", "sad"]}},
        "any": {"anyOf": [{"type": "string"}, {"type": "null"}]},
    }})  # fmt: skip
    answer = {
        "when": "after the rain", "steps": [{"kind": "warm", "say": "stir it"}],
        "more": {"left open": ["one", {"n": "two"}]}, "moods": {"u1": "glad"}, "any": "three",
    }  # fmt: skip
    assert sorted(own.texts(own.parse(json.dumps(answer)))) == [
        "after the rain", "left open", "one", "stir it", "three", "two"
    ]  # fmt: skip
    # What a pattern asks for may be a date or a code: no text, which would be refused as empty.
    assert own.texts({"when": "1994-05-03"}) == own.texts({"when": "B-7"}) == []


@pytest.mark.parametrize(
    "said", ['{"mood": "sad"}', '{"mood": "mad", "why": "", "age": 1, "for": []}', "null", "{"]
)
def test_an_answer_is_by_the_schema_whoever_gave_it(said: str) -> None:
    with pytest.raises(ValueError):
        task().parse(said)


@pytest.mark.parametrize(
    ("said", "kept"),
    [
        ('{"year": 1994.0, "score": 7, "why": "fun", "more": 2.0}', (1994, 7.0, "fun", "2")),
        ('{"year": 1, "score": 19941994199419941994, "why": "", "more": [1e30]}',
         (1, 19941994199419941994.0, "", f"[{int(1e30)}]")),
        ('{"year": 1, "score": 0, "why": "fun \\ud83d", "more": {"\\udc00": "\\ud83d"}}',
         (1, 0.0, "fun \ufffd", '{"\ufffd": "\ufffd"}')),
        ('{"year": 199419941994199419941994, "score": 1, "why": "", "more": 1}', None),
        ('{"year": 1e30, "score": 1, "why": "", "more": 1}', None),
        (f'{{"year": 1, "score": {"9" * 400}, "why": "", "more": 1}}', None),
        (f'{{"year": 1, "score": 1, "why": "", "more": {"[" * 200}{"]" * 200}}}', None),
    ],
    ids=["1.0", "large", "half_a_character", "65_bits", "1e30", "no_float", "nested"],
)  # fmt: skip
def test_an_odd_answer_is_kept_or_refused_and_stops_nothing(said: str, kept: Any) -> None:
    """What is accepted has to fit into the columns: the next stage writes it, each night again."""
    own = task(json_schema={"type": "object", "properties": {
        "year": {"type": "integer"}, "score": {"type": "number", "multipleOf": 0.5},
        "why": {"type": "string"}, "more": {},
    }})  # fmt: skip
    if kept is None:
        with pytest.raises(ValueError):
            own.parse(said)
        return
    answer = json.loads(json.dumps(own.parse(said), ensure_ascii=False).encode())
    rows = [own.to_row(Row({}, "i00"), answer)]
    [row] = pa.Table.from_pylist(rows, schema=own.sink).to_pylist()
    assert tuple(row[name] for name in ("year", "score", "why", "more")) == kept


def test_users_are_asked_about_with_their_attributes() -> None:
    about = task(table="users", template="{{ attributes.age }}")
    rows = [{"user_id": "u2", "attributes": [("age", "30")]}, {"user_id": "u1"}]
    found = about.rows(pa.Table.from_pylist(rows, schema=USER))
    assert [(row.user_id, row.fields["attributes"]) for row in found] == [
        ("u1", {}), ("u2", {"age": "30"})
    ]  # fmt: skip
    assert about.sink is not None and about.sink.names[0] == "user_id"


def test_a_judge_scores_from_1_to_5() -> None:
    judge = task(judge={"template": "{{ answer.why }}", "min_score": 4}).judge
    assert judge is not None and judge.about is not None
    assert judge.accepts(Row({}), judge.parse('{"score": 4}')) is None
    assert judge.accepts(Row({}), judge.parse('{"score": 3}')) == "low_score"
    with pytest.raises(ValueError):
        judge.parse('{"score": 6}')
