"""On a real S3 server: what published models and lists stand on. The whole job on it is in
`test_end_to_end`."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest

from llmaug import pipeline
from llmaug.commands import recommend_all
from llmaug.config import parse_config
from llmaug.config.names import check_name
from llmaug.core.stage import Context
from llmaug.core.storage import Storage
from llmaug.errors import UserError
from llmaug.publish import pointer
from llmaug.publish import stage as publish
from tests.jobs import SMALL, llmaug, write_config
from tests.publish.test_publish import read_logs, write_model
from tests.servers import BUCKET
from tests.tables import write_finished

pytestmark = pytest.mark.s3
ROOT = f"s3://{BUCKET}/team/llmaug"


def test_a_piece_of_an_object_is_read_alone(endpoint: str) -> None:
    storage = Storage(ROOT, endpoint)
    storage.write(b"0123456789", "pieces", "object")
    assert storage.size("pieces", "object") == 10
    assert storage.read_range(2, 5, "pieces", "object") == b"234"


def test_a_missing_bucket_and_a_wrong_secret_are_explained(endpoint: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no-such-bucket"):
        pipeline.run(parse_config(SMALL), Storage("s3://no-such-bucket/x", endpoint), "small")
    # As a command: this process has the right secret, and is connected with it.
    config = str(write_config(tmp_path, SMALL))
    refused = llmaug("run", "-c", config, "--root", ROOT, "--endpoint-url", endpoint,
                     AWS_SECRET_ACCESS_KEY="wrong")  # fmt: skip
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


def test_names_of_every_script_come_back_from_s3(endpoint: str) -> None:
    storage = Storage(ROOT, endpoint)
    names = sorted(
        check_name(name) for name in ("a..b", "A_b-c", "cafe\u0301", "夜間", "ночь", "𐐀")
    )
    for name in names:
        storage.write(b"x", "names", name, f"{name}-1")
    assert storage.names("names") == names
    assert [storage.names("names", name) for name in names] == [[f"{name}-1"] for name in names]


def test_only_folders_of_runs_are_emptied_on_s3(endpoint: str) -> None:
    storage = Storage(ROOT, endpoint)
    for name in ("theirs/a", "theirs/b/c", "runs/n1/stage/a", "runs/n1/stage2/a"):
        storage.write(b"x", name)
    for folder in ("theirs", "theirs/b", "runs", "runs/n1"):
        with pytest.raises(UserError, match="not deleted"):
            storage.delete(folder)
    storage.delete("theirs/a")
    storage.delete("runs/n1/stage")
    assert list(storage.sizes("theirs")) == ["b/c"]
    assert list(storage.sizes("runs/n1")) == ["stage2/a"]


def test_publishing_rolling_back_and_renewing_lists_hold_on_s3(endpoint: str) -> None:
    storage = Storage(f"{ROOT}/shop", endpoint)

    def night(run_id: str, read_utc: str) -> Context:
        context = Context(storage, parse_config({"publish": {"name": "films"}}), run_id)
        read_logs(context, read_utc)
        write_model(context, "real", run_id.encode())
        write_finished(context, "gate", passed=False, arm="real", reasons=[], segments=[])
        return context

    monday = night("monday", "2026-01-27T02:00:00Z")
    tuesday = night("tuesday", "2026-01-28T02:00:00Z")
    assert [publish.publish(n)["outcome"] for n in (monday, tuesday, monday, tuesday)] == [
        "published", "published", "left", "already current"
    ]  # fmt: skip
    version = pointer.roll_back(storage, "films")["version"]
    assert storage.read(version, "model.safetensors") == b"monday"
    assert publish.publish(tuesday)["outcome"] == "left"
    assert pointer.current(storage, "films")["version"] == version
    assert len(storage.names("published/films/versions")) == 2

    for number in range(2):
        table = pa.table({"n": [number]})
        storage.write_part(table, {}, "runs/monday/lists", "part-00000")
        recommend_all._replace(monday, "runs/monday/lists", "tonight", {"k": 1})
        [part] = storage.parts("tonight")
        assert storage.read_json("tonight", "_llmaug.json")["parts"][0]["part"] == part
        assert storage.read_part("tonight", part).equals(table)
