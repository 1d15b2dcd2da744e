"""What tasks share in which a model names the best of numbered candidates.

Decoding is a choice among the numbers: nothing else can be named. Small models name them by where
they stand (1 to 10 in their order, or always the first), so what shall become events is
asked for twice, the second time with the candidates the other way round: that question is the
task's judge, and kept is what both answers name.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import pyarrow as pa

from llmaug.config import TextConfig, TextTaskConfig
from llmaug.schema import CHOSEN, SYNTHETIC
from llmaug.text.task import Answer, Row, Task, read_by_schema
from llmaug.text.templates import template_of

CANDIDATES = "candidates"
BY_POSITION = "by_position"
_NUM_TAGS = 4  # are shown


def choice_task(
    text: TextConfig,
    config: TextTaskConfig,
    num_candidates: int,
    num_best: int,
    max_history_len: int,
    with_tags: bool = False,
    **fields: Any,
) -> Task:
    """About the lists in `text/<name>/candidates`. fields: those of the task that are left."""
    number = {"enum": list(range(1, num_candidates + 1))}
    schema = {
        "type": "object",
        "properties": {
            "best": {"type": "array", "items": number, "minItems": 1, "maxItems": num_best}
        },
        "required": ["best"],
        "additionalProperties": False,
    }
    return Task(
        name=config.name,
        table=f"text/{config.name}/{CANDIDATES}",
        beside="ingest/items",
        rows=partial(lists, num_candidates, max_history_len, with_tags),
        template=template_of(text.domain, config.kind, config.language),
        constants={"num_best": num_best},
        schema=schema,
        parse=partial(read_by_schema, schema),
        texts=lambda answer: [],
        language=config.language,
        sampling=config,
        max_new_tokens=config.max_new_tokens,
        max_field_tokens=config.max_field_tokens,
        max_rows=config.max_rows,
        **fields,
    )


def asked_twice(
    text: TextConfig,
    config: TextTaskConfig,
    num_candidates: int,
    num_best: int,
    max_history_len: int = 0,
    with_tags: bool = False,
) -> Task:
    """Its rows are those of schema CHOSEN: what is named in both orders."""
    task = choice_task(
        text, config, num_candidates, num_best, max_history_len, with_tags,
        sink=CHOSEN, to_row=chosen, traced=True, judged=named_twice,
    )  # fmt: skip
    again = replace(
        task,
        name=f"{task.name}/judge",
        rows=partial(_turned_round, task.rows),
        accepts=_in_both_orders,
        about=task,
        max_rows=None,
        sink=None,
        traced=False,
    )
    return replace(task, judge=again)


def lists(
    num_candidates: int,
    max_history_len: int,
    with_tags: bool,
    candidates: pa.Table,
    items: pa.Table,
) -> list[Row]:
    """One row a list to choose from (schema CANDIDATES): titles, and what is known of the user."""
    known = known_items(items)
    found = []
    for row in candidates.to_pylist():
        offered = row["candidates"][:num_candidates]
        if len(offered) > 1:
            history = row["history"][-max_history_len:] if max_history_len else []
            fields: dict[str, Any] = {
                "history": [shown(known, item_id, False) for item_id in history],
                "candidates": [shown(known, item_id, with_tags) for item_id in offered],
            }
            if row["attributes"]:
                fields["attributes"] = dict(row["attributes"])
            found.append(Row(fields, row["item_id"], row["user_id"], source=row))
    return found


def known_items(items: pa.Table) -> dict[str, dict[str, Any]]:
    """{item id: what a question may show of it}."""
    rows = items.select(["item_id", "title", "tags"]).to_pylist()
    return {item["item_id"]: item for item in rows}


def shown(known: Mapping[str, Mapping[str, Any]], item_id: str, with_tags: bool) -> Any:
    """An item as a question has it: its title, or the id of one without; tags beside it."""
    item = known.get(item_id, {})
    title, tags = item.get("title") or item_id, item.get("tags") if with_tags else None
    return {"title": title, "tags": tags[:_NUM_TAGS]} if tags else title


def numbers(row: Row, answer: Answer) -> list[int]:
    """Those that were offered, each once."""
    offered = len(row.fields["candidates"])
    return [number for number in dict.fromkeys(answer["best"]) if number <= offered]


def named_twice(row: Row, answer: Answer, other_way_round: Answer) -> Answer:
    """Of the numbers of an answer those whose candidate the other answer names, too."""
    offered = len(row.fields["candidates"])
    again = {offered + 1 - number for number in numbers(row, other_way_round)}
    return {"best": [number for number in numbers(row, answer) if number in again]}


def chosen(row: Row, answer: Answer) -> dict[str, Any]:
    """The items behind the numbers. Of a row without a history: of nobody that there is."""
    source = row.source
    return {
        "user_id": row.user_id if source["history"] else None,
        "item_ids": [source["candidates"][number - 1] for number in answer["best"]],
        "timestamp": source["timestamp"],
        "origin": SYNTHETIC,
    }


def _turned_round(rows: Any, *tables: pa.Table) -> list[Row]:
    return [
        replace(row, fields={**row.fields, "candidates": row.fields["candidates"][::-1]})
        for row in rows(*tables)
    ]


def _in_both_orders(row: Row, answer: Answer) -> str | None:
    return None if named_twice(row, row.fields["answer"], answer)["best"] else BY_POSITION
