"""Task `explain`: why a recommendation, or a synthetic event, is plausible.

The model is shown the item and numbered items of the user's history, and names up to three of the
numbers before it writes a sentence: the sentence shall follow from them. A reference is a number of
what was offered, or the answer is refused; so is one that names any other item by its title.
"""

from __future__ import annotations

import re
from functools import partial
from typing import Annotated, Any, Literal

import pyarrow as pa
from pydantic import BaseModel, ConfigDict, Field, create_model

from llmaug.config import ExplainConfig, TextConfig
from llmaug.schema import EXPLANATION, SYNTHETIC
from llmaug.text.choosing import CANDIDATES, known_items, shown
from llmaug.text.cleaning import one_line
from llmaug.text.task import Answer, Row, Task, read_by_schema, schema_of
from llmaug.text.templates import template_of
from llmaug.text.titles import Name, Titles, name_of, others

NOT_OFFERED, NOT_ONE_SENTENCE = "not_offered", "not_one_sentence"
NAMES_OTHER_ITEM = "names_other_item"
_MAX_REASONS = 3
_MARKS = {"en": "[written by a model]", "zh": "[由模型撰写]"}

_CLOSING = "\"'\u2019\u201d)\\]\u300b\u300d\uff09"
_END = re.compile(rf"[.!?\u2026\u3002\uff01\uff1f][{_CLOSING}]*$")
_BETWEEN = re.compile(
    rf"(?:[.!?\u2026]+[{_CLOSING}]*\s+|[\u3002\uff01\uff1f]+[{_CLOSING}]*\s*)(?=\S)"
)
_ABBREVIATION = re.compile(r"\b(?:Mr|Mrs|Ms|Dr|St|Jr|Sr|vs|etc|e\.g|i\.e|[A-Z])\.")


class _Explanation(BaseModel):
    """Its numbers come first: the sentence is about them."""

    model_config = ConfigDict(extra="forbid")

    because: list[int]
    sentence: Annotated[str, Field(min_length=10, max_length=240)]


def task(text: TextConfig, config: ExplainConfig) -> Task:
    number: Any = Literal[tuple(range(1, config.max_history_len + 1))]
    because = Annotated[list[number], Field(min_length=1, max_length=_MAX_REASONS)]
    mark = _MARKS[config.language] if config.what == "synthetic_events" else ""
    model = create_model("Explanation", __base__=_Explanation, because=(because, ...))
    schema = schema_of(model)
    return Task(
        name=config.name,
        table=f"text/{config.name}/{CANDIDATES}",
        beside="ingest/items",
        rows=partial(pairs, config.max_history_len),
        template=template_of(text.domain, config.kind, config.language),
        constants={"max_reasons": _MAX_REASONS},
        schema=schema,
        parse=partial(read_by_schema, schema),
        texts=lambda answer: [answer["sentence"]],
        accepts=refused,
        language=config.language,
        sampling=config,
        max_new_tokens=config.max_new_tokens,
        max_field_tokens=config.max_field_tokens,
        max_rows=config.max_rows,
        sink=EXPLANATION,
        to_row=partial(explained, mark),
        traced=True,
    )


def pairs(max_history_len: int, candidates: pa.Table, items: pa.Table) -> list[Row]:
    """One row for each item to explain (schema CANDIDATES) of a user with a history."""
    known = known_items(items)
    titles = Titles(item["title"] for item in known.values() if item["title"])
    found = []
    for row in candidates.to_pylist():
        history = row["history"][-max_history_len:]
        if history:
            fields = {
                "history": [shown(known, item_id, with_tags=True) for item_id in history],
                "item": shown(known, row["item_id"], with_tags=True),
            }
            there = [
                shown(known, item_id, with_tags=False) for item_id in history + [row["item_id"]]
            ]
            offered = set(map(name_of, there))
            source = {"history": history, "offered": offered, "titles": titles}
            found.append(Row(fields, row["item_id"], row["user_id"], source))
    return found


def refused(row: Row, answer: Answer) -> str | None:
    """Why an answer is none about this history."""
    if max(answer["because"]) > len(row.source["history"]):
        return NOT_OFFERED
    sentence, offered = one_line(answer["sentence"]), row.source["offered"]
    titles: Titles = row.source["titles"]
    if others(sentence, offered, titles):
        return NAMES_OTHER_ITEM
    return None if is_one_sentence(sentence, offered, titles) else NOT_ONE_SENTENCE


def is_one_sentence(text: str, offered: set[Name], titles: Titles) -> bool:
    """Whether it ends, and not before its end; dots and marks in titles are no ends."""
    if not _END.search(text):
        return False
    body = _END.sub("", text)
    for found in reversed(titles.named(body, offered)):
        body = f"{body[: found.start]}it{body[found.end :].lstrip('.!?')}"
    return not _BETWEEN.search(_ABBREVIATION.sub("", body))


def explained(mark: str, row: Row, answer: Answer) -> dict[str, Any]:
    """The items behind the numbers. mark: what ends the sentence, which is about an event that
    nobody had."""
    cited = dict.fromkeys(answer["because"])
    return {
        "user_id": row.user_id,
        "item_id": row.item_id,
        "because": [row.source["history"][number - 1] for number in cited],
        "sentence": f"{one_line(answer['sentence'])} {mark}".rstrip(),
        "origin": SYNTHETIC,
    }
