"""`scripts/gpu_check.py` needs nothing that a bare machine with a GPU lacks."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from llmaug.config import CausalConfig, SasrecConfig
from scripts.gpu_check import FULL, SMALL

ROOT = Path(__file__).parents[2]
# Runs the script as on a machine that has torch and transformers alone.
BARE = """
import runpy, sys

MISSING = {"ray", "vllm", "s3fs", "botocore", "pydantic", "pydantic_core"}

class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in MISSING:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Missing())
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def test_it_trains_ranks_and_exports_without_ray_vllm_and_pydantic(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", BARE, str(ROOT / "scripts/gpu_check.py"), "--device=cpu", "--small"],
        cwd=tmp_path, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["passed"] and found["versions"]["pydantic"] is None and found["card"] is None
    for model in ("causal", "sasrec"):
        assert found[model]["computes_in"] == "bfloat16"
        assert found[model]["targets_per_s"] > 0 and found[model]["tokens_per_s"] > 0
        assert found[model]["last_loss"] < 0.8 * found[model]["first_loss"]
        assert found[model]["ndcg@10"] > 3 * found["popularity"]["ndcg@10"]
    # The same arithmetic in float32: what differs is the order of the sums.
    assert found["parity"]["float32"] < 1e-3 < found["parity"]["bfloat16"] < 0.2


def test_where_configs_are_checked_its_own_are_right() -> None:
    for sizes in (FULL, SMALL):
        CausalConfig(**sizes.causal, num_steps=sizes.steps, learning_rate=sizes.learning_rate)
        SasrecConfig(**sizes.sasrec, num_steps=sizes.steps, learning_rate=sizes.learning_rate)
