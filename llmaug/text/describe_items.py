"""Task `describe_items`: description and tags of items that come with little text.

The rows are items of origin synthetic. Stage `vocabulary` takes description and tags from them,
so that they are in the text vectors and tags of generators and recommenders; title, price and
image stay the real ones.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial
from typing import Annotated, Any

import pyarrow as pa
from pydantic import BaseModel, ConfigDict, Field, create_model

from llmaug.config import DescribeItemsConfig, TextConfig, TextTaskConfig
from llmaug.schema import ITEM, SYNTHETIC
from llmaug.text.cleaning import one_line
from llmaug.text.task import Answer, Row, Task, read_json, schema_of
from llmaug.text.templates import template_of

ABOUT = "about:"
"""Prefix of a generated tag, which tells it from those of the catalogue."""
_MAX_CHARACTERS = 240
_NAME = re.compile(r"[^\W\d_][\w'& -]*")  # of a tag: a word or some, no number and no noise


class _Answer(BaseModel):
    model_config = ConfigDict(extra="forbid")

    description: Annotated[str, Field(min_length=20, max_length=_MAX_CHARACTERS)]


def task(text: TextConfig, config: DescribeItemsConfig) -> Task:
    rows = partial(thin_items, min_len=config.min_description_len)
    return description_task(text, config, config.max_tags, rows)


def description_task(
    text: TextConfig, config: TextTaskConfig, max_tags: int, rows: Callable[..., list[Row]]
) -> Task:
    """A task whose answers are a description and at most so many tags of an item."""
    tag = Annotated[str, Field(min_length=1, max_length=24)]
    tags = Annotated[list[tag], Field(min_length=1, max_length=max_tags)]  # type: ignore[valid-type]
    model = create_model("Description", __base__=_Answer, tags=(tags, ...))
    return Task(
        name=config.name,
        table="ingest/items",
        rows=rows,
        template=template_of(text.domain, config.kind, config.language),
        constants={"max_tags": max_tags},
        schema=schema_of(model),
        parse=partial(_parse, model),
        texts=_texts,
        language=config.language,
        sampling=config,
        max_new_tokens=config.max_new_tokens,
        max_field_tokens=config.max_field_tokens,
        max_rows=config.max_rows,
        sink=ITEM,
        to_row=described,
    )


def thin_items(items: pa.Table, min_len: int) -> list[Row]:
    """Those with a title and no description of `min_len` characters."""
    found = []
    for item in items.sort_by("item_id").to_pylist():
        description = (item["description"] or "").strip()
        if (item["title"] or "").strip() and len(description) < min_len:
            found.append(row_of(item))
    return found


def row_of(item: dict[str, Any]) -> Row:
    """What is known of an item, as field `item`."""
    known = {name: item[name] for name in ("title", "description", "tags", "price")}
    fields = {name: value for name, value in known.items() if value}
    return Row({"item": fields}, item["item_id"], source=item)


def described(row: Row, answer: Answer) -> dict[str, Any]:
    """The item with what was written about it."""
    known = {name_of_tag(tag) for tag in row.source["tags"] or ()}
    named = dict.fromkeys(name_of_tag(tag) for tag in answer["tags"])
    new = [f"{ABOUT}{name}" for name in named if name not in known and _NAME.fullmatch(name)]
    return {
        **row.source,
        "description": one_line(answer["description"]),
        "tags": [*(row.source["tags"] or ()), *new],
        "origin": SYNTHETIC,
    }


def name_of_tag(tag: str) -> str:
    """`genre:Drama` and `Drama ` are both `drama`: models like to repeat what they were given."""
    return one_line(tag.rpartition(":")[2]).lower()


def _parse(model: type[BaseModel], text: str) -> Answer:
    return model.model_validate(read_json(text)).model_dump()  # ValidationError is a ValueError


def _texts(answer: Answer) -> list[str]:
    return [answer["description"]]  # a tag may well be a word of the title
