"""Generation on a real S3 server that fails one call in ten, and on one that goes away."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from llmaug import pipeline
from llmaug.config import parse_config
from llmaug.core.stage import MANIFEST
from llmaug.core.storage import Storage
from tests.faults import fault_proxy
from tests.generate.test_exactly_once import ids
from tests.jobs import SMALL, changed, llmaug, start, wait_until, write_config, write_logs
from tests.servers import BUCKET

pytestmark = [pytest.mark.soak, pytest.mark.s3, pytest.mark.usefixtures("shared_ray")]

NUM_PARTS, PER_PART = 12, 16
CONFIG = changed(
    SMALL,
    generate={"engine": "uniform", "simulated_tokens_per_s": 1000.0},
    plan={
        "strategies": [{"kind": "new_users", "num_users": NUM_PARTS * PER_PART, "num_events": 8}],
        "units_per_part": PER_PART,
    },
)
ROOT = f"s3://{BUCKET}/night"
OUTCOMES = "runs/small/outcomes"


def test_faults_cost_time_and_nothing_else(endpoint: str, tmp_path: Path) -> None:
    write_logs(ROOT, endpoint)
    storage = Storage(ROOT, endpoint)
    pipeline.run(parse_config(CONFIG), storage, "small", until="plan")
    command = ("run", "-c", str(write_config(tmp_path, CONFIG)), "--root", ROOT)

    with fault_proxy(endpoint, share=0.1, seed=2) as proxy:
        through_proxy = (*command, "--endpoint-url", proxy.url, "--until", "generate")
        run = start(*through_proxy)
        wait_until(lambda: len(storage.parts(OUTCOMES)) >= 3, run)
        proxy.die()  # storage is gone for good
        begin = time.monotonic()
        _, said = run.communicate(timeout=600)
        assert run.returncode == 1
        # Bounded, that is: seconds depend on what else the machine does.
        assert time.monotonic() - begin < 400
        assert "storage does not answer" in said and "Traceback" not in said, said
        assert sum(number for fault, number in proxy.counts.items() if fault != "none") > 5

    # It is back, no better than before: a later run resumes.
    with fault_proxy(endpoint, share=0.1, seed=3) as proxy:
        resumed = llmaug(*command, "--endpoint-url", proxy.url, "--until", "generate")
        assert resumed.returncode == 0, resumed.stderr
        assert sum(number for fault, number in proxy.counts.items() if fault != "none") > 20
    asked, answered = ids(storage, "runs/small/plan"), ids(storage, OUTCOMES)
    assert asked == answered and len(asked) == NUM_PARTS * PER_PART
    assert storage.read_json(OUTCOMES, MANIFEST)["counts"]["generated"] == NUM_PARTS * PER_PART
