"""The check at the end of every run finds what should never be there."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest

from llmaug.core.storage import Storage, digest
from llmaug.generate.ledger import check_units


def write(storage: Storage, folder: str, part: str, *names: str) -> None:
    table = pa.table({"unit_id": pa.array([digest(name) for name in names], pa.string())})
    storage.write_part(table, {}, folder, part)


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    storage = Storage(str(tmp_path))
    for folder in ("plan", "outcomes"):
        write(storage, folder, "p0", "a", "b")
        write(storage, folder, "p1", "c")
    return storage


def test_one_outcome_a_unit_is_fine(storage: Storage, ray_session: None) -> None:
    check_units(storage, "plan", "outcomes", ["p0", "p1"])
    check_units(storage, "plan", "outcomes", [])


def test_two_outcomes_of_one_unit_are_found(storage: Storage, ray_session: None) -> None:
    write(storage, "plan", "p1", "c", "a")
    write(storage, "outcomes", "p1", "c", "a")
    with pytest.raises(AssertionError, match=f"unit {digest('a')} has two outcomes"):
        check_units(storage, "plan", "outcomes", ["p0", "p1"])


def test_an_outcome_that_nobody_asked_for_is_found(storage: Storage, ray_session: None) -> None:
    write(storage, "outcomes", "p1", "stranger")
    with pytest.raises(Exception, match=f"p1: outcome of unit {digest('stranger')}"):
        check_units(storage, "plan", "outcomes", ["p0", "p1"])
