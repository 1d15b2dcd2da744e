"""Task `write_reviews`: a rating and a review of items that users took and did not rate.

Asked about are pairs of user and item in the training events that have no `value`; what the user
rated before, or took, stands in the question. The rows are labelled events of origin synthetic: the
arm `reviewed` learns their ratings beside the real ones. What is held out is read by nobody here.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import partial
from typing import Annotated, Any

import numpy as np
import pyarrow as pa
from pydantic import BaseModel, ConfigDict, Field, create_model

from llmaug.config import TextConfig, WriteReviewsConfig
from llmaug.errors import UserError
from llmaug.ingest.cleaning import id_hash
from llmaug.ingest.split import TRAIN
from llmaug.items.arrays import group_bounds
from llmaug.schema import REVIEW, SYNTHETIC
from llmaug.text.cleaning import one_line
from llmaug.text.task import Answer, Row, Task, read_json, schema_of
from llmaug.text.templates import template_of

OUT_OF_RANGE = "rating_out_of_range"
_HASHES = 2.0**64


class _Review(BaseModel):
    """Any rating: one out of range has a reason of its own. It comes behind the review, so that it
    is what these words would give."""

    model_config = ConfigDict(extra="forbid")

    review: Annotated[str, Field(min_length=20, max_length=240)]
    rating: int


def task(text: TextConfig, config: WriteReviewsConfig) -> Task:
    in_range = Annotated[int, Field(ge=config.min_rating, le=config.max_rating)]
    model = create_model("Review", __base__=_Review, rating=(in_range, ...))
    return Task(
        name=config.name,
        table=f"split/{TRAIN}",
        beside="ingest/items",
        rows=partial(unrated_pairs, config),
        template=template_of(text.domain, config.kind, config.language),
        constants={"min_rating": config.min_rating, "max_rating": config.max_rating},
        schema=schema_of(model),
        parse=_parse,
        texts=lambda answer: [answer["review"]],
        accepts=partial(_out_of_range, config),
        language=config.language,
        sampling=config,
        max_new_tokens=config.max_new_tokens,
        max_field_tokens=config.max_field_tokens,
        max_rows=config.max_rows,
        sink=REVIEW,
        to_row=reviewed,
        traced=True,
    )


def unrated_pairs(config: WriteReviewsConfig, events: pa.Table, items: pa.Table) -> list[Row]:
    """One row for each pair of user and item with a title that has no rating in the training
    events of whole users, sorted by user; `config.share` of them, by a hash.

    Raises UserError where a rating is outside of what the config says.
    """
    known = {item["item_id"]: item for item in items.to_pylist() if (item["title"] or "").strip()}
    columns = ["user_id", "item_id", "action", "timestamp", "value"]
    found = []
    rows = events.select(columns).to_pylist()
    for start, end in group_bounds(events["user_id"].to_numpy(zero_copy_only=False)):
        own = [event for event in rows[start:end] if event["item_id"] in known]
        _check_range(config, own)
        rated = {event["item_id"] for event in own if event["value"] is not None}
        pairs = {event["item_id"]: event for event in own if event["item_id"] not in rated}
        for event in _drawn(list(pairs.values()), config.share):
            history = _history(own, rated, event["item_id"], config.max_history_len)
            item = known[event["item_id"]]
            fields = {
                "history": [_taken(past, known) for past in history],
                "item": {n: item[n] for n in ("title", "description", "tags") if item[n]},
            }
            found.append(Row(fields, event["item_id"], event["user_id"], source=event))
    return found


def reviewed(row: Row, answer: Answer) -> dict[str, Any]:
    """The event once more, with what was said of it."""
    return {
        **row.source,
        "value": answer["rating"],
        "review": one_line(answer["review"]),
        "origin": SYNTHETIC,
    }


def _history(
    own: list[dict[str, Any]], rated: set[str], item_id: str, max_len: int
) -> list[dict[str, Any]]:
    """The last events with a rating; of a user without any, the last ones with other items. The
    first are the same for all pairs of a user, so that engines compute them once."""
    others = [e for e in own if e["value"] is not None] or [
        e for e in own if e["item_id"] != item_id
    ]
    return others[-max_len:]


def _taken(event: Mapping[str, Any], known: Mapping[str, Any]) -> dict[str, Any]:
    title = {"title": known[event["item_id"]]["title"]}
    return title if event["value"] is None else {**title, "rating": _plain(event["value"])}


def _plain(value: float) -> float:
    return int(value) if value == math.floor(value) else round(value, 2)


def _drawn(pairs: list[dict[str, Any]], share: float) -> list[dict[str, Any]]:
    """The same ones in every run."""
    if share >= 1 or not pairs:
        return pairs
    names = pa.array([f"{pair['user_id']}\n{pair['item_id']}" for pair in pairs], pa.string())
    drawn = np.asarray(id_hash(names), np.float64) / _HASHES < share
    return [pair for pair, taken in zip(pairs, drawn, strict=True) if taken]


def _check_range(config: WriteReviewsConfig, events: list[dict[str, Any]]) -> None:
    for event in events:
        value = event["value"]
        if value is not None and not config.min_rating <= value <= config.max_rating:
            raise UserError(
                f"text.tasks: {config.name}: user {event['user_id']} has the value {value:g} on "
                f"item {event['item_id']}, and ratings go from min_rating {config.min_rating} to "
                f"max_rating {config.max_rating}: set these, or leave the task out where column "
                "`value` is no rating"
            )


def _parse(text: str) -> Answer:
    return _Review.model_validate(read_json(text)).model_dump()  # ValidationError is a ValueError


def _out_of_range(config: WriteReviewsConfig, row: Row, answer: Answer) -> str | None:
    fits = config.min_rating <= answer["rating"] <= config.max_rating
    return None if fits else OUT_OF_RANGE
