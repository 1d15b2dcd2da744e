"""The contract that text tasks of others must keep, held by ours; and what it finds."""

from __future__ import annotations

import re
from typing import Any

import pytest

from llmaug.config import (
    CaptionItemsConfig,
    ColdItemsConfig,
    ColdUsersConfig,
    CustomConfig,
    DescribeItemsConfig,
    ExplainConfig,
    RerankConfig,
    TextTaskConfig,
    WriteReviewsConfig,
)
from llmaug.testing import check_text_task
from llmaug.text import describe_items
from tests.text.test_custom import MOOD, config

GOOD = '{"description": "A lamp for a desk or a bed.", "tags": ["light"]}'
OWN = f"{__name__}:Own"
REVIEW = '{"rating": 4, "review": "I read under it every night, and my eyes are glad."}'
REVIEW_ZH = '{"rating": 4, "review": "我每天晚上都在它旁边看书, 眼睛一点也不累, 很喜欢。"}'
WHY = '{"because": [1], "sentence": "It gives light to whoever reads late at night."}'
WHY_ZH = '{"because": [1], "sentence": "他喜欢晚上看书, 所以需要一盏灯。"}'
MOODS = '{"mood": "sad", "why": "", "age": 1, "for": []}'


class Own(DescribeItemsConfig):
    """One of somebody else's."""

    implementation = "tests.text.test_contract:own_task"
    kind: str  # type: ignore[assignment]
    """The task."""


def own_task(text: Any, config: Any) -> Any:
    return describe_items.task(text, config.model_copy(update={"kind": "describe_items"}))


@pytest.mark.parametrize(
    ("config", "answer"),
    [
        (DescribeItemsConfig(), GOOD),
        (DescribeItemsConfig(language="zh"), GOOD),
        (CaptionItemsConfig(), GOOD),
        (CaptionItemsConfig(language="zh"), GOOD),
        (WriteReviewsConfig(), REVIEW),
        (WriteReviewsConfig(language="zh"), REVIEW_ZH),
        (RerankConfig(), '{"best": [2, 1, 2]}'),
        (ColdItemsConfig(), '{"best": [2]}'),
        (ColdUsersConfig(), '{"best": [2, 1]}'),
        (ExplainConfig(), WHY),
        (ExplainConfig(what="synthetic_events", language="zh"), WHY_ZH),
        (CustomConfig(**{k: v for k, v in MOOD.items() if k != "kind"}), MOODS),
        (Own(kind=OWN), GOOD),
    ],
    ids=[
        "describe_items",
        "describe_items.zh",
        "caption_items",
        "caption_items.zh",
        "write_reviews",
        "write_reviews.zh",
        "rerank",
        "cold_items",
        "cold_users",
        "explain",
        "explain.zh",
        "custom",
        "own",
    ],
)
def test_tasks_keep_the_contract(config: TextTaskConfig, answer: str) -> None:
    check_text_task(config, answer)


def test_a_config_finds_a_task_by_its_path() -> None:
    own = {"kind": OWN, "max_tags": 3}
    [task] = config(own).text.tasks
    assert isinstance(task, Own) and task.name == "Own" and task.max_tags == 3


def test_a_contract_that_is_broken_is_told() -> None:
    with pytest.raises(AssertionError, match="the good answer is not by the schema: 'tags' is"):
        check_text_task(DescribeItemsConfig(), '{"description": "A lamp for a desk or a bed."}')
    broken = CustomConfig(name="mood", template="{{ no }}", json_schema=MOOD["json_schema"])
    with pytest.raises(AssertionError, match=re.escape("the template fails on ('a', None): mood:")):
        check_text_task(broken, MOODS)
