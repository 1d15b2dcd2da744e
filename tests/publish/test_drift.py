"""Nights after each other: where training events are unlike the last ones, somebody is told."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from llmaug.commands.force import publish_run
from llmaug.config import Config, DriftLimits, load_config
from llmaug.core.stage import MANIFEST, Context
from llmaug.core.storage import Storage
from llmaug.errors import UserError
from llmaug.pipeline import run as run_pipeline
from llmaug.publish import drift, pointer
from llmaug.report.stage import load_metrics
from tests.nights import NIGHT, USERS, make_night, without_ray, write_ingest
from tests.tables import Row, histories

# The shop renames all its items: nothing of the first night's popularity is left.
RENAMED = histories(**{user: items.translate(str.maketrans("abcd", "wxyz"))
                       for user, items in USERS.items()})  # fmt: skip
STOPS = {"stops_publish": True}


@pytest.fixture
def first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Storage, Config]:
    """A root with one published night."""
    without_ray(monkeypatch)
    home = tmp_path / "home"
    home.mkdir()
    config = load_config(make_night(tmp_path / "root", home))
    return Storage(str(tmp_path / "root")), config


def next_night(
    first: tuple[Storage, Config], run_id: str, rows: list[Row], **limits: Any
) -> dict[str, Any]:
    """Its metrics.json."""
    storage, config = first
    gate = config.gate.model_copy(update={"drift": DriftLimits(**limits)})
    config = config.model_copy(update={"gate": gate})
    write_ingest(Context(storage, config, run_id), rows)
    storage.write_json({}, f"runs/{run_id}", "run.json")
    run_pipeline(config, storage, run_id)
    metrics = load_metrics(storage, run_id)
    assert metrics is not None
    return metrics


def served(first: tuple[Storage, Config]) -> str:
    return str(pointer.current(first[0], "recommender")["run_id"])


def test_the_first_night_has_nothing_to_be_compared_with(first: tuple[Storage, Config]) -> None:
    storage, _ = first
    counts = storage.read_json(f"runs/{NIGHT}/drift", MANIFEST)["counts"]
    assert counts["found"] is None and "no earlier night" in counts["unknown"]
    # Each user's last two events are held out: 3 users keep one event, one keeps two.
    assert (counts["summary"]["users"], counts["summary"]["events"]) == (4, 5)
    assert counts["summary"]["lengths"][:3] == [3, 1, 0]


def test_the_same_logs_ring_nobody(first: tuple[Storage, Config]) -> None:
    found = next_night(first, "tuesday", histories(**USERS), **STOPS)["drift"]
    assert found["against"] == NIGHT
    assert (found["popularity_js"], found["action_js"], found["length_ks"]) == (0, 0, 0)
    assert (found["events_ratio"], found["users_ratio"]) == (1, 1)
    assert found["alarms"] == [] and not found["stops"]
    assert served(first) == "tuesday"


def test_an_alarm_is_told_and_stops_nothing_by_itself(first: tuple[Storage, Config]) -> None:
    metrics = next_night(first, "tuesday", RENAMED)
    assert metrics["drift"]["popularity_js"] == 1
    [alarm] = metrics["drift"]["alarms"]
    assert alarm.startswith(f"drift: popularity_js is 1.000 against run {NIGHT}")
    assert "gate.drift.max_popularity_js" in alarm
    assert served(first) == "tuesday"
    page = first[0].read("runs/tuesday/report", "report.html").decode()
    assert f"Alarm: {alarm}" in page


def test_where_drift_stops_publishing_the_current_model_stays_until_a_person_says_so(
    first: tuple[Storage, Config],
) -> None:
    storage, _ = first
    metrics = next_night(first, "tuesday", RENAMED, **STOPS)
    assert metrics["published"]["outcome"] == "left"
    assert "popularity_js" in metrics["published"]["why"]
    assert served(first) == NIGHT

    # The next night is still compared with what is served.
    metrics = next_night(first, "wednesday", RENAMED, **STOPS)
    assert metrics["drift"]["against"] == NIGHT and served(first) == NIGHT

    card = publish_run(storage, "wednesday", "the shop has renamed its items")
    assert (served(first), card["arm"], card["forced"]) == ("wednesday", "real", None)
    metrics = next_night(first, "xmas", RENAMED, **STOPS)
    assert (metrics["drift"]["against"], metrics["drift"]["alarms"]) == ("wednesday", [])
    assert served(first) == "xmas"


def test_a_night_is_not_compared_with_itself(first: tuple[Storage, Config]) -> None:
    storage, config = first
    next_night(first, "tuesday", RENAMED)
    for night, against in ((NIGHT, None), ("tuesday", NIGHT)):
        again = run_pipeline(config, storage, night, until="vocabulary")["drift"]
        assert again["skipped"] and (again["counts"]["found"] or {}).get("against") == against


def test_half_of_the_users_is_an_alarm_of_volume(first: tuple[Storage, Config]) -> None:
    few = histories(u1="abc", u4="abcd")
    told = next_night(first, "tuesday", few)["drift"]["alarms"]
    assert any("users_ratio is 0.500" in alarm and "0.667 to 1.5" in alarm for alarm in told)


def test_a_night_to_compare_with_must_be_there(first: tuple[Storage, Config]) -> None:
    found = next_night(first, "tuesday", histories(**USERS), against=NIGHT)["drift"]
    assert found["against"] == NIGHT
    with pytest.raises(UserError, match=r"gate.drift.against is sunday"):
        next_night(first, "wednesday", histories(**USERS), against="sunday")


# -- the figures, by hand ------------------------------------------------------------------


def test_figures_of_two_summaries() -> None:
    earlier = {"events": 100, "users": 50, "actions": {"view": 75, "buy": 25}, "lengths": [40, 10]}
    tonight = {"events": 300, "users": 50, "actions": {"view": 300}, "lengths": [10, 30, 10]}
    found = drift.drift_of(tonight, earlier)
    ratios = ("events_ratio", "users_ratio", "events_per_user_ratio")
    assert [found[name] for name in ratios] == [3, 1, 3]
    assert found["length_ks"] == pytest.approx(0.6)  # 0.2 of them in the first bin, and 0.8
    middle = np.array([7 / 8, 1 / 8])  # of (1, 0) and (3/4, 1/4)
    own = np.log2(1 / middle[0])
    other = (np.array([0.75, 0.25]) * np.log2(np.array([0.75, 0.25]) / middle)).sum()
    assert found["action_js"] == pytest.approx(np.sqrt((own + other) / 2))
    told = drift.alarms({"against": "r", **found}, DriftLimits())
    assert [alarm.split()[1] for alarm in told] == [
        "action_js", "length_ks", "events_ratio", "events_per_user_ratio",
    ]  # fmt: skip
    nothing = {"events": 0, "users": 0, "actions": {}, "lengths": [0, 0]}
    assert set(drift.drift_of(tonight, nothing).values()) == {None}
    assert drift.alarms({"against": "r", **drift.drift_of(nothing, tonight)}, DriftLimits())


def catalogue(counts: np.ndarray) -> pa.Table:
    names = [f"i{number}" for number in range(len(counts))]
    return pa.table({"item_id": names, "train_events": counts})


def test_few_events_of_many_items_look_unlike_by_chance_and_ring_nobody() -> None:
    rng = np.random.default_rng(1)
    share = rng.dirichlet(np.full(3000, 0.5))
    nights = [catalogue(rng.multinomial(1500, share)) for _ in range(2)]
    found = drift.popularity_drift(nights[0], nights[1], seed=7)
    value, chance = found["popularity_js"], found["popularity_js_expected"]
    assert value is not None and chance is not None
    assert value > 0.5 and value == pytest.approx(chance, abs=0.05)

    def rings(figures: dict[str, float | None], limit: float) -> bool:
        limits = DriftLimits(max_popularity_js=limit)
        return bool(drift.alarms({"against": "r", **figures}, limits))

    assert not rings({**found, "popularity_js_expected": value}, 0.5)
    turned = catalogue(nights[1]["train_events"].to_numpy()[::-1])
    assert rings(drift.popularity_drift(nights[0], turned, seed=7), 0.5)
