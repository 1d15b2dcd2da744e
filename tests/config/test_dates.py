"""`{date}` in a config: one file for all nights."""

from __future__ import annotations

from datetime import date
from pathlib import Path
from typing import Any

import pytest

from llmaug.config import load_config
from llmaug.config.dates import dated, day_of, run_id_of_night
from llmaug.errors import UserError

DAY = date(2026, 3, 1)


def resolved(**raw: Any) -> Any:
    return dated(raw, DAY, "night.yaml")


def test_days_before_and_after_stand_in_any_text() -> None:
    assert resolved(
        name="shop-{date}",
        ingest={"start": "{date-30d}", "end": "{date}", "path": "s3://b/{root}/dt={date-1d}/x"},
        plan={"strategies": [{"window": {"start": "{date+1d}"}, "num_users": 3}]},
    ) == {
        "name": "shop-2026-03-01",
        "ingest": {"start": "2026-01-30", "end": "2026-03-01", "path": "s3://b/{root}/dt=2026-02-28/x"},
        "plan": {"strategies": [{"window": {"start": "2026-03-02"}, "num_users": 3}]},
    }  # fmt: skip


@pytest.mark.parametrize("wrong", ["{date-1w}", "{date - 1d}", "{Date}", "{date.year}"])
def test_what_is_no_day_is_named_with_its_field(wrong: str) -> None:
    with pytest.raises(UserError, match=r"night.yaml: ingest.end: .* is no day") as caught:
        resolved(ingest={"end": wrong})
    assert wrong in caught.value.message


@pytest.mark.parametrize("wrong", ["{day}", "{yesterday}", "{}", "{roots}"])
def test_a_path_has_no_other_braces_than_those_that_are_filled_in(wrong: str) -> None:
    with pytest.raises(UserError, match=r"ingest.items.path: nothing is filled in for") as caught:
        resolved(ingest={"path": "{root}/logs", "items": {"path": f"s3://b/dt={wrong}/x"}})
    assert wrong in caught.value.message
    assert resolved(text={"question": wrong}) == {"text": {"question": wrong}}


def test_a_regular_expression_keeps_its_braces() -> None:
    pattern = r"^(?P<user_id>\d{4}) {date} (?P<item_id>\w+)$"
    assert resolved(ingest={"pattern": pattern}) == {"ingest": {"pattern": pattern}}


def test_a_config_with_days_asks_for_one(tmp_path: Path) -> None:
    path = tmp_path / "night.yaml"
    path.write_text('ingest: {end: "{date-1d}"}\n')
    assert load_config(path, DAY).ingest.end == date(2026, 2, 28)
    with pytest.raises(UserError, match=r"ingest.end has {date-1d}: give the day .* --date"):
        load_config(path)


def test_days_by_name() -> None:
    assert day_of("yesterday", today=DAY) == date(2026, 2, 28)
    assert day_of("today", today=DAY) == day_of("2026-03-01") == DAY
    for wrong in ("1.3.2026", "20260301"):
        with pytest.raises(UserError, match=f"--date {wrong}: a day such as 2026-01-31"):
            day_of(wrong)


def test_a_day_without_quotes_is_no_text_in_yaml(tmp_path: Path) -> None:
    path = tmp_path / "night.yaml"
    path.write_text("ingest: {start: {date-30d}}\n")
    with pytest.raises(UserError, match=r'ingest.start: .* put the day in quotes: "{date-30d}"'):
        load_config(path, DAY)


def test_two_jobs_of_a_night_have_runs_of_their_own() -> None:
    day = date(2026, 3, 1)
    assert run_id_of_night("shop", day) == "shop-2026-03-01"
    assert run_id_of_night("news-2026-03-01", day) == "news-2026-03-01"
    assert run_id_of_night("shop", None) == "shop"
