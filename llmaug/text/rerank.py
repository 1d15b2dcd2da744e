"""Task `rerank`: a list of recommendations in the order that a chat model would give it.

Listwise: it names the best numbers of the candidates, each a choice among those there are; the
others follow as they were. A number that it names twice counts once.
"""

from __future__ import annotations

from typing import Any

from llmaug.config import RerankConfig, TextConfig
from llmaug.schema import RERANKED
from llmaug.text.choosing import choice_task, numbers
from llmaug.text.task import Answer, Row, Task


def task(text: TextConfig, config: RerankConfig) -> Task:
    return choice_task(
        text, config, config.top_n, config.num_best, config.max_history_len,
        sink=RERANKED, to_row=reordered,
    )  # fmt: skip


def reordered(row: Row, answer: Answer) -> dict[str, Any]:
    """What was chosen first, then the others in their old order."""
    before = row.source["candidates"]
    chosen = [before[number - 1] for number in numbers(row, answer)]
    return {"user_id": row.user_id, "item_ids": list(dict.fromkeys([*chosen, *before]))}
