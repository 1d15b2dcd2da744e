"""`--log-json`: what a log collector is given."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from llmaug.cli.app import app
from llmaug.cli.json_log import JsonProgress
from llmaug.core import progress as shown


def test_every_line_is_an_object_with_run_and_stage(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shown, "LINE_EVERY_S", 0.0)
    states: list[dict] = []
    log = JsonProgress("monday").publishing(states.append)
    log.note("before the stages")
    log.skipped("ingest")
    log.start("split")
    log.warn('a "warning"\nof two lines, and \u2028 \x1b[31m')
    with log.track(2, "parts") as advance:
        advance(1, {"train": 12})
    log.finish("split", 1.256)
    log.note("after them")
    lines = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert {line["run"] for line in lines} == {"monday"} and all(line["time"] for line in lines)
    assert [(line["stage"], line["event"]) for line in lines] == [
        (None, "note"), ("ingest", "skipped"), ("split", "started"), ("split", "warning"),
        ("split", "progress"), ("split", "finished"), (None, "note"),
    ]  # fmt: skip
    assert lines[3]["text"] == 'a "warning"\nof two lines, and \u2028 \x1b[31m'
    assert (lines[4]["done"], lines[4]["total"], lines[4]["counts"]) == (1, 2, {"train": "12"})
    assert lines[5]["seconds"] == 1.26 and states[-1]["done"] == 1


def test_a_run_that_fails_says_so(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text("name: shop\ningest: {path: nowhere}\n")
    command = ["run", "--config", str(tmp_path / "c.yaml"), "--root", str(tmp_path / "root"),
               "--until", "split"]  # fmt: skip
    done = CliRunner().invoke(app, command, env={"LLMAUG_LOG_JSON": "1"})
    assert done.exit_code == 1
    line = json.loads(done.stderr.splitlines()[-1])
    assert (line["run"], line["event"]) == ("shop", "failed") and "nowhere" in line["error"]
