"""Model folders that were moved, copied or touched hold the same model; others are others."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from llmaug.core import source_digests
from llmaug.core.sources import Source
from llmaug.core.stage import Context, Stage, fingerprint, run_stage
from llmaug.errors import UserError
from llmaug.ingest import split
from llmaug.items import stage as vocabulary
from llmaug.lm import train as lm
from tests.tables import write_finished

MakeContext = Callable[..., Context]
ENCODER, CHAT = "vocabulary.text_encoder", "lm.folder"
READERS = [(ENCODER, vocabulary.STAGE), (ENCODER, lm.stage("causal")), (CHAT, lm.stage("instruct"))]


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(b"weights")
    (folder / "pytorch_model.bin").write_bytes(b"the same")
    return folder


def context_of(make_context: MakeContext, setting: str, stage: Stage, folder: Path) -> Context:
    sections: dict[str, Any] = {"vocabulary": {"text_encoder": str(folder)}}
    if setting == CHAT:
        chooses = {"kind": "choose", "num_candidates": 4}
        sections = {"lm": {"model": "instruct", "folder": str(folder), "context_len": 512},
                    "plan": {"strategies": [chooses]}}  # fmt: skip
    context = make_context(**sections)
    for name in ("ingest", *stage.inputs):
        write_finished(context, name)
    return context


def touch(model: Path) -> Path:
    for path in model.iterdir():
        os.utime(path, (1, 1))
    return model


def move(model: Path) -> Path:
    return Path(shutil.move(model, model.parent / "moved"))


def link(model: Path) -> Path:
    """As the hub's cache does."""
    snapshot = model.parent / "snapshots" / "main"
    snapshot.mkdir(parents=True)
    for path in model.iterdir():
        (snapshot / path.name).symlink_to(path)
    return snapshot


def add_what_nobody_reads(model: Path) -> Path:
    (model / "README.md").write_text("# Model")
    (model / "onnx").mkdir()
    return model


def rewrite(model: Path) -> Path:
    """With as many bytes."""
    (model / "model.safetensors").write_bytes(b"WEIGHTS")
    os.utime(model / "model.safetensors", (1, 1))
    return model


def rename(model: Path) -> Path:
    (model / "model.safetensors").rename(model / "other.safetensors")
    return model


@pytest.mark.parametrize(("setting", "stage"), READERS)
@pytest.mark.parametrize(
    ("happens", "is_same"),
    [(touch, True), (move, True), (link, True), (add_what_nobody_reads, True), (rewrite, False),
     (rename, False)],
)  # fmt: skip
def test_a_stage_knows_a_model_by_what_its_folder_holds(
    make_context: MakeContext,
    model: Path,
    setting: str,
    stage: Stage,
    happens: Callable[[Path], Path],
    is_same: bool,
) -> None:
    before = fingerprint(stage, context_of(make_context, setting, stage, model))
    after = fingerprint(stage, context_of(make_context, setting, stage, happens(model)))
    assert (after["fingerprint"] == before["fingerprint"]) == is_same
    assert str(model) not in str(before)


@pytest.mark.parametrize(("setting", "stage"), READERS)
def test_a_stage_whose_model_was_moved_is_skipped(
    make_context: MakeContext, model: Path, setting: str, stage: Stage
) -> None:
    toy = replace(stage, run=lambda context: {})
    run_stage(toy, context_of(make_context, setting, stage, model))
    moved = move(model)
    assert run_stage(toy, context_of(make_context, setting, stage, moved))["skipped"]
    rewrite(moved)
    assert not run_stage(toy, context_of(make_context, setting, stage, moved))["skipped"]


@pytest.mark.parametrize(("setting", "stage"), READERS)
def test_a_folder_that_is_not_there_stops_those_who_need_it_alone(
    make_context: MakeContext, tmp_path: Path, setting: str, stage: Stage
) -> None:
    context = context_of(make_context, setting, stage, tmp_path / "nowhere")
    with pytest.raises(UserError, match=f"{setting} .*nowhere: no such folder.*set {setting} to"):
        fingerprint(stage, context)
    assert fingerprint(split.STAGE, context)["fingerprint"]


def test_a_file_is_read_once_for_its_digest(
    make_context: MakeContext, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[str] = []
    digest_of = source_digests._digest_of

    def counted(source: Source) -> str:
        read.append(source.name)
        return digest_of(source)

    monkeypatch.setattr(source_digests, "_digest_of", counted)
    for _, stage in READERS[:2]:
        fingerprint(stage, context_of(make_context, ENCODER, stage, model))
    assert read == ["config.json", "model.safetensors"]
