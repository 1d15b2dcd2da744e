"""Two nights beside each other."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from llmaug.cli.app import app
from llmaug.commands.report_versus import render_versus, versus
from llmaug.errors import UserError
from llmaug.report import stage as report
from llmaug.report.tables import Table
from tests.nights import NIGHT, make_night, without_ray
from tests.report.test_report import CONFIG, FEW, MANY, manifests, tables_of


def night(run_id: str, arms: tuple[str, ...], **config: Any) -> dict[str, Any]:
    plain = CONFIG.model_dump(mode="json")
    metrics = report.collect(manifests(arms), set())
    return {"run_id": run_id, **metrics, "config": {**plain, **config}}


def texts(found: list[Table], name: str) -> dict[str, list[str]]:
    (own,) = [each for each in found if each.name == name]
    return {row[0].text: [cell.text for cell in row[1:]] for row in own.rows}


def test_figures_stand_beside_each_other_with_their_change() -> None:
    monday, tuesday = night("monday", FEW), night("tuesday", FEW, seed=8)
    tuesday["ledger"] |= {"units": 50, "rejected": 11}
    tuesday["throughput"] |= {"engine_hours": 0.5}
    found = versus(monday, tuesday)
    events = texts(found, "events")
    assert events["units"] == ["40", "50", "+25.0%"]
    assert events["units rejected"] == ["1", "11", "+1000.0%"]
    assert events["units accepted"] == ["39", "39", "none"]
    assert texts(found, "cost")["engine hours"] == ["0.000", "0.500", ""]
    assert texts(found, "settings") == {"seed": ["7", "8"]}


def test_an_arm_of_one_run_alone_is_absent_in_the_other() -> None:
    found = texts(versus(night("a", FEW), night("b", MANY)), "arms")
    assert found["ndcg@10 of fusion"][0] == "n/a" and found["ndcg@10 of fusion"][2] == ""
    assert "(" in found["ndcg@10 of real"][0]


def test_a_night_of_an_earlier_version_can_be_compared() -> None:
    earlier = night("a", FEW)
    del earlier["fidelity"]
    assert texts(versus(earlier, night("b", FEW)), "safety")["hour js"] == ["n/a", "n/a", ""]


def test_the_page_has_the_tables_and_a_plot_of_both() -> None:
    page = render_versus(night("a<b>", FEW), night("b", FEW))
    assert list(tables_of(page)) == ["plot-arms-numbers", "decision", "arms", "events", "safety",
                                     "cost"]  # fmt: skip
    assert "a<b>" not in page and "real (a&lt;b&gt;)" in page


def test_the_command_prints_one_run_or_compares_two(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_ray(monkeypatch)
    root = tmp_path / "root"
    make_night(root, tmp_path)

    def said(*arguments: str) -> str:
        result = CliRunner().invoke(app, ["report", *arguments, "--root", str(root)])
        assert result.exit_code == 0, result.exception
        return result.stdout

    assert "What did it cost?" in said(NIGHT)
    assert json.loads(said(NIGHT, "--json"))["run_id"] == NIGHT
    assert "ndcg@10 of real" in said(NIGHT, NIGHT)
    assert (root / "comparisons" / f"{NIGHT}--{NIGHT}.html").exists()
    refused = CliRunner().invoke(app, ["report", "sunday", "--root", str(root)])
    assert isinstance(refused.exception, UserError)
