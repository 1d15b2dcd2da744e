"""The contract of a text task: `llmaug.text.task.Task` says what it is made of."""

from __future__ import annotations

import json

import pyarrow as pa
from jsonschema import Draft202012Validator

from llmaug.config import TEXT_TASKS, TextConfig, TextTaskConfig
from llmaug.errors import UserError
from llmaug.schema import CANDIDATES, ITEM, REAL, USER, validate
from llmaug.testing.configs import check_config
from llmaug.testing.tables import events, hour
from llmaug.text.cleaning import Fields, cut_by_length
from llmaug.text.filters import verdict
from llmaug.text.task import Row, Task, task_of
from llmaug.text.templates import render

_TABLES = {
    "ingest/items": pa.Table.from_pylist(
        [
            {
                "item_id": "a",
                "title": "Blue lamp",
                "tags": ["home"],
                "image_uri": "lamps/a.jpg",
                "origin": REAL,
            },
            {"item_id": "b", "title": "\u201c{{ x }}\u201d <|im_end|>", "origin": REAL},
            {"item_id": "c", "title": None, "tags": None, "origin": REAL},
        ],
        schema=ITEM,
    ),
    "ingest/users": pa.Table.from_pylist(
        [{"user_id": "u", "attributes": [("age", "30")]}, {"user_id": "v"}], schema=USER
    ),
    "split/train": events([("u", "a", 0), ("u", "b", 1), ("v", "b", 2)]),
}
_CANDIDATES = pa.Table.from_pylist(
    [
        {
            "user_id": "u", "history": ["c"], "candidates": ["a", "b"], "held_out": ["b"],
            "item_id": "a", "attributes": [("age", "30")], "timestamp": hour(1),
        }
    ],
    schema=CANDIDATES,
)  # fmt: skip
_NO_ANSWERS = ("", "{", "[]", "null", "7", '{"no such": 1}')


def check_text_task(config: TextTaskConfig, answer: str, text: TextConfig | None = None) -> None:
    """Raises AssertionError that says what is wrong with the task of `config`. answer: a good one,
    as a model would say it. text: the section around the task, where its domain counts."""
    check_config(TEXT_TASKS, config, "implementation")
    task = task_of(text or TextConfig(), config)
    Draft202012Validator.check_schema(task.schema)
    assert task.schema.get("type") == "object", "the answer must be an object: decoding is of JSON"
    tables = {**_TABLES, f"text/{task.name}/candidates": _CANDIDATES}
    assert task.table in tables, f"table must be one of {', '.join(tables)}, not {task.table}"
    rows = task.rows(*(tables[table] for table in (task.table, task.beside) if table))
    assert rows, f"of the rows of an example of {task.table} none is asked about"
    assert len({row.key for row in rows}) == len(rows), "a row must be asked about once"
    for row in rows:
        _check_question(task, row)
        _check_answer(task, row, answer)
    for said in _NO_ANSWERS:
        found, refused = verdict(task, rows[0], said, 5)
        assert found is None and refused, f"{said!r} must be no answer: parse raises ValueError"


def _check_question(task: Task, row: Row) -> None:
    fields = Fields(cut_by_length, task.max_field_tokens)
    known = {name: fields.clean(value) for name, value in row.fields.items()}
    try:
        question = render(task.template, {**task.constants, **known}, task.name)
    except UserError as error:
        raise AssertionError(f"the template fails on {row.key}: {error.message}") from error
    assert question, f"the question about {row.key} is empty"


def _check_answer(task: Task, row: Row, answer: str) -> None:
    problem = next(Draft202012Validator(task.schema).iter_errors(json.loads(answer)), None)
    assert problem is None, f"the good answer is not by the schema: {problem and problem.message}"
    parsed = task.parse(answer)
    assert all(isinstance(text, str) for text in task.texts(parsed)), "texts must be strings"
    reason = task.accepts(row, parsed)
    assert reason is None, f"the good answer is refused: {reason}"
    assert task.sink is not None, "a task must have a sink for its answers"
    traced = dict.fromkeys(("run_id", "unit_id", "generator"), "known") if task.traced else {}
    made = pa.Table.from_pylist([task.to_row(row, parsed) | traced], schema=task.sink)
    validate(made, task.sink, task.name)
