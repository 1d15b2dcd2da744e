"""Task `rerank`: a list of recommendations in the order that a chat model would give it.

Listwise: it names the best numbers of the candidates, each a choice among those there are; the
others follow as they were. A number that it names twice counts once.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import pyarrow as pa

from llmaug.config import RerankConfig, TextConfig
from llmaug.schema import RERANKED
from llmaug.text.task import Answer, Row, Task, read_by_schema
from llmaug.text.templates import template_of

CANDIDATES = "candidates"


def task(text: TextConfig, config: RerankConfig) -> Task:
    number = {"enum": list(range(1, config.top_n + 1))}
    best = {"type": "array", "items": number, "minItems": 1, "maxItems": config.num_best}
    schema = {
        "type": "object", "properties": {"best": best}, "required": ["best"],
        "additionalProperties": False,
    }  # fmt: skip
    return Task(
        name=config.name,
        table=f"text/{config.name}/{CANDIDATES}",
        beside="ingest/items",
        rows=partial(lists, config),
        template=template_of(text.domain, config.kind, config.language),
        constants={"num_best": config.num_best},
        schema=schema,
        parse=partial(read_by_schema, schema),
        texts=lambda answer: [],
        language=config.language,
        sampling=config,
        max_new_tokens=config.max_new_tokens,
        max_field_tokens=config.max_field_tokens,
        max_rows=config.max_rows,
        sink=RERANKED,
        to_row=reordered,
    )


def lists(config: RerankConfig, candidates: pa.Table, items: pa.Table) -> list[Row]:
    """One row a user who has something to choose from (schema CANDIDATES)."""
    titles = dict(zip(items["item_id"].to_pylist(), items["title"].to_pylist(), strict=True))

    def shown(item_ids: list[str]) -> list[str]:
        return [titles.get(item_id) or item_id for item_id in item_ids]

    found = []
    for row in candidates.to_pylist():
        offered = row["candidates"][: config.top_n]
        if len(offered) > 1:
            history = row["history"][-config.max_history_len :]
            fields = {"history": shown(history), "candidates": shown(offered)}
            found.append(Row(fields, user_id=row["user_id"], source=row))
    return found


def reordered(row: Row, answer: Answer) -> dict[str, Any]:
    """What was chosen first, then the others in their old order."""
    before = row.source["candidates"]
    offered = len(row.fields["candidates"])
    chosen = [before[number - 1] for number in answer["best"] if number <= offered]
    return {"user_id": row.user_id, "item_ids": list(dict.fromkeys([*chosen, *before]))}
