"""What came of the questions about the rows of a table, for whoever reads on."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import Any

import pyarrow as pa

from llmaug.core.storage import Storage
from llmaug.plan.parts import read_parts
from llmaug.schema import ACCEPTED
from llmaug.text.task import Answer, Row, Task


@dataclass(frozen=True)
class Said:
    """What came of the question about a row."""

    status: str
    reason: str | None
    answer: Answer | None
    unit_id: str


def answers_of(storage: Storage, track: str, part: str) -> dict[Any, Said]:
    """{(item id, user id): what came of the question}, about one part of the table. track: folder
    of the task's stages."""
    there = set(storage.parts(f"{track}/filtered"))
    asked = read_parts(storage, f"{track}/plan")
    return {
        (row["item_id"], row["user_id"]): Said(
            row["status"],
            row["reason"],
            row["answer"] and json.loads(row["answer"]),
            row["unit_id"],
        )
        for each in asked
        if each.train_part == part and each.name in there
        for row in storage.read_part(f"{track}/filtered", each.name).to_pylist()
    }


def table_rows(storage: Storage, task: Task, run_folder: str, part: str) -> list[Row]:
    """What of a part of its table a task has a question about."""
    tables = [storage.read_part(f"{run_folder}/{task.table}", part)]
    if task.beside:
        folder = f"{run_folder}/{task.beside}"
        tables.append(pa.concat_tables(storage.read_part(folder, p) for p in storage.parts(folder)))
    return task.rows(*tables)


def rows_of(storage: Storage, task: Task, run_folder: str, part: str) -> list[Row]:
    """What a task is asked about of a part of its table; a judge, about accepted answers."""
    rows = table_rows(storage, task, run_folder, part)
    if task.about is None:
        return rows
    said = answers_of(storage, f"{run_folder}/{task.about.track}", part)
    return [
        replace(row, fields={**row.fields, "answer": said[row.key].answer})
        for row in rows
        if row.key in said and said[row.key].status == ACCEPTED
    ]
