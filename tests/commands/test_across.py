"""Several data sets, one table: what failed is said, and luck is not taken for help."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from llmaug import pipeline
from llmaug.commands import datasets_compare as across
from llmaug.config import Config
from llmaug.core.storage import Storage
from llmaug.core.terminal import Terminal
from llmaug.errors import Interrupted
from llmaug.evaluate.bootstrap import p_of_gain, relative_lift
from llmaug.report import stage as report
from tests.jobs import SMALL, changed, write_logs
from tests.report.test_report import FEW, MANY, Cells, manifests


def row(name: str, error: str | None = None, **p: float) -> dict[str, Any]:
    """A data set's row; keywords are the p of its lift over each arm."""
    lifts = {
        against: {"relative": 0.1, "low": 0.01, "high": 0.2, "p": v} for against, v in p.items()
    }
    arms = {arm: {"mean": 0.1, "low": 0.0, "high": 0.2} for arm in FEW}
    gate = {"passed": False, "reasons": []}
    return {
        "dataset": name, "config": f"{name}.yaml", "error": error, "num_users": 10,
        "num_events": 100, "metric": "ndcg@10", "arms": arms, "lifts": lifts, "gate": gate,
    }  # fmt: skip


# -- the claim ---------------------------------------------------------------------------------


def test_one_lucky_data_set_of_ten_is_no_help() -> None:
    """p 0.03 is a find for one data set and luck among ten; p 0.001 is a find for both."""
    others = [row(f"d{n}", real=0.6) for n in range(9)]
    assert across.summarise([row("lucky", real=0.03)])["helped"] == ["lucky"]
    assert across.summarise([row("lucky", real=0.03), *others])["helped"] == []
    summary = across.summarise([row("clear", real=0.001), *others])
    assert summary["claim"].startswith("Augmentation helped on 1 of 10 data sets (clear)")
    assert summary["datasets"][0]["adjusted_p"] == pytest.approx(0.01)


def test_holm_by_hand() -> None:
    summary = across.summarise([row("a", real=0.02), row("b", real=0.01), row("c", real=0.04)])
    assert [r["adjusted_p"] for r in summary["datasets"]] == pytest.approx([0.04, 0.03, 0.04])
    assert summary["num_helped"] == 3


def test_the_control_has_to_be_beaten_too() -> None:
    summary = across.summarise([row("volume", real=0.001, oversampled=0.4)])
    assert summary["helped"] == [] and summary["datasets"][0]["p"] == 0.4


def test_a_data_set_that_failed_counts_as_one_that_was_not_helped() -> None:
    failed = {"dataset": "gone", "config": "gone.yaml", "error": "no such folder"}
    summary = across.summarise([row("a", real=0.03), failed])
    assert summary["datasets"][0]["adjusted_p"] == pytest.approx(0.06)  # of two, not of one
    assert "helped on 0 of 2" in summary["claim"]
    assert "1 failed and count as not helped" in summary["claim"]


def test_p_below_a_twentieth_goes_with_an_interval_above_zero() -> None:
    rng = np.random.default_rng(0)
    for shift in np.linspace(-4, 4, 41):
        old = np.r_[1.0, rng.normal(1, 0.01, 2000)]
        new = old + np.r_[0.01 * shift, rng.normal(0.01 * shift, 0.01, 2000)]
        above = relative_lift(new, old)["low"] > 0
        p = p_of_gain(new, old)
        assert (p < 0.05) == above or abs(p - 0.05) < 0.002
    assert p_of_gain(np.array([1.0, np.nan]), np.array([0.0, np.nan])) == 1


def test_p_of_nothing_new_is_seldom_small() -> None:
    """Two arms of one quality, 1,000 times: about one in forty seems to be a gain."""
    rng = np.random.default_rng(1)
    found = 0
    for mean in rng.normal(0, 1, 1000):
        resamples = rng.normal(mean, 1, 400)
        found += p_of_gain(np.r_[mean, resamples], np.zeros(401)) < 0.05
    assert 0.012 < found / 1000 < 0.04


# -- the table -----------------------------------------------------------------------------------


def test_a_row_has_the_figures_of_the_report(tmp_path: Path) -> None:
    metrics = report.collect(manifests(MANY), set())
    found = {"dataset": "films", "config": "f.yaml", "error": None, **across.figures(metrics)}
    failed = {"dataset": "<b>gone</b>", "config": "gone.yaml", "error": "no such folder"}
    summary = across.summarise([found, failed])
    films, gone = (across.cells(r) for r in summary["datasets"])
    arms, lift = metrics["arms"], metrics["lifts"]
    assert films[:3] == ["films", "300", "900"]
    assert films[3] == f"{arms['real']['ndcg@10']['mean']:.4f}"
    assert films[4] == f"{arms['augmented']['ndcg@10']['mean']:.4f}"
    for cell, against in ((films[5], "real"), (films[6], "oversampled")):
        [one] = [e for e in lift if (e["arm"], e["against"], e["metric"])
                 == ("augmented", against, "ndcg@10")]  # fmt: skip
        assert cell.startswith(f"{one['relative']:+.1%} (")
    assert films[7].startswith("refused, p ")
    assert gone[-1] == "failed: no such folder"

    storage = Storage(str(tmp_path))
    across.write(storage, summary)
    page = storage.read("datasets", "datasets.html").decode()
    assert Cells(page).rows[1] == films and len(Cells(page).rows) == 3
    assert "<b>gone" not in page
    assert storage.read_json("datasets", "datasets.json") == json.loads(json.dumps(summary))
    console = Terminal(width=200, record=True, quiet=False)
    console.print(across.table(summary))
    assert "failed: no such folder" in console.export_text()


def test_without_the_control_its_column_says_so() -> None:
    found = across.figures(report.collect(manifests(FEW), set()))
    summary = across.summarise([{"dataset": "d", "config": "d.yaml", "error": None, **found}])
    assert across.cells(summary["datasets"][0])[6] == "not trained"


# -- the runs ------------------------------------------------------------------------------------


def configs(folder: Path, **sections: dict[str, Any]) -> list[Path]:
    """A config file for each keyword, of that name, over one root."""
    paths = []
    for name, changes in sections.items():
        whole = changed({**SMALL, "name": name, "storage": {"root": str(folder)}}, **changes)
        paths.append(folder / f"{name}.yaml")
        paths[-1].write_text(yaml.safe_dump(whole), encoding="utf-8")
    return paths


def storage_of(config: Config) -> Storage:
    return Storage(config.storage.root)


def test_a_data_set_that_fails_does_not_stop_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    good = configs(tmp_path, first={}, last={})
    typo = tmp_path / "typo.yaml"
    typo.write_text("ingets: {}")
    twin = tmp_path / "twin.yaml"
    twin.write_text(good[0].read_text())
    asked: list[tuple[str, bool]] = []

    def run(config: Config, storage: Storage, run_id: str, progress: Any, publishing: bool) -> None:
        asked.append((run_id, publishing))
        if run_id == "last":
            raise RuntimeError("an engine fell over")

    monkeypatch.setattr(pipeline, "run", run)
    monkeypatch.setattr(report, "load_metrics", lambda *_: report.collect(manifests(FEW), set()))
    summary = across.compare([typo, good[0], twin, good[1]], storage_of)
    assert asked == [("first", False), ("last", False)]
    errors = {r["config"]: r["error"] for r in summary["datasets"]}
    assert "did you mean 'ingest'" in errors[str(typo)]
    assert errors[str(good[0])] is None
    assert f"is the run of {good[0]}" in errors[str(twin)]
    assert errors[str(good[1])] == "RuntimeError: an engine fell over"
    assert summary["num_failed"] == 3


@pytest.mark.parametrize("stop", [KeyboardInterrupt(), Interrupted("stopped")])
def test_ctrl_c_stops_them_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop: BaseException
) -> None:
    def run(*_: Any, **__: Any) -> None:
        raise stop

    monkeypatch.setattr(pipeline, "run", run)
    with pytest.raises(type(stop)):
        across.compare(configs(tmp_path, first={}, last={}), storage_of)


def test_two_real_runs_that_publish_nothing_and_are_not_run_twice(
    tmp_path: Path, ray_session: None, stages_here: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(across, "disconnect", lambda: None)  # one Ray serves all tests
    write_logs(str(tmp_path))
    fast = {
        "train": {"model": "popularity", "arms": ["real", "oversampled", "augmented"]},
        "generate": {"engine": "uniform"},
    }
    thin = {**fast, "split": {"max_train_events": 5}}
    gone = {**fast, "ingest": {"path": "{root}/nowhere"}}
    paths = configs(tmp_path, full=fast, gone=gone, thin=thin)

    summary = across.compare(paths, storage_of)

    full, missing, thinned = summary["datasets"]
    assert "nowhere" in missing["error"]
    assert full["error"] is None and thinned["error"] is None
    assert full["num_users"] == thinned["num_users"] == 60
    assert thinned["num_events"] == 5 * 60 < full["num_events"]
    assert set(full["lifts"]) == {"real", "oversampled"}
    storage = Storage(str(tmp_path))
    assert not storage.names("published")
    page = storage.read("runs/full/report", "report.html").decode()
    assert "Nothing was published" in page

    written = storage.read_json("runs/thin/model/augmented", "_manifest.json")
    again = across.compare(paths, storage_of)
    assert again == summary
    assert storage.read_json("runs/thin/model/augmented", "_manifest.json") == written
