"""Units of soft_events through an actor: flat lists in outcomes, kept and taken up like others."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from llmaug.config import SoftEventsConfig
from llmaug.core.stage import Context
from llmaug.core.storage import Storage, digest
from llmaug.generate.engines import ChancesEngine, Finished
from llmaug.generate.look import EventLook
from llmaug.generate.outcome_cache import recall
from llmaug.generate.part_answer import KEPT, OutcomeFolders
from llmaug.generate.part_worker import PartWorker
from llmaug.items.vocabulary import BOS, NUM_SPECIAL
from llmaug.lm import NextChances
from llmaug.lm.generator import Generator
from tests.tables import catalogue, read_rows, write_plan, write_vocabulary

MakeContext = Callable[..., Context]
ITEMS = "abcdefghij"
A, B = NUM_SPECIAL, NUM_SPECIAL + 1
SOURCE = "0-p0"
ROW = {"name": f"{SOURCE}-00000", "source": SOURCE, "strategy": 0, "train_part": "p0"}
GENERATOR = Generator("uniform@1", "uniform", "runs/test/vocabulary", None, "1", 64)


def unit(number: int) -> dict[str, Any]:
    return {
        "unit_id": digest(number), "user_id": f"u{number}", "sample": 0,
        "prompt": [BOS, *[A] * number], "strategy": "soft_events", "seed": number, "places": [1],
        "sampling": {"temperature": 1.0, "top_p": 1.0, "top_k": 2, "max_tokens": 1,
                     "forbid_repeats": False},
    }  # fmt: skip


class Counting:
    """Says of an event how many stood before it."""

    def chances(self, units: Sequence[dict[str, Any]]) -> list[NextChances]:
        found = []
        for unit in units:
            events = np.array(unit["prompt"][1:], np.int32)
            tokens = np.repeat(np.array([[A, B]], np.int32), len(events), 0)
            chances = np.stack([np.arange(len(events)), np.zeros(len(events))], 1) / 100
            found.append(NextChances(events, tokens, chances.astype(np.float32)))
        return found


@pytest.fixture
def storage(make_context: MakeContext) -> Storage:
    context = make_context(generate={"engine": "uniform"})
    write_vocabulary(context, catalogue(ITEMS), {})
    write_plan(context, SOURCE, "p0", [unit(number) for number in range(6)])
    return context.storage


def worker(storage: Storage, engine: Any) -> PartWorker:
    folders = OutcomeFolders(storage, "runs/test/plan", "runs/test/outcomes", "test", "uniform@1")
    look = partial(EventLook, storage, GENERATOR, [SoftEventsConfig()])
    return PartWorker(folders, lambda: engine, look=look)


def check(storage: Storage) -> None:
    rows = read_rows(storage, "runs/test/outcomes")
    assert [row["user_id"] for row in rows] == [f"u{number}" for number in range(6)]
    for number, row in enumerate(rows):
        assert (row["status"], row["soft_k"], row["tokens"]) == ("generated", 2, [A] * number)
        assert row["soft_tokens"] == [A, B] * number
        chances = [chance for n in range(number) for chance in (n / 100, 0)]
        assert row["soft_chances"] == pytest.approx(chances)


def test_a_part_has_the_chances_of_every_unit(storage: Storage) -> None:
    worker(storage, ChancesEngine(Counting()))(ROW)
    check(storage)
    # The cache has them, too.
    units = pa.array([digest(number) for number in range(6)])
    recalled = recall(storage, "uniform@1", SOURCE, [SOURCE], units)
    assert sorted(map(len, recalled["soft_chances"].to_pylist())) == [0, 2, 4, 6, 8, 10]


def test_what_was_kept_is_taken_up(storage: Storage, tmp_path: Path) -> None:
    class Stopping(ChancesEngine):
        """Answers four units one by one, then the board says stop."""

        STEP_SIZE = 1

        def step(self) -> Finished | None:
            if self.num_unfinished == 2:
                loop._reported = 0.0
                loop._report = lambda news: "interrupted"
                return None
            return super().step()

    stopped = worker(storage, Stopping(Counting()))
    loop = stopped._loop
    assert stopped(ROW)["counts"] == "{}"
    kept = storage.read_table("runs/test/outcomes", KEPT, f"{ROW['name']}.parquet")
    assert kept["soft_k"].to_pylist() == [2] * 4
    worker(storage, ChancesEngine(Counting()))(ROW)
    check(storage)
