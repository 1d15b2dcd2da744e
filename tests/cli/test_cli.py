"""The command line as its users meet it."""

from __future__ import annotations

import csv
import io
import json
import subprocess
import sys
from pathlib import Path

import pytest

from llmaug.config import Config
from tests.jobs import llmaug, write_config

EXAMPLE = Path("examples/text_logs")


@pytest.mark.parametrize(
    "command",
    [
        "run",
        "status",
        "evaluate",
        "publish",
        "recommend",
        "score",
        "ab",
        "counterfactual",
        "datasets",
        "doctor",
        "config schema",
        "schema",
        "config check",
    ],
)
def test_help_has_an_example_and_loads_nothing_heavy(command: str) -> None:
    """Heavy imports are what makes help slow; seconds themselves depend on the machine."""
    script = (
        "import sys; from llmaug.cli.app import app\n"
        f"try: app({[*command.split(), '--help']!r})\n"
        "except SystemExit: pass\n"
        "print(sorted({'ray', 'torch', 'transformers', 'vllm', 'pandas'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert "Example: " in done.stdout, done.stderr
    assert done.stdout.rstrip().endswith("[]"), done.stdout.splitlines()[-1]


def test_schema_describes_every_field() -> None:
    schema = json.loads(llmaug("config", "schema").stdout)
    assert set(schema["properties"]) == set(Config.model_fields)
    for name, model in schema["$defs"].items():
        for field, facts in model["properties"].items():
            assert "description" in facts or "$ref" in facts or facts.get("const"), (
                f"{name}.{field}"
            )


def test_errors_are_one_line_and_exit_with_1(tmp_path: Path) -> None:
    typo = llmaug("run", "-c", str(write_config(tmp_path, {"ingets": {}})))
    assert typo.returncode == 1
    assert "did you mean 'ingest'?" in typo.stderr and "Traceback" not in typo.stderr

    no_step = llmaug("run", "-c", str(write_config(tmp_path, {})), "--until", "trian")
    assert no_step.returncode == 1 and "steps are: ingest" in no_step.stderr

    for command in (["recommend", "--user", "1"], ["status", "x"]):
        nothing = llmaug(*command, "--root", str(tmp_path))
        assert nothing.returncode == 1 and "error:" in nothing.stderr


def test_a_root_that_cannot_be_written_stops_the_run_at_once(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    done = llmaug("run", "-c", "examples/text_logs/config.yaml", "--root", str(tmp_path / "file/x"))
    assert done.returncode == 1
    assert "cannot write here" in done.stderr and "Traceback" not in done.stderr


def test_three_lines_of_text_become_a_recommender(tmp_path: Path) -> None:
    """The example of examples/text_logs: r(u, i) = sigmoid(beta^T [u; i])."""

    root = str(tmp_path / "root")
    done = llmaug("run", "-c", str(EXAMPLE / "config.yaml"), "--root", root)
    assert done.returncode == 0, done.stderr
    # Ray's core calls the arguments of every pool of actors an error.
    assert "constructor arguments" not in done.stderr and "RAY_BACKEND" not in done.stderr

    answer = llmaug("score", "--pairs", str(EXAMPLE / "pairs.csv"), "--root", root)
    assert answer.returncode == 0, answer.stderr
    rows = list(csv.DictReader(io.StringIO(answer.stdout)))
    assert [(row["user_id"], row["item_id"]) for row in rows] == [
        ("用户1", "商品4"),
        ("用户2", "商品5"),
    ]
    assert all(0 < float(row["score"]) < 1 for row in rows)
    assert all(row["known_user"] == "True" and row["known_item"] == "False" for row in rows)

    state = json.loads(llmaug("status", "text-logs", "--root", root, "--json").stdout)
    assert state["holder"] is None
    assert {stage["state"] for stage in state["stages"]} == {"done"}
    events = [stage for stage in state["stages"] if stage["name"] == "ingest"]
    assert events[0]["rows"] == 3
