"""A week of nights on growing logs: what is asked again, what is not, and what is published.

Monday learns, the other nights take its model. Wednesday's logs have a straggler that arrives on
Thursday, Friday's are late, and the driver of Saturday's night is killed. Marked soak: eight jobs.
"""

from __future__ import annotations

import json
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from llmaug.core.stage import MANIFEST
from llmaug.core.storage import Storage
from llmaug.publish import pointer
from tests.jobs import changed, kill_when, llmaug, write_config

MONDAY = date(2026, 3, 2)
NUM_USERS, ITEMS, PER_DAY = 60, 20, 12
CONFIG: dict[str, Any] = {
    "name": "shop-{date}",
    "ingest": {
        "path": "{root}/logs", "format": "csv", "num_parts": 2, "start": "{date-14d}",
        "end": "{date}", "complete_days": 2,
    },
    "split": {"kind": "leave_one_out"},
    "lm": {"model": "ngram"},
    "plan": {"strategies": [{"kind": "continue", "num_events": 3}], "units_per_part": 10},
    "train": {"model": "popularity", "arms": ["real", "augmented"]},
    "evaluate": {"num_bootstrap": 100},
}  # fmt: skip


def day(number: int) -> date:
    """0 is Monday."""
    return MONDAY + timedelta(days=number)


def write_day(root: Path, when: date, users: range, file: str = "part-0.csv") -> None:
    """Each of `users` takes four items in the course of a day."""
    folder = root / f"logs/dt={when}"
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(when.toordinal() + len(file))
    lines = [
        f"u{user},i{item},{when}T{8 + hour:02}:{user % 60:02}:00Z"
        for user in users
        for hour, item in enumerate(rng.choice(ITEMS, 4, replace=False))
    ]
    (folder / file).write_text("\n".join(["user_id,item_id,timestamp", *lines, ""]))


def of_day(number: int) -> range:
    """Who comes on a day: twelve users, others every day of the week; on Sunday the first again."""
    first = number % 5 * PER_DAY
    return range(first, first + PER_DAY)


@pytest.mark.soak
@pytest.mark.slow
def test_a_week(tmp_path: Path) -> None:
    root, storage = tmp_path / "root", Storage(str(tmp_path / "root"))
    for before in range(-7, 0):
        write_day(root, day(before), of_day(before))
    monday = write_config(tmp_path, CONFIG)
    other = tmp_path / "other"
    other.mkdir()
    rest = write_config(other, changed(CONFIG, lm={"from_run": "shop-{date-1d}"}))
    counts: dict[str, dict[str, int]] = {}
    files: dict[int, tuple[int, int]] = {}  # of each night: read, and from an earlier one

    def command(number: int) -> list[str]:
        config = monday if number == 0 else rest
        return ["run", "--config", str(config), "--root", str(root), "--date", str(day(number))]

    def night(number: int) -> str:
        done = llmaug(*command(number))
        run = f"shop-{day(number)}"
        if done.returncode == 0:
            counts[run] = storage.read_json(f"runs/{run}/outcomes", MANIFEST)["counts"]
            of_logs = storage.read_json(f"runs/{run}/ingest", MANIFEST)["counts"]
            files[number] = of_logs["files.read"], of_logs.get("files.from_cache", 0)
        return done.stderr

    for number in range(7):
        late = number == 4
        if not late:
            write_day(root, day(number), of_day(number))
        if number == 3:  # what Wednesday's shop had kept for itself
            write_day(root, day(2), range(55, 58), "straggler.csv")
        if number == 5:
            outcomes = f"runs/shop-{day(5)}/outcomes"
            kill_when(lambda: bool(storage.parts(outcomes)), *command(5))  # noqa: B023
        said = night(number)
        if late:
            assert f"dt={day(4)} is missing" in said
            write_day(root, day(4), of_day(4))
            night(number)

    # Monday reads the week before and its day; then each reads its own, and Thursday the straggler.
    assert files == {
        0: (8, 0), 1: (1, 8), 2: (1, 9), 3: (2, 10), 4: (1, 12), 5: (1, 13), 6: (1, 14)
    }  # fmt: skip

    assert list(counts) == [f"shop-{day(number)}" for number in range(7)]
    asked = {run: own["units"] - own["cache_hits"] for run, own in counts.items()}
    everybody = {run: own["units"] for run, own in counts.items()}
    assert set(everybody.values()) == {NUM_USERS}
    assert asked[f"shop-{day(0)}"] == NUM_USERS
    # Afterwards those who came that day, whose histories are longer, and the stragglers.
    came = dict.fromkeys(counts, PER_DAY) | {f"shop-{day(3)}": PER_DAY + 3}
    assert {run: asked[run] for run in list(counts)[1:5]} == {
        run: came[run] for run in list(counts)[1:5]
    }
    # Of the killed night a part had been answered, and is not asked again either way.
    assert asked[f"shop-{day(5)}"] <= PER_DAY and asked[f"shop-{day(6)}"] == PER_DAY

    card = pointer.current(storage, "recommender")
    runs = [version.rpartition("/")[2] for version in (card["version"], card["previous"])]
    assert [run.rpartition("-")[0] for run in runs] == [f"shop-{day(6)}", f"shop-{day(5)}"]
    said = json.loads(llmaug("gc", "--keep", "3", "--delete", "--json", "--root", str(root)).stdout)
    gone = {each["name"] for each in said["found"] if each["kind"] == "run" and not each["kept"]}
    # Each night stands on the model of the one before: Monday's has to stay, and so do all.
    assert gone == set()
    assert llmaug("publish", "--rollback", "--root", str(root)).returncode == 0
    assert pointer.current(storage, "recommender")["run_id"] == f"shop-{day(5)}"
