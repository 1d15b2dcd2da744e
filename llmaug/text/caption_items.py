"""Task `caption_items`: description and tags of items by their images, from a vision-language
model.

Schema, filters and rows are those of `describe_items`; the question has the item's image besides
what is known of the item. A description that the catalogue has stays, and what the image shows
comes behind it.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pyarrow as pa

from llmaug.config import CaptionItemsConfig, TextConfig
from llmaug.text import describe_items
from llmaug.text.task import Answer, ImageRules, Row, Task

_MIB = 1 << 20


def task(text: TextConfig, config: CaptionItemsConfig) -> Task:
    return replace(
        describe_items.description_task(text, config, config.max_tags, shown_items),
        to_row=captioned,
        images=ImageRules(
            max_bytes=round(config.max_image_mib * _MIB),
            max_pixels=config.max_image_pixels,
            side=config.image_side,
        ),
    )


def shown_items(items: pa.Table) -> list[Row]:
    """Those with an image."""
    return [
        replace(describe_items.row_of(item), image=item["image_uri"].strip())
        for item in items.sort_by("item_id").to_pylist()
        if (item["image_uri"] or "").strip()
    ]


def captioned(row: Row, answer: Answer) -> dict[str, Any]:
    """The item with what its image shows."""
    made = describe_items.described(row, answer)
    known = (row.source["description"] or "").strip()
    return {**made, "description": f"{known} {made['description']}".strip()}
