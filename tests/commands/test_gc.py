"""`llmaug gc`: old nights go, and nothing that anybody still needs.

Five nights of January, each with a published version and cached answers; CURRENT points to the
last.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from llmaug.commands.gc import Found, collect, look
from llmaug.core.formats import CARD
from llmaug.core.lease import Lease
from llmaug.core.storage import Storage, digest
from llmaug.errors import UserError
from llmaug.ingest.clean_logs import USED
from llmaug.publish import pointer

NIGHTS = [f"2026-01-0{day}" for day in range(1, 6)]


def write_night(storage: Storage, run: str, config: dict[str, Any] | None = None) -> dict[str, Any]:
    storage.write_json({"run_id": run, "config": config or {}}, f"runs/{run}", "run.json")
    storage.write_json({"finished_utc": f"{run}T02:00:00Z"}, f"runs/{run}/ingest", "_manifest.json")
    storage.write(b"events", f"runs/{run}/ingest", "part-0.parquet")
    storage.write_json({}, f"runs/{run}/report", "_manifest.json")
    storage.write(b"answers", "outcomes_cache/lm@1/users-0", f"{run}-part-0.parquet")
    version = f"published/recommender/versions/{run}-abc"
    card = {
        **CARD.stamp, "run_id": run, "version": version, "model_digest": "d", "arm": "real",
        "night": [f"{run}T02:00:00Z", f"{run}T02:00:00Z", run], "files": {"m": "d"},
    }  # fmt: skip
    storage.write(b"weights", version, "m")
    storage.write_json(card, version, pointer.CARD)
    pointer.advance(storage, "recommender", card)
    return card


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    storage = Storage(str(tmp_path))
    for run in NIGHTS:
        write_night(storage, run)
    return storage


def goes(found: list[Found], kind: str = "run") -> list[str]:
    return [each.name.rpartition("/")[2] for each in found if each.kind == kind and not each.kept]


def why(found: list[Found], name: str) -> str:
    return next(each.kept for each in found if each.name.endswith(name))


def test_old_nights_go_with_their_versions_and_their_answers(storage: Storage) -> None:
    for run in NIGHTS:  # a lease that was renewed leaves it, on a disk
        storage.write(b"", f"runs/{run}", "lease.json.lock")
    before = storage.sizes()
    found = look(storage, keep=2)
    assert goes(found) == NIGHTS[:3]
    assert goes(found, "version") == [f"{run}-abc" for run in NIGHTS[:3]]
    assert goes(found, "cached answers") == NIGHTS[:3]
    assert storage.sizes() == before  # looked at, not touched
    gone = collect(storage, found)
    left = storage.sizes()
    assert {name: size for each in gone for name, size in each.files.items()} | left == before
    assert all(not any(run in name for run in NIGHTS[:3]) for name in left)
    assert storage.names("runs") == NIGHTS[3:]
    assert goes(look(storage, keep=2)) == []  # the same again has nothing to do


def test_what_is_current_and_what_a_rollback_goes_to_stay_with_their_runs(storage: Storage) -> None:
    pointer.roll_back(storage, "recommender", f"{NIGHTS[1]}-abc")
    found = look(storage, keep=1)
    assert why(found, f"{NIGHTS[1]}-abc") == "current"
    assert why(found, f"{NIGHTS[0]}-abc") == "a rollback goes to it"
    assert goes(found) == [NIGHTS[2], NIGHTS[3]]
    collect(storage, found)
    assert pointer.current(storage, "recommender")["run_id"] == NIGHTS[1]
    pointer.roll_back(storage, "recommender")
    assert storage.exists(f"runs/{NIGHTS[0]}/ingest", "part-0.parquet")


def test_a_version_that_became_current_after_one_looked_stays(storage: Storage) -> None:
    found = look(storage, keep=1)
    assert f"{NIGHTS[0]}-abc" in goes(found, "version")
    pointer.roll_back(storage, "recommender", f"{NIGHTS[0]}-abc")
    gone = collect(storage, found)
    assert f"published/recommender/versions/{NIGHTS[0]}-abc" not in [each.name for each in gone]
    assert pointer.read_version(storage, "recommender", f"{NIGHTS[0]}-abc")["run_id"] == NIGHTS[0]


def test_a_run_that_somebody_holds_stays(storage: Storage) -> None:
    with Lease(storage, f"runs/{NIGHTS[0]}"):
        found = look(storage, keep=1)
        assert why(found, f"runs/{NIGHTS[0]}") == "somebody holds it"
    found = look(storage, keep=1)
    assert NIGHTS[0] in goes(found)
    with Lease(storage, f"runs/{NIGHTS[0]}"):  # begun between the look and the deletion
        assert f"runs/{NIGHTS[0]}" not in [each.name for each in collect(storage, found)]
    assert storage.exists(f"runs/{NIGHTS[0]}/ingest", "part-0.parquet")


def test_models_that_kept_runs_build_on_stay_and_those_that_these_build_on(
    storage: Storage,
) -> None:
    write_night(storage, NIGHTS[1], {"lm": {"warm_start": NIGHTS[0]}})
    write_night(storage, NIGHTS[4], {"lm": {"from_run": NIGHTS[1]}})
    found = look(storage, keep=1)
    assert why(found, f"runs/{NIGHTS[1]}") == "a run that is kept builds on it"
    assert why(found, f"runs/{NIGHTS[0]}") == "a run that is kept builds on it"


def test_the_night_that_drift_is_measured_against_stays(storage: Storage) -> None:
    write_night(storage, NIGHTS[4], {"gate": {"drift": {"against": NIGHTS[0]}}})
    found = look(storage, keep=1)
    assert NIGHTS[0] not in goes(found) and NIGHTS[1] in goes(found)


@pytest.mark.parametrize("config", [{"lm": ["x"]}, {"gate": {"drift": 3}}, {"gate": 1}, ["lm"]])
def test_where_a_config_is_damaged_nobody_knows_what_it_builds_on(
    config: Any, storage: Storage
) -> None:
    storage.write_json({"config": config}, f"runs/{NIGHTS[4]}", "run.json")
    with pytest.raises(UserError, match=f"{NIGHTS[4]}/run.json: damaged"):
        look(storage, keep=1)


def test_rows_of_logs_that_no_kept_run_used_go(storage: Storage) -> None:
    """Each night used its own day's file and the next; a setting was changed after the third."""
    files = [digest(day) for day in range(6)]
    for number, run in enumerate(NIGHTS):
        how = f"clean_logs/{'new' if number > 2 else 'old'}"
        used = files[number : number + 2]
        for file in used:
            storage.write(b"rows", how, f"{file}-00000.parquet")
            storage.write_json({}, how, f"{file}.json")
        storage.write_json({"folder": how, "files": used}, f"runs/{run}/ingest", USED)
    found = look(storage, keep=2)
    assert goes(found, "rows of logs") == ["old"] and why(found, "clean_logs/new")
    collect(storage, found)
    assert not storage.names("clean_logs/old")
    storage.write(b"rows", "clean_logs/new", f"{files[0]}-00000.parquet")  # of no run
    assert goes(look(storage, keep=2), "rows of logs") == ["new"]
    collect(storage, look(storage, keep=2))
    left = {name.removesuffix(".json")[:32] for name in storage.names("clean_logs/new")}
    assert left == set(files[3:])


def test_what_is_not_known_is_left_alone(storage: Storage) -> None:
    storage.write(b"notes", "runs/by-hand", "notes.txt")
    storage.write_json({"run_id": "half", "config": {}}, "runs/half", "run.json")
    storage.write(b"half", "published/recommender/versions/half-1", "m")
    found = look(storage, keep=1)
    assert why(found, "runs/by-hand") == "no run.json: look at it yourself"
    assert why(found, "runs/half") == "not come to its report"
    assert why(found, "half-1").startswith("not whole")


def test_answers_go_by_the_longest_name_of_a_run(storage: Storage) -> None:
    """`2026-01` begins the names of all, and is a run of its own that stays."""
    write_night(storage, "2026-01")
    found = look(storage, keep=5)
    assert goes(found, "cached answers") == goes(found) == ["2026-01-01"]


def test_where_nobody_can_say_what_is_in_use_nothing_goes(storage: Storage) -> None:
    storage.write(b"{}", "published/recommender", "CURRENT")
    with pytest.raises(UserError, match="CURRENT is damaged"):
        look(storage, keep=1)
    with pytest.raises(UserError, match="at least one night is kept"):
        look(storage, keep=0)
