"""What is not of the promised shape is named before it is written."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from llmaug.core.contract import Contract, Tally
from llmaug.generate.counts import OutcomesCounts
from llmaug.ingest.counts import IngestCounts, SplitCounts
from llmaug.plan.counts import PlanCounts

INGEST = {
    "rows_read": 9, "accepted": 6, "quarantined": 1, "dropped": 2, "users": 2, "items": 3,
    "bot_users": 0, "empty_files": 0, "files": 1,
}  # fmt: skip
PLAN = {"units": 3, "generator": "ngram@0", "max_output_tokens": 9, "left_out_by_budget": 0}
SPLIT = {
    "rows": 3, "train": 3, "validation": 1, "test": 1, "thinned_out": 0, "train_users": 2,
    "test_users": 1, "test_users_with_history": 1, "cutoffs_utc": [],
}  # fmt: skip
OUTCOMES = {
    "planned": 3, "units": 2, "generated": 1, "failed": 1, "left_out": 1, "not_needed": 0,
    "cache_hits": 0, "stopped": "deadline", "output_tokens": 5, "prompt_tokens": 8,
    "cached_prompt_tokens": 0, "engine_seconds": 0.5, "output_tokens_per_s": 10.0,
}  # fmt: skip
MOMENT = {"second": 1.0, "engines": 1, "busy": 1, "running": 2, "tokens_per_s": 3.5}


@pytest.mark.parametrize(
    ("shape", "counts"),
    [
        (IngestCounts, INGEST),
        (IngestCounts, {**INGEST, "quarantined.bad_json": 1, "dropped.bot": 2}),
        (IngestCounts, {**INGEST, "items_table.rows_read": 3, "noted.twin_users": 1}),
        (SplitCounts, SPLIT),
        (PlanCounts, {**PLAN, "continue": 2, "new_users": 1}),
        (OutcomesCounts, {**OUTCOMES, "failed.too_long": 1}),
        (OutcomesCounts, {**OUTCOMES, "deaths": 1, "utilisation": [MOMENT]}),
    ],
)
def test_what_keeps_its_contract_comes_back_as_it_was(
    shape: type[Contract], counts: dict[str, Any]
) -> None:
    assert shape.keeps(counts) is counts


@pytest.mark.parametrize(
    ("shape", "counts", "words"),
    [
        (IngestCounts, {**INGEST, "lost.bot": 1}, "lost.bot is neither a field nor a count"),
        (IngestCounts, {**INGEST, "dropped.bot": 1.5}, "IngestCounts.dropped.bot: .*integer"),
        (IngestCounts, {**INGEST, "users": np.int64(2)}, "IngestCounts.users: .*integer"),
        (IngestCounts, {n: c for n, c in INGEST.items() if n != "files"}, "files: Field required"),
        (SplitCounts, {**SPLIT, "tests": 1}, "SplitCounts.tests: Extra inputs"),
        (PlanCounts, {**PLAN, "continue": "2"}, "PlanCounts.continue: .*integer"),
        (OutcomesCounts, {**OUTCOMES, "failed": True}, "OutcomesCounts.failed: .*integer"),
        (OutcomesCounts, {**OUTCOMES, "utilisation": [{}]}, "utilisation.0.second: Field required"),
    ],
)
def test_what_breaks_its_contract_is_named(
    shape: type[Contract], counts: dict[str, Any], words: str
) -> None:
    with pytest.raises(TypeError, match=words):
        shape.keeps(counts)


def test_a_tally_without_prefixes_takes_counts_of_any_name() -> None:
    class Votes(Tally):
        valid: int

    assert Votes.keeps({"valid": 2, "anna": 1, "otto": 1})["anna"] == 1
