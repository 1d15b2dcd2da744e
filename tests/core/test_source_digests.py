"""Logs that were moved, copied or touched are the same logs; others are others."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from llmaug.config import load_config
from llmaug.core import source_digests
from llmaug.core.contents import describe
from llmaug.core.sources import Source
from llmaug.core.stage import Context, fingerprint, run_stage
from llmaug.core.storage import Storage
from llmaug.ingest import stage as ingest
from llmaug.lm import train as lm
from llmaug.pipeline import run as run_pipeline
from llmaug.plan import stage as plan
from tests.nights import NIGHT, make_night, without_ray
from tests.tables import write_finished

MakeContext = Callable[..., Context]


@pytest.fixture
def logs(tmp_path: Path) -> Path:
    folder = tmp_path / "logs"
    (folder / "dt=2026-01-31").mkdir(parents=True)
    (folder / "dt=2026-01-31" / "a.csv").write_text("u1,i1,1\n")
    (folder / "b.csv").write_text("u2,i2,2\n")
    (tmp_path / "items.csv").write_text("item_id\ni1\n")
    return folder


def context_of(make_context: MakeContext, logs: Path, **more: Any) -> Context:
    items = {"path": str(logs.parent / "items.csv"), "format": "csv"}
    return make_context(ingest={"path": str(logs), "format": "csv", "items": items, **more})


def known_by(make_context: MakeContext, logs: Path, **more: Any) -> str:
    print_of = fingerprint(ingest.STAGE, context_of(make_context, logs, **more))
    return str(print_of["fingerprint"])


def touch(logs: Path) -> Path:
    for path in (logs / "b.csv", logs.parent / "items.csv"):
        os.utime(path, (1, 1))
    return logs


def move(logs: Path) -> Path:
    home = logs.parent / "elsewhere"
    home.mkdir()
    shutil.move(logs.parent / "items.csv", home)
    return Path(shutil.move(logs, home / "moved"))


def rewrite(logs: Path) -> Path:
    """With as many bytes."""
    (logs / "b.csv").write_text("u2,i3,2\n")
    os.utime(logs / "b.csv", (1, 1))
    return logs


def rewrite_items(logs: Path) -> Path:
    (logs.parent / "items.csv").write_text("item_id\ni2\n")
    return logs


def rename(logs: Path) -> Path:
    """Quarantined rows name their files, and the order of files is that of their names."""
    (logs / "b.csv").rename(logs / "0.csv")
    return logs


@pytest.mark.parametrize(
    ("happens", "is_same"),
    [(touch, True), (move, True), (rewrite, False), (rewrite_items, False), (rename, False)],
)
def test_ingest_is_known_by_what_its_logs_hold(
    make_context: MakeContext, logs: Path, happens: Callable[[Path], Path], is_same: bool
) -> None:
    before = known_by(make_context, logs)
    assert (known_by(make_context, happens(logs)) == before) == is_same


def test_other_settings_are_another_ingest(make_context: MakeContext, logs: Path) -> None:
    assert known_by(make_context, logs) != known_by(make_context, logs, k_core=2)


def test_a_run_folder_that_was_moved_is_no_new_run(
    make_context: MakeContext, logs: Path, tmp_path: Path
) -> None:
    made = context_of(make_context, logs)
    toy = replace(ingest.STAGE, run=lambda context: {"accepted": 2})
    run_stage(toy, made)
    shutil.copytree(made.storage.root, tmp_path / "moved-root")
    moved = replace(made, storage=Storage(str(tmp_path / "moved-root")))
    assert run_stage(toy, moved)["skipped"]


def test_a_file_is_read_once_for_its_digest(
    make_context: MakeContext, logs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[str] = []
    digest_of = source_digests._digest_of

    def counted(source: Source) -> str:
        read.append(source.name)
        return digest_of(source)

    monkeypatch.setattr(source_digests, "_digest_of", counted)
    for _ in range(2):
        known_by(make_context, logs)
    assert sorted(read) == ["b.csv", "dt=2026-01-31/a.csv", "items.csv"]
    touch(logs)
    known_by(make_context, logs)
    assert sorted(read[3:]) == ["b.csv", "items.csv"]


def test_on_s3_the_etag_serves(tmp_path: Path) -> None:
    bucket, run = Storage("s3://bucket/logs"), Storage(str(tmp_path))
    source = Source(0, "bucket/logs/a.csv", "a.csv", 3, '"etag"', {})
    found = source_digests.identities(run, ("digests.json",), bucket, [source])
    assert found == [["a.csv", 3, '"etag"', {}]]
    assert not run.exists("digests.json")


def test_a_night_whose_logs_were_touched_and_moved_is_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_ray(monkeypatch)
    config = load_config(make_night(tmp_path / "root", tmp_path))
    moved = tmp_path / "moved"
    moved.mkdir()
    shutil.move(tmp_path / "events.csv", moved)
    os.utime(moved / "events.csv", (1, 1))
    config = config.model_copy(
        update={"ingest": config.ingest.model_copy(update={"path": str(moved / "events.csv")})}
    )
    shutil.move(tmp_path / "root", moved)
    manifests = run_pipeline(config, Storage(str(moved / "root")), NIGHT)
    assert [name for name, manifest in manifests.items() if not manifest["skipped"]] == []


def test_other_attributes_of_users_train_a_model_that_reads_them(
    make_context: MakeContext, logs: Path
) -> None:
    """They come from ingest past the split, which holds the same events as before."""
    users = {"path": str(logs.parent / "users.csv"), "format": "csv"}
    for reads, again in ((["age"], True), ([], False)):
        context = context_of(make_context, logs, users=users)
        lm_config = context.config.lm.model_copy(update={"user_attributes": reads})
        context = replace(context, config=context.config.model_copy(update={"lm": lm_config}))
        for name in ("split", "vocabulary"):
            write_finished(context, name)
        prints = []
        for age in ("20", "30"):
            context.storage.write_json({"u1": age}, context.folder("ingest/users"), "ages.json")
            files, _ = describe(context.storage, context.folder("ingest"))
            manifest = {"fingerprint": "logs", "counts": {}, "parts": [], "files": files}
            context.storage.write_json(manifest, context.folder("ingest"), "_manifest.json")
            stages = (lm.stage("causal"), plan.stage(()))
            prints.append([fingerprint(stage, context)["fingerprint"] for stage in stages])
        assert [one != other for one, other in zip(*prints, strict=True)] == [again, again]
