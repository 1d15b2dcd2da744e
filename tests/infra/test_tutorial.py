"""The tutorial runs as it is written: each of its shell blocks, in their order, in an empty folder.
Marked soak: it is a whole job, with a language model and vLLM, in processes of its own."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from llmaug.config import load_config

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "tutorial.md"


def blocks() -> list[str]:
    return re.findall(r"^```bash\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)


def test_the_config_of_the_tutorial_is_one(tmp_path: Path) -> None:
    [written] = [found for block in blocks()
                 for found in re.findall(r"<<'YAML'\n(.*?)^YAML$", block, re.M | re.S)]  # fmt: skip
    path = tmp_path / "shop.yaml"
    path.write_text(written)
    assert load_config(path).split.kind == "temporal"


@pytest.mark.soak
def test_the_tutorial_runs_as_written(tmp_path: Path) -> None:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    known = {**os.environ, "PATH": path, "PYTHONPATH": str(ROOT)}
    known.pop("LLMAUG_ROOT", None)
    script = "\n".join(["set -euo pipefail", *blocks()])
    done = subprocess.run(
        ["bash", "-c", script], cwd=tmp_path, env=known, capture_output=True, text=True
    )
    assert done.returncode == 0, f"{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    assert (tmp_path / "shop/runs/first/report/report.html").exists()
    assert re.search(r"\(#\d+ without\)", done.stdout)  # a recommendation has its reasons
