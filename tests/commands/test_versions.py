"""`llmaug publish --list`: three nights, of which the last was rolled back."""

from __future__ import annotations

import json
from pathlib import Path

from typer.testing import CliRunner

from llmaug.cli.app import app
from llmaug.commands.forget import MARK
from llmaug.commands.versions import list_versions
from llmaug.core.storage import Storage
from llmaug.publish import pointer
from tests.commands.test_gc import NIGHTS, write_night


def test_versions_say_when_they_were_current_and_what_their_run_measured(tmp_path: Path) -> None:
    storage = Storage(str(tmp_path))
    for run in NIGHTS[:3]:
        write_night(storage, run)
    lift = {"ndcg@10": {"relative": 0.12, "low": 0.04, "high": 0.2, "against": "real"}}
    storage.write_json({"lift": lift}, "runs", NIGHTS[0], "report", "metrics.json")
    pointer.roll_back(storage, "recommender")
    storage.write_json({}, "published/recommender/versions", f"{NIGHTS[0]}-abc", MARK)

    found = list_versions(storage, "recommender")
    assert [(each["run_id"], each["place"]) for each in found] == [
        (NIGHTS[2], None), (NIGHTS[1], 0), (NIGHTS[0], 1),
    ]  # fmt: skip
    assert [each["lift"] for each in found] == [None, None, lift]
    assert found[1]["held"]["reason"] == "rolled back" and not found[0]["held"]
    command = ["publish", "--list", "--root", str(tmp_path)]
    shown = CliRunner().invoke(app, command, env={"COLUMNS": "200"}).stdout.splitlines()
    assert "current, held: rolled back" in shown[2]
    assert "1 before, retrain" in shown[3] and "ndcg@10 +12.0% (+4.0% to +20.0%)" in shown[3]
    assert json.loads(CliRunner().invoke(app, [*command, "--json"]).stdout) == found
