"""Published versions: named after their content, written whole, never changed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import pytest

from llmaug.core.stage import MANIFEST, Context, fingerprint
from llmaug.core.storage import Storage, digest
from llmaug.errors import UserError
from llmaug.publish import pointer
from llmaug.publish import stage as publish
from tests.tables import write_finished

MakeContext = Callable[..., Context]
PASSED = {"passed": True, "arm": "augmented", "reasons": ["a lift"], "segments": []}
TEXTS = ("MODEL_CARD.md", "DATA_CARD.md")
FILES = ("config.json", "items.parquet", "model.safetensors")


def write_model(context: Context, arm: str, weights: bytes) -> str:
    folder = context.folder(f"model/{arm}/seed-1")
    for name in (*FILES, "._killed"):
        context.storage.write(weights, folder, name)
    model_digest = digest({name: digest(weights) for name in FILES})
    context.storage.write_json({"model_digest": model_digest}, folder, "_trained.json")
    return model_digest


def read_logs(context: Context, read_utc: str) -> None:
    manifest = {"fingerprint": "logs", "counts": {}, "parts": [], "finished_utc": read_utc}
    for stage in ("ingest", "split"):
        context.storage.write_json(manifest, context.folder(stage), MANIFEST)


@pytest.fixture
def night(make_context: MakeContext) -> Callable[..., Context]:
    def make(run_id: str = "monday", read_utc: str = "2026-01-27T02:00:00Z", **config: Any
             ) -> Context:  # fmt: skip
        context = make_context(run_id, publish={"name": "films"}, **config)
        read_logs(context, read_utc)
        write_model(context, "real", b"real of " + run_id.encode())
        write_model(context, "augmented", b"augmented of " + run_id.encode())
        write_finished(context, "gate", **PASSED)
        write_finished(context, "drift", found=None)
        return context

    return make


def test_the_arm_that_the_gate_chose_is_published(night: Callable[..., Context]) -> None:
    context = night()
    published = publish.run(context)

    storage, version = context.storage, published["version"]
    current = pointer.current(storage, "films")
    assert (current["version"], current["run_id"]) == (version, "monday")
    assert version.startswith("published/films/versions/monday-") and len(version) == 48
    assert (current["arm"], current["gate"]) == ("augmented", PASSED)
    assert current["model_digest"] == digest(current["files"])
    assert set(storage.names(version)) == {*FILES, *TEXTS, "published.json"}
    assert storage.read(version, "model.safetensors") == b"augmented of monday"
    assert (published["uri"], published["outcome"]) == (storage.uri(version), "published")
    assert context.progress.notes == [f"published: arm augmented, {storage.uri(version)}"]  # type: ignore[attr-defined]


def test_a_model_that_was_trained_anew_goes_out_though_it_is_judged_the_same(
    night: Callable[..., Context],
) -> None:
    context = night()
    before = fingerprint(publish.STAGE, context)["fingerprint"]
    write_model(context, "real", b"another, which stays here")
    assert fingerprint(publish.STAGE, context)["fingerprint"] == before
    write_model(context, "augmented", b"another")
    assert fingerprint(publish.STAGE, context)["fingerprint"] != before


def test_the_same_content_is_published_once(night: Callable[..., Context]) -> None:
    context = night()
    version = publish.run(context)["version"]
    before = {file: context.storage.read(version, file) for file in [*FILES, "published.json"]}
    again = publish.run(context)
    assert (again["outcome"], again["version"]) == ("already current", version)
    assert before == {file: context.storage.read(version, file) for file in before}
    assert len(context.storage.names("published/films/versions")) == 1


@dataclass(frozen=True)
class Killed(Storage):
    """The process is killed at the `writes`-th write below published/."""

    writes: int = 0

    def _count(self, names: tuple[str, ...]) -> None:
        if names[0].startswith("published/"):
            plain = Storage(self.root)
            done = (plain.read_json("count") or 0) + 1
            plain.write_json(done, "count")
            if done == self.writes:
                raise KeyboardInterrupt

    def write(self, data: bytes, *names: str) -> None:
        self._count(names)
        super().write(data, *names)

    def create(self, value: Any, *names: str) -> bool:
        self._count(names)
        return super().create(value, *names)


@pytest.mark.parametrize("writes", [1, 2, 3, 4])
@pytest.mark.parametrize("same_run", [True, False])
def test_a_kill_while_publishing_leaves_the_old_version_whole(
    night: Callable[..., Context], writes: int, same_run: bool
) -> None:
    old = publish.run(night())["version"]
    storage = night().storage
    served = {file: storage.read(old, file) for file in storage.names(old)}
    context = night("monday" if same_run else "tuesday", "2026-01-28T02:00:00Z")
    write_model(context, "augmented", b"new")

    with pytest.raises(KeyboardInterrupt):
        publish.run(replace(context, storage=Killed(storage.root, writes=writes)))
    assert pointer.current(storage, "films")["version"] == old
    assert served == {file: storage.read(old, file) for file in storage.names(old)}
    with pytest.raises(UserError, match="no whole version"):
        half = next(name for name in [*storage.names("published/films/versions"), "none-yet"]
                    if not old.endswith(name))  # fmt: skip
        pointer.roll_back(storage, "films", to=half)

    new = publish.run(context)["version"]
    assert pointer.current(storage, "films")["version"] == new != old
    assert {storage.read(new, file) for file in FILES} == {b"new"}
    assert served == {file: storage.read(old, file) for file in storage.names(old)}


def test_another_result_of_the_same_run_is_another_version(night: Callable[..., Context]) -> None:
    context = night()
    first = publish.run(context)["version"]
    write_model(context, "augmented", b"trained again")
    second = publish.run(context)
    assert second["outcome"] == "published" and second["version"] != first
    assert context.storage.read(first, "model.safetensors") == b"augmented of monday"
    pointer.roll_back(context.storage, "films")
    assert pointer.current(context.storage, "films")["version"] == first
    assert publish.run(context)["outcome"] == "left"


def test_a_night_that_comes_too_late_is_kept_and_says_so(night: Callable[..., Context]) -> None:
    late = night()
    newer = publish.run(night("tuesday", "2026-01-28T02:00:00Z"))
    left = publish.run(late)
    assert (left["outcome"], left["current"]) == ("left", newer["version"])
    said = publish.said(left)
    assert said.startswith("not published, CURRENT is left as it was: tuesday-")
    assert " is newer. Arm augmented is kept at " in said and "--rollback --to monday-" in said
    assert set(late.storage.names(left["version"])) == {*FILES, *TEXTS, "published.json"}
    pointer.roll_back(late.storage, "films", to=left["version"].rpartition("/")[2])
    assert pointer.current(late.storage, "films")["run_id"] == "monday"


def test_a_stage_that_was_mended_makes_no_newer_night(night: Callable[..., Context]) -> None:
    mended = night()
    publish.run(night("tuesday", "2026-01-28T02:00:00Z"))
    manifest = {**mended.manifest("ingest"), "finished_utc": "2026-01-29T02:00:00Z"}
    mended.storage.write_json(manifest, mended.folder("ingest"), MANIFEST)
    assert publish.run(mended)["outcome"] == "left"


def test_a_night_is_as_late_as_its_logs(night: Callable[..., Context]) -> None:
    """Sunday's logs, read again on Wednesday, are older than Monday's."""
    publish.run(night("monday", "2026-01-27T02:00:00Z", ingest={"end": "2026-01-26"}))
    late = night("sunday", "2026-01-29T02:00:00Z", ingest={"end": "2026-01-25"})
    assert publish.run(late)["outcome"] == "left"
    assert publish.run(night("open", "2026-01-29T02:00:00Z"))["outcome"] == "published"


def test_a_model_that_was_changed_since_training_is_not_published(
    night: Callable[..., Context],
) -> None:
    context = night()
    folder = context.folder("model/augmented/seed-1")
    context.storage.write(b"flipped", folder, "model.safetensors")
    with pytest.raises(UserError, match="augmented/seed-1: not the files that training wrote"):
        publish.run(context)
    assert not context.storage.names("published")
