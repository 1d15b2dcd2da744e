"""Answers of earlier nights: found by source, first one wins, failures are not kept."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa

from llmaug.core.storage import Storage
from llmaug.generate.outcome_cache import cache_folder, recall, remember
from llmaug.schema import OUTCOME


def outcomes(*units: str, status: str = "generated", tokens: int = 5) -> pa.Table:
    rows = [
        {"unit_id": unit, "strategy": "continue", "sample": 0, "status": status,
         "tokens": [tokens], "num_prompt_tokens": 1, "num_generated_tokens": 1,
         "engine_seconds": 0.1, "attempts": 1}
        for unit in units
    ]  # fmt: skip
    return pa.Table.from_pylist(rows, schema=OUTCOME)


def recalled(storage: Storage, source: str) -> dict[str, list[int]]:
    """The answers to units a to e."""
    known = storage.names(cache_folder("lm@1"))
    found = recall(storage, "lm@1", source, known, pa.array(list("abcde")))
    assert found.schema == OUTCOME
    return dict(zip(found["unit_id"].to_pylist(), found["tokens"].to_pylist(), strict=True))


def test_answers_are_found_under_their_source(tmp_path: Path) -> None:
    storage = Storage(str(tmp_path))
    remember(storage, "lm@1", "continue.p0.of-2", "monday", "0-p0-0", outcomes("a", "b"))
    remember(storage, "lm@1", "continue.p0.of-2", "tuesday", "0-p0-0", outcomes("c"))
    remember(storage, "lm@1", "continue.p1.of-2", "monday", "0-p1-0", outcomes("d"))
    remember(storage, "lm@2", "continue.p0.of-2", "monday", "0-p0-0", outcomes("e"))
    assert set(recalled(storage, "continue.p0.of-2")) == {"a", "b", "c"}
    assert set(recalled(storage, "continue.p1.of-2")) == {"d"}


def test_with_another_number_of_parts_all_of_the_kind_are_looked_at(tmp_path: Path) -> None:
    storage = Storage(str(tmp_path))
    for part, unit in (("p0", "a"), ("p1", "b")):
        remember(storage, "lm@1", f"continue.{part}.of-2", "monday", part, outcomes(unit))
    remember(storage, "lm@1", "new_users.00000.by-512", "monday", "n", outcomes("c"))
    assert set(recalled(storage, "continue.p0.of-3")) == {"a", "b"}
    assert recalled(storage, "infill.p0.of-3") == {}


def test_only_what_is_asked_is_held_in_memory(tmp_path: Path) -> None:
    storage = Storage(str(tmp_path))
    remember(storage, "lm@1", "s", "monday", "p", outcomes("a", "x", "y", "z"))
    assert set(recalled(storage, "s")) == {"a"}


def test_failures_may_be_tried_again(tmp_path: Path) -> None:
    storage = Storage(str(tmp_path))
    remember(storage, "lm@1", "s", "monday", "p", outcomes("a", status="failed"))
    assert storage.names(cache_folder("lm@1")) == []


def test_a_unit_that_was_answered_twice_is_answered_once(tmp_path: Path) -> None:
    storage = Storage(str(tmp_path))
    remember(storage, "lm@1", "s", "monday", "p", outcomes("a", tokens=5))
    remember(storage, "lm@1", "s", "tuesday", "p", outcomes("a", "b", tokens=6))
    assert recalled(storage, "s") == {"a": [5], "b": [6]}


def test_names_of_generators_become_safe_folder_names() -> None:
    assert cache_folder("org/model@12ab") == "outcomes_cache/org_model@12ab"
