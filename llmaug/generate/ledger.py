"""One unit, one outcome: checked over everything that lies in storage, not believed."""

from __future__ import annotations

from typing import Any

import numpy as np

from llmaug.core.formats import OUTCOMES, UNITS
from llmaug.core.storage import Storage

PARTS_PER_TASK = 256  # a task starts a worker, and that takes seconds
_ID = np.dtype([("high", "u8"), ("low", "u8")])


def check_units(storage: Storage, plan: str, outcomes: str, parts: list[str]) -> None:
    """Every outcome answers a unit of its own part of the plan, and no unit twice.

    Reads the unit ids of all `parts` in Ray tasks (16 bytes a unit are gathered in one of
    them, none on the driver). Raises AssertionError with the first id that is wrong.
    """
    import ray

    read = ray.remote(num_cpus=0.5)(_read_ids)
    groups = [parts[i : i + PARTS_PER_TASK] for i in range(0, len(parts), PARTS_PER_TASK)]
    if groups:
        pieces = [read.remote(storage, plan, outcomes, group) for group in groups]
        twice = ray.get(ray.remote(num_cpus=0.5)(_first_twice).remote(*pieces))
        assert twice is None, f"unit {twice} has two outcomes"


def _read_ids(storage: Storage, plan: str, outcomes: str, parts: list[str]) -> np.ndarray:
    found = []
    for part in parts:
        asked = storage.read_part(plan, part, ["unit_id"], UNITS)["unit_id"].to_pylist()
        answered = storage.read_part(outcomes, part, ["unit_id"], OUTCOMES)["unit_id"].to_pylist()
        strange = set(answered) - set(asked)
        assert not strange, f"{part}: outcome of unit {min(strange)}, which is not in the plan"
        found.append(np.array([_split(unit_id) for unit_id in answered], _ID))
    return np.concatenate(found)


def _first_twice(*pieces: Any) -> str | None:
    ids = np.sort(np.concatenate(pieces), order=("high", "low"))
    same = np.flatnonzero(ids[1:] == ids[:-1])
    if not len(same):
        return None
    high, low = ids[same[0]]
    return f"{high:016x}{low:016x}"


def _split(unit_id: str) -> tuple[int, int]:
    return int(unit_id[:16], 16), int(unit_id[16:], 16)
