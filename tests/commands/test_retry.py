"""`retry-failed` asks again for what failed, and for nothing else."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from llmaug.commands import retry
from llmaug.commands.retry import _check_budget, retry_failed
from llmaug.core.formats import RUN
from llmaug.core.stage import MANIFEST, Context, fingerprint, run_stage
from llmaug.errors import UserError
from llmaug.generate import stage as generate
from llmaug.generate.engines import UniformEngine
from llmaug.generate.units import Units
from llmaug.generate.watch import SPENT
from llmaug.plan import stage as plan
from tests.tables import catalogue, read_rows, write_finished, write_vocabulary

MakeContext = Callable[..., Context]
NUM_UNITS = 20


class Moody(UniformEngine):
    """Refuses some units as long as it is in a bad mood (seeds decide which)."""

    def __init__(self, bad_mood: bool) -> None:
        super().__init__(5)
        self._bad_mood = bad_mood

    def add(self, units: Units, numbers: np.ndarray, first_key: int) -> list[tuple[int, str]]:
        bad = units.seeds[numbers] % 3 == 0
        if not self._bad_mood or not bad.any():
            return super().add(units, numbers, first_key)
        keys = np.flatnonzero(~bad)
        for key in keys:  # keys stay those of the caller
            super().add(units, numbers[key : key + 1], first_key + int(key))
        return [(int(number), "not today") for number in numbers[bad]]


@pytest.fixture
def context(
    make_context: MakeContext, ray_session: None, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Context]:
    """A finished generation in which some units failed."""
    context = make_context(
        generate={"engine": "uniform"},
        plan={
            "strategies": [{"kind": "new_users", "num_users": NUM_UNITS, "num_events": 4}],
            "units_per_part": 5,
        },
    )
    write_vocabulary(context, catalogue("abcde"), {})
    write_finished(context, "split")
    config = context.config.model_dump(mode="json")
    context.storage.write_json({**RUN.stamp, "config": config}, "runs/test", "run.json")
    run_stage(plan.stage(()), context)
    monkeypatch.setattr(generate, "engine_maker", lambda *_: lambda: Moody(bad_mood=True))
    run_stage(generate.STAGE, context)
    monkeypatch.setattr(generate, "engine_maker", lambda *_: lambda: Moody(bad_mood=False))
    yield context


def answers(context: Context) -> dict[str, dict[str, Any]]:
    rows = read_rows(context.storage, context.folder("outcomes"))
    assert len(rows) == NUM_UNITS
    return {row["unit_id"]: row for row in rows}


def test_only_the_failed_units_are_asked_again(context: Context) -> None:
    before = answers(context)
    failed = {unit for unit, row in before.items() if row["status"] == "failed"}
    assert 0 < len(failed) < NUM_UNITS
    print_before = fingerprint_after(context)

    done = retry_failed(context.storage, "test", "refused_by_engine")

    assert done == {
        "retried": len(failed), "by_reason": {"refused_by_engine": len(failed)}, "still_failed": 0
    }  # fmt: skip
    after = answers(context)
    assert all(row["status"] == "generated" for row in after.values())
    assert {unit for unit in after if after[unit] != before[unit]} == failed
    assert {row["attempts"] for unit, row in after.items() if unit in failed} == {2}
    assert fingerprint_after(context) != print_before, "what follows has to be renewed"
    # ... and the stage itself counts as done.
    assert run_stage(generate.STAGE, context)["skipped"]


@pytest.mark.parametrize("retried", [False, True])
def test_of_damaged_outcomes_one_part_is_asked_again_whatever_was_retried(
    context: Context, retried: bool
) -> None:
    if retried:
        retry_failed(context.storage, "test")
    before, print_before = answers(context), fingerprint_after(context)
    storage, folder = context.storage, context.folder("outcomes")
    part = storage.parts(folder)[1]
    lost = set(storage.read_part(folder, part)["unit_id"].to_pylist())
    storage.delete(folder, f"{part}.parquet")

    assert not run_stage(generate.STAGE, context)["skipped"]

    after = answers(context)
    assert after.keys() == before.keys()
    assert {unit for unit in after if after[unit] != before[unit]} <= lost
    changed = after != before
    assert (fingerprint_after(context) != print_before) == changed
    assert run_stage(generate.STAGE, context)["skipped"]


def fingerprint_after(context: Context) -> str:
    """Of a stage that depends on the outcomes."""
    from llmaug.core.stage import Stage

    return fingerprint(Stage("later", retry.retry_failed, ("outcomes",)), context)["fingerprint"]


def test_a_reason_that_nobody_has_lists_those_that_there_are(context: Context) -> None:
    with pytest.raises(UserError, match=r"reason 'bad_luck'; failed: refused_by_engine \(\d+\)"):
        retry_failed(context.storage, "test", "bad_luck")


def test_without_failures_it_says_so(context: Context) -> None:
    retry_failed(context.storage, "test")
    with pytest.raises(UserError, match="run test: no unit failed"):
        retry_failed(context.storage, "test")


def test_unfinished_and_unknown_runs_are_errors(context: Context) -> None:
    with pytest.raises(UserError, match="runs/other: no such run; runs here: test"):
        retry_failed(context.storage, "other")
    context.storage.delete(context.folder("outcomes"), MANIFEST)
    with pytest.raises(UserError, match="generation is not finished"):
        retry_failed(context.storage, "test")


@pytest.mark.parametrize(
    ("budget", "why"),
    [({"deadline": "2020-01-01T00:00:00Z"}, "is past"), ({"max_gpu_hours": 1.0}, "is spent")],
)
def test_under_a_budget_that_is_spent_nothing_is_opened_again(
    budget: dict[str, Any], why: str, make_context: MakeContext
) -> None:
    """Its units would be left out, and be failures no more."""
    context = make_context(budget=budget)
    context.storage.write_json({"attempt": 3600.0}, context.folder("outcomes"), SPENT)
    with pytest.raises(UserError, match=why):
        _check_budget(context)
