"""The whole job with its logs on, and everything written to, a real S3 server."""

from __future__ import annotations

from pathlib import Path

import pytest

from llmaug.storage import Storage
from tests.jobs import SMALL, llmaug, write_config, write_logs
from tests.servers import BUCKET, SECRET_KEY

pytestmark = [pytest.mark.s3, pytest.mark.usefixtures("shared_ray")]
ROOT = f"s3://{BUCKET}/team/llmaug"


def test_the_job_runs_on_s3_and_leaks_no_secret(endpoint: str, tmp_path: Path) -> None:
    write_logs(ROOT, endpoint)
    config = write_config(tmp_path, SMALL)
    command = ("run", "-c", str(config), "--root", ROOT, "--endpoint-url", endpoint)

    done = llmaug(*command)
    assert done.returncode == 0, done.stderr

    storage = Storage(ROOT, endpoint)
    metrics = storage.read_json("runs/small/report", "metrics.json")
    ledger = metrics["ledger"]
    assert ledger["units"] == ledger["accepted"] + ledger["rejected"] + ledger["failed"] == 100
    assert ledger["failed"] == 0
    assert storage.read_json("published/recommender", "CURRENT")["run_id"] == "small"
    assert storage.read_json("runs/small", "lease.json") is None, "the lease was not released"

    answer = llmaug("recommend", "--user", "1", "--k", "3", "--root", ROOT,
                    "--endpoint-url", endpoint)  # fmt: skip
    assert answer.returncode == 0, answer.stderr
    assert "model published/recommender/versions/small-" in answer.stdout

    again = llmaug(*command)
    assert again.returncode == 0, again.stderr
    assert again.stderr.count("unchanged, skipped") == len(metrics["stages"]) + 1

    texts = [done.stdout, done.stderr, *_small_files(storage)]
    assert len(texts) > 20
    assert not any(SECRET_KEY in text for text in texts)


def test_a_piece_of_an_object_is_read_alone(endpoint: str) -> None:
    storage = Storage(ROOT, endpoint)
    storage.write(b"0123456789", "pieces", "object")
    assert storage.size("pieces", "object") == 10
    assert storage.read_range(2, 5, "pieces", "object") == b"234"


def _small_files(storage: Storage) -> list[str]:
    names = [name for name in storage.fs.find(storage.path("runs")) if name.endswith(".json")]
    return [storage.fs.cat_file(name).decode() for name in names]


def test_a_missing_bucket_and_a_wrong_secret_are_explained(
    endpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = str(write_config(tmp_path, SMALL))
    missing = llmaug("run", "-c", config, "--root", "s3://no-such-bucket/x",
                     "--endpoint-url", endpoint)  # fmt: skip
    assert missing.returncode == 1
    assert "no-such-bucket" in missing.stderr and "Traceback" not in missing.stderr

    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    refused = llmaug("run", "-c", config, "--root", ROOT, "--endpoint-url", endpoint)
    assert refused.returncode == 1
    assert "no permission" in refused.stderr and "Traceback" not in refused.stderr


def test_conditional_writes_hold_on_s3(endpoint: str) -> None:
    storage = Storage(ROOT, endpoint)
    assert storage.create({"n": 1}, "pointer.json")
    assert not storage.create({"n": 2}, "pointer.json")
    value, version = storage.read_version("pointer.json")
    assert value == {"n": 1} and version
    assert storage.swap({"n": 3}, version, "pointer.json")
    assert not storage.swap({"n": 4}, version, "pointer.json"), "a stale version must not win"
    assert storage.read_json("pointer.json") == {"n": 3}
