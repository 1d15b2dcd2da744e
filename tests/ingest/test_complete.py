"""A night does not begin on half of the logs: it waits for them, or says what is short."""

from __future__ import annotations

from datetime import date, timedelta
from pathlib import Path
from typing import Any

import pytest

from llmaug.config import IngestConfig, parse_config
from llmaug.core.storage import Storage
from llmaug.errors import UserError
from llmaug.ingest.complete import POLL_S, short_days, wait_for_logs

SUNDAY = date(2026, 3, 1)


def write_day(root: Path, day: date, num_bytes: int) -> None:
    folder = root / f"logs/dt={day}"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "part-0.csv").write_bytes(b"x" * num_bytes)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Two weeks up to Saturday: 100 bytes a day, a tenth of it on Sundays."""
    for back in range(1, 15):
        day = SUNDAY - timedelta(days=back)
        write_day(tmp_path, day, 10 if day.weekday() == 6 else 100)
    return tmp_path


def config(**fields: Any) -> IngestConfig:
    return IngestConfig(path="{root}/logs", end=SUNDAY, complete_days=3, **fields)


def test_a_day_that_is_missing_is_named(root: Path) -> None:
    assert short_days(Storage(str(root)), config()) == ["dt=2026-03-01 is missing"]


def test_a_day_is_measured_by_the_same_weekday_a_week_before(root: Path) -> None:
    storage = Storage(str(root))
    write_day(root, SUNDAY, 6)  # as little as Sundays have
    assert short_days(storage, config()) == []
    write_day(root, SUNDAY, 4)
    [short] = short_days(storage, config())
    assert short == "dt=2026-03-01 has 4 bytes, the same weekday a week before has 10"
    assert short_days(storage, config(complete_share=0.4)) == []


def test_before_anything_has_come_all_days_are_missing(tmp_path: Path) -> None:
    assert len(short_days(Storage(str(tmp_path)), config())) == 3


class Clock:
    """Time that passes by sleeping; after an hour the last day arrives."""

    def __init__(self, root: Path) -> None:
        self.now, self._root = 0.0, root

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        if self.now >= 3600:
            write_day(self._root, SUNDAY, 10)


def test_it_waits_once_a_minute_and_says_so_once(root: Path) -> None:
    clock, said = Clock(root), list[str]()
    wait_for_logs(Storage(str(root)), config(), 7200, said.append, clock, clock.sleep)
    assert clock.now == 3600 and clock.now % POLL_S == 0
    assert said == ["waiting for logs up to 120 minutes: dt=2026-03-01 is missing"]


def test_when_the_time_is_over_the_night_fails_with_what_is_short(root: Path) -> None:
    clock = Clock(root)
    with pytest.raises(UserError, match="not complete: dt=2026-03-01 is missing. .* --wait 2h"):
        wait_for_logs(Storage(str(root)), config(), 600, clock=clock, sleep=clock.sleep)
    assert clock.now == 600


def test_nothing_is_asked_where_the_config_asks_for_nothing(tmp_path: Path) -> None:
    wait_for_logs(Storage(str(tmp_path)), IngestConfig(path="{root}/nothing"))


def test_days_are_counted_up_to_an_end() -> None:
    with pytest.raises(UserError, match="complete_days counts folders of days up to ingest.end"):
        parse_config({"ingest": {"complete_days": 2}})
