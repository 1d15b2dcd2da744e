"""llmaug from Python, on a finished night."""

from __future__ import annotations

import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import yaml

import llmaug
from llmaug.api import Run
from llmaug.config import Config, load_config
from llmaug.core.storage import Storage
from llmaug.errors import UserError
from llmaug.publish.recommend import for_user, score_pairs
from llmaug.schema import ANSWER, EVENT, SCORED_PAIR
from tests.nights import NIGHT, make_night, without_ray
from tests.tables import histories

USERS = {"u1": "ab", "u2": "bca", "u3": "cab", "u4": "abc"}
EXAMPLE = Path(__file__).parents[2] / "examples" / "api.py"


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A night in `home/root`, its config and logs beside it."""
    home = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        without_ray(patch)
        make_night(home / "root", home, histories(**USERS))
    return home


@pytest.fixture
def run(home: Path) -> Run:
    return llmaug.open_run(home / "root", NIGHT)


def test_importing_the_package_loads_nothing_and_asking_loads_the_api() -> None:
    script = (
        "import sys, llmaug\n"
        "heavy = {'llmaug.api', 'numpy', 'pyarrow', 'pydantic', 'ray'} & set(sys.modules)\n"
        "print(sorted(heavy), llmaug.open_run.__module__, {'ray', 'torch'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.stdout == "[] llmaug.api set()\n", done.stderr
    with pytest.raises(AttributeError, match="no attribute 'open_runs'"):
        llmaug.open_runs  # type: ignore[attr-defined]  # noqa: B018


def test_a_finished_run_is_gone_on_with_from_a_file_a_mapping_or_a_config(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All three mean the same run: every stage of it is skipped."""
    without_ray(monkeypatch)
    file = home / "config.yaml"
    sections = yaml.safe_load(file.read_text(encoding="utf-8"))
    sections["ingest"]["path"] = "events.csv"
    monkeypatch.chdir(home)  # where relative paths of a mapping start
    before = llmaug.open_run(home / "root", NIGHT)
    manifests = {stage: before.manifest(stage) for stage in before.stages}
    for config in (file, sections, load_config(file)):
        run = llmaug.run(config, root=home / "root")
        assert run.run_id == NIGHT
        assert {stage: run.manifest(stage) for stage in run.stages} == manifests


def test_a_config_with_days_is_for_the_day_that_is_given(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran: list[tuple[str, str, float]] = []

    def job(config: Config, storage: Storage, run_id: str, *_: Any, **options: Any) -> None:
        ran.append((config.ingest.path, run_id, options["wait_s"]))

    monkeypatch.setattr("llmaug.api.pipeline.run", job)
    monkeypatch.chdir(home)
    sections = {"name": "shop", "ingest": {"path": "{root}/dt={date}"}}
    with pytest.raises(UserError, match="ingest.path has {date}: give the day"):
        llmaug.run(sections, root=home / "root")
    llmaug.run(sections, root=home / "root", date="2026-03-01", wait_s=60)
    assert ran == [("{root}/dt=2026-03-01", "shop-2026-03-01", 60)]


def test_a_run_tells_its_state_its_figures_and_its_config(run: Run, home: Path) -> None:
    assert {stage["state"] for stage in run.status["stages"]} == {"done"}
    assert run.stages[0] == "ingest" and run.stages[-1] == "report"
    assert run.metrics["num_users"] == 3  # of u1's two events both train
    assert run.manifest("ingest")["counts"]["users"] == len(USERS)
    assert run.config == load_config(home / "config.yaml")


def test_a_table_is_all_parts_of_a_stage(run: Run) -> None:
    events = run.table("ingest")
    assert events.schema.equals(EVENT)
    had: dict[str, str] = {}
    for event in events.sort_by("timestamp").to_pylist():
        had[event["user_id"]] = had.get(event["user_id"], "") + event["item_id"]
    assert had == USERS
    assert run.table("ingest", columns=["item_id"]).column_names == ["item_id"]


def test_parts_are_read_when_it_is_their_turn(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []
    original = Storage.read_part

    def counted(storage: Storage, folder: str, part: str, *more: Any) -> pa.Table:
        read.append(part)
        return original(storage, folder, part, *more)

    monkeypatch.setattr(Storage, "read_part", counted)
    parts = run.parts("split/train")
    assert read == []
    first = next(parts)
    assert read == ["part-00000"]
    assert first.num_rows + sum(part.num_rows for part in parts) == 2 + 3 * (3 - 2)


def test_what_is_no_table_is_named_with_those_that_are(run: Run) -> None:
    with pytest.raises(UserError, match="no stage 'evnts'; stages here: ingest, split"):
        run.table("evnts")
    with pytest.raises(UserError, match="no table; tables of split: .*split/train"):
        run.table("split")
    with pytest.raises(UserError, match="runs here: night"):
        llmaug.open_run(run.storage.root, "nigth")


def test_what_is_not_there_yet_or_no_more_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_ray(monkeypatch)
    config = make_night(tmp_path / "root", tmp_path)
    Storage(str(tmp_path / "root")).delete(f"runs/{NIGHT}/report")
    run = llmaug.run(config, tmp_path / "root", until="recommend")
    assert run.stages[-1] == "recommendations"
    with pytest.raises(UserError, match="no report yet"):
        print(run.metrics)
    (tmp_path / f"root/runs/{NIGHT}/split/train/part-00001.parquet").unlink()
    with pytest.raises(UserError, match="train/part-00001.parquet: is missing"):
        run.table("split/train")


def test_the_published_model_answers_as_the_commands_do(home: Path) -> None:
    storage = Storage(str(home / "root"))
    model = llmaug.load_published(home / "root")
    assert model.card["run_id"] == NIGHT

    answer = model.recommend([*USERS, "nobody"], k=2)
    assert answer.schema.equals(ANSWER)
    for user in (*USERS, "nobody"):
        one = for_user(storage, "recommender", user, k=2)
        rows = [row for row in answer.to_pylist() if row["user_id"] == user]
        assert [row["item_id"] for row in rows] == [item["item_id"] for item in one["items"]]
        assert {row["known_user"] for row in rows} <= {user in USERS}
    assert {row["item_id"] for row in answer.to_pylist() if row["user_id"] == "u1"} == {"c"}

    pairs = [("u1", "c"), ("nobody", "a"), ("u1", "no such item")]
    scores = model.score(pairs)
    assert scores.schema.equals(SCORED_PAIR)
    assert scores.to_pylist() == score_pairs(storage, "recommender", pairs)
    assert scores["known_item"].to_pylist() == [True, True, False]
    assert scores["score"].is_valid().to_pylist() == [True, True, False]
    assert model.recommend([]).num_rows == model.score([]).num_rows == 0


def test_ids_are_texts_as_in_the_logs(home: Path) -> None:
    model = llmaug.load_published(home / "root")
    with pytest.raises(UserError, match="196: ids are texts"):
        model.recommend([196])  # type: ignore[list-item]
    with pytest.raises(UserError, match="give a list"):
        model.recommend("u1")
    with pytest.raises(UserError, match="at least 1"):
        model.recommend(["u1"], k=0)
    with pytest.raises(UserError, match="no published model"):
        llmaug.load_published(home / "root", "other")


def test_the_example_runs(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    without_ray(monkeypatch)
    runpy.run_path(str(EXAMPLE))["main"](str(home / "config.yaml"), str(home / "root"))
    said = capsys.readouterr().out
    assert "'report': 'done'" in said and "5 events to train on" in said
    assert "published/recommender/versions/" in said and "'no such item'" in said
