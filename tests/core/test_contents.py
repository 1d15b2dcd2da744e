"""Manifests are contracts: what a stage left is what is read, or it is made anew and said so.

No Ray here: the toy stages write their parts themselves.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from llmaug.core.contents import check_stage
from llmaug.core.formats import RUN
from llmaug.core.stage import MANIFEST, Context, Stage, run_stage
from llmaug.core.storage import FILES, Storage
from llmaug.errors import UserError
from llmaug.pipeline import reopened

MakeContext = Callable[..., Context]
PARTS = ["part-00000", "part-00001", "part-00002"]
EVENTS, MODEL = "runs/test/events", "runs/test/model"


@dataclass
class Desk:
    """What the toy stages did, and what they are to write."""

    made: list[str] = field(default_factory=list)
    salt: str = ""
    """Goes into every item id: another one, and the stage comes out otherwise."""
    fuse: str | None = None
    """The part at which the stage dies."""

    def events(self, independent: bool = False) -> Stage:
        """Three parts with notes, a sub-folder of others, and a file of its own."""

        def run(context: Context) -> dict[str, Any]:
            storage, folder = context.storage, context.folder("events")
            for part in PARTS:
                if part in storage.parts(folder):
                    continue
                if part == self.fuse:
                    raise RuntimeError("power cut")
                self.made.append(part)
                items = [f"{part}-{self.salt}item{n}" for n in range(50)]
                storage.write_part(pa.table({"item_id": items}), {}, folder, part)
                storage.write_part(pa.table({"n": [1]}), {}, f"{folder}/quarantine", part)
            storage.write_json({"seen": self.salt}, folder, "statistics.json")
            return {"rows": 150}

        return Stage("events", run, independent=independent)

    def model(self, independent: bool = True) -> Stage:
        """A folder of plain files for each of two seeds, that follow from the events."""

        def run(context: Context) -> dict[str, Any]:
            storage, folder = context.storage, context.folder("model")
            for seed in ("seed-1", "seed-2"):
                if storage.exists(folder, seed, "_trained.json"):
                    continue
                self.made.append(seed)
                local = Path(storage.path("local", seed))
                local.mkdir(parents=True, exist_ok=True)
                (local / "model.safetensors").write_bytes(b"weights of " + seed.encode())
                storage.put_folder(local, f"{folder}/{seed}")
                storage.write_json({}, folder, seed, "_trained.json")
            return {}

        return Stage("model", run, inputs=("events",), independent=independent)


@pytest.fixture
def desk() -> Desk:
    return Desk()


def flip(path: Path) -> None:
    """Change a bit so that the Parquet file reads as before, but another item stands in it."""
    whole, before = path.read_bytes(), pq.read_table(path)
    for place in range(4, len(whole)):
        for bit in (1, 4, 16):
            data = bytearray(whole)
            data[place] ^= bit
            try:
                after = pq.read_table(pa.BufferReader(bytes(data)))
                after.to_pylist()
            except Exception:
                continue
            if after.num_rows == before.num_rows and not after.equals(before):
                path.write_bytes(data)
                return
    raise AssertionError("no bit does that")


def everything(storage: Storage, folder: str) -> dict[str, bytes]:
    sizes = storage.sizes(folder)
    return {name: storage.read(folder, name) for name in sizes if not name.startswith("_")}


def write_more(folder: Path) -> None:
    table = pa.table({"item_id": ["x"]})
    Storage(str(folder.parent)).write_part(table, {}, folder.name, "part-00099")


DAMAGE: dict[str, tuple[str, Callable[[Path], Any]]] = {
    "part gone": ("part-00001.parquet", lambda f: (f / "part-00001.parquet").unlink()),
    "note gone": ("part-00001.json", lambda f: (f / "part-00001.json").unlink()),
    "part empty": ("part-00001.parquet", lambda f: (f / "part-00001.parquet").write_bytes(b"")),
    "part longer": (
        "part-00001.parquet",
        lambda f: (f / "part-00001.parquet").write_bytes(b"x" * 9999),
    ),
    "part too many": ("part-00099.parquet", write_more),
    "part of a sub-folder gone": (
        "quarantine/part-00002.parquet",
        lambda f: (f / "quarantine" / "part-00002.parquet").unlink(),
    ),
    "other file cut": ("statistics.json", lambda f: (f / "statistics.json").write_text("{")),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_a_stage_whose_files_are_not_all_there_is_made_anew_and_says_so(
    make_context: MakeContext, desk: Desk, kind: str, tmp_path: Path
) -> None:
    context, (file, do) = make_context(), DAMAGE[kind]
    run_stage(desk.events(), context)
    run_stage(desk.model(), context)
    before = everything(context.storage, EVENTS)
    do(tmp_path / EVENTS)

    context = make_context()
    assert not run_stage(desk.events(), context)["skipped"]
    assert everything(context.storage, EVENTS) == before
    [note] = [note for note in context.progress.notes if file in note]  # type: ignore[attr-defined]
    assert "made anew" in note
    # It came out as it was: nothing follows from that, and nothing is left to mend.
    assert run_stage(desk.model(), context)["skipped"]
    assert run_stage(desk.events(), context)["skipped"]


def test_what_follows_is_done_again_when_a_stage_came_out_otherwise(
    make_context: MakeContext, desk: Desk, tmp_path: Path
) -> None:
    first = run_stage(desk.events(), make_context())
    run_stage(desk.model(), make_context())
    for _ in range(2):  # each time it happens, not the first time alone
        (tmp_path / EVENTS / "part-00001.parquet").unlink()
        desk.salt += "other-"
        again = run_stage(desk.events(), make_context())
        assert again["fingerprint"] == first["fingerprint"]
        assert not run_stage(desk.model(), make_context())["skipped"]
        assert run_stage(desk.model(), make_context())["skipped"]


@pytest.mark.parametrize(
    ("counts", "is_same"),
    [({"rows": 150, "seconds": 9}, True), ({"rows": 150}, True), ({"rows": 151}, False)],
)
def test_an_input_that_was_made_anew_and_holds_the_same_runs_nothing_again(
    make_context: MakeContext, desk: Desk, counts: dict[str, int], is_same: bool
) -> None:
    """What it was made from has changed, and how long it took; not what came of it."""

    def events(logs: str, counts: dict[str, int]) -> Stage:
        made = desk.events()

        def run(context: Context) -> dict[str, Any]:
            return made.run(context) and counts

        return replace(made, run=run, outside=lambda context: logs, measured=("seconds",))

    run_stage(events("monday.csv", {"rows": 150, "seconds": 1}), make_context())
    run_stage(desk.model(), make_context())
    desk.made.clear()
    assert not run_stage(events("copy of monday.csv", counts), make_context())["skipped"]
    assert run_stage(desk.model(), make_context())["skipped"] == is_same
    assert desk.made == (PARTS if is_same else [*PARTS, "seed-1", "seed-2"])


def test_an_input_that_was_made_anew_otherwise_runs_what_follows_again(
    make_context: MakeContext, desk: Desk
) -> None:
    def events(logs: str) -> Stage:
        return replace(desk.events(), outside=lambda context: logs)

    run_stage(events("monday.csv"), make_context())
    before = run_stage(desk.model(), make_context())
    desk.salt = "tuesday-"
    run_stage(events("tuesday.csv"), make_context())
    after = run_stage(desk.model(), make_context())
    assert not after["skipped"] and after["basis"] != before["basis"]


def test_an_input_by_an_earlier_version_is_known_by_its_fingerprint(
    make_context: MakeContext, desk: Desk
) -> None:
    context = make_context()
    for content in ("one", "other"):
        manifest = {"fingerprint": content, "counts": {}, "parts": []}
        context.storage.write_json(manifest, EVENTS, MANIFEST)
        assert not run_stage(desk.model(), make_context())["skipped"]
        assert run_stage(desk.model(), make_context())["skipped"]


def test_a_flipped_bit_is_found_when_digests_are_verified(
    make_context: MakeContext, desk: Desk, tmp_path: Path
) -> None:
    run_stage(desk.events(), make_context())
    before = everything(make_context().storage, EVENTS)
    flip(tmp_path / EVENTS / "part-00001.parquet")
    assert run_stage(desk.events(), make_context())["skipped"]  # its size is what it was

    context = replace(make_context(), verify=True)
    assert not run_stage(desk.events(), context)["skipped"]
    assert "part-00001.parquet: is not as it was written" in context.progress.notes[0]  # type: ignore[attr-defined]
    assert everything(context.storage, EVENTS) == before
    assert run_stage(desk.events(), context)["skipped"]


def test_of_parts_that_stand_alone_only_the_damaged_one_is_made_anew(
    make_context: MakeContext, desk: Desk, tmp_path: Path
) -> None:
    """A night of generation is not thrown away for one part."""
    run_stage(desk.events(independent=True), make_context())
    desk.made.clear()
    (tmp_path / EVENTS / "part-00001.parquet").unlink()
    run_stage(desk.events(independent=True), make_context())
    assert desk.made == ["part-00001"]


def test_of_models_that_stand_alone_only_the_damaged_one_is_made_anew(
    make_context: MakeContext, desk: Desk, tmp_path: Path
) -> None:
    run_stage(desk.events(), make_context())
    run_stage(desk.model(), make_context())
    desk.made.clear()
    (tmp_path / MODEL / "seed-2" / "model.safetensors").write_bytes(b"")
    run_stage(desk.model(), make_context())
    assert desk.made == ["seed-2"]
    assert run_stage(desk.model(), make_context())["skipped"]


def test_a_kill_while_it_is_made_anew_loses_neither_the_damage_nor_what_follows(
    make_context: MakeContext, desk: Desk, tmp_path: Path
) -> None:
    run_stage(desk.events(), make_context())
    run_stage(desk.model(), make_context())
    (tmp_path / EVENTS / "part-00000.parquet").unlink()
    desk.salt, desk.fuse = "other-", "part-00002"
    with pytest.raises(RuntimeError, match="power cut"):
        run_stage(desk.events(), make_context())
    desk.fuse = None
    run_stage(desk.events(), make_context())
    assert not run_stage(desk.model(), make_context())["skipped"]


@pytest.mark.parametrize(
    ("verify", "do"),
    [(False, lambda path: path.write_bytes(path.read_bytes()[:-1])), (True, flip)],
)
def test_an_interrupted_stage_goes_on_from_no_damaged_part(
    make_context: MakeContext,
    desk: Desk,
    tmp_path: Path,
    verify: bool,
    do: Callable[[Path], None],
) -> None:
    desk.fuse = "part-00002"
    with pytest.raises(RuntimeError, match="power cut"):
        run_stage(desk.events(), make_context())
    do(tmp_path / EVENTS / "part-00000.parquet")
    desk.fuse, desk.made = None, []
    context = replace(make_context(), verify=verify)
    run_stage(desk.events(), context)
    assert desk.made == PARTS
    assert "part-00000.parquet" in context.progress.notes[0]  # type: ignore[attr-defined]
    assert pq.read_table(tmp_path / EVENTS / "part-00000.parquet").num_rows == 50


def test_what_is_damaged_while_a_stage_runs_is_not_committed(
    make_context: MakeContext, desk: Desk, tmp_path: Path
) -> None:
    stage = desk.events()

    def run(context: Context) -> dict[str, Any]:
        counts = stage.run(context)
        (tmp_path / EVENTS / "part-00000.parquet").write_bytes(b"torn")
        return counts

    with pytest.raises(UserError, match="part-00000.parquet: has 4 of .* bytes.*damaged after"):
        run_stage(replace(stage, run=run), make_context())
    assert not (tmp_path / EVENTS / MANIFEST).exists()
    run_stage(stage, make_context())  # another code: from the start
    assert pq.read_table(tmp_path / EVENTS / "part-00000.parquet").num_rows == 50


def test_a_stage_does_not_read_an_input_that_is_not_whole(
    make_context: MakeContext, desk: Desk, tmp_path: Path
) -> None:
    """And leaves its own folder as it is: the error comes before anything is deleted."""
    run_stage(desk.events(), make_context())
    run_stage(desk.model(), make_context())
    (tmp_path / EVENTS / "part-00001.parquet").unlink()
    changed = replace(desk.model(), settings=lambda config: "another")
    with pytest.raises(UserError) as caught:
        run_stage(changed, make_context())
    message = caught.value.message
    assert "runs/test/events/part-00001.parquet: is missing" in message
    assert "llmaug run --run-id test" in message and "makes events anew" in message
    assert (tmp_path / MODEL / MANIFEST).exists()


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b"{}", b"\xff", b"null"])
def test_a_manifest_that_cannot_be_read_is_none_and_its_parts_are_kept(
    make_context: MakeContext, desk: Desk, data: bytes
) -> None:
    context = make_context()
    run_stage(desk.events(), context)
    context.storage.write(data, EVENTS, MANIFEST)
    desk.made.clear()
    assert not run_stage(desk.events(), make_context())["skipped"]
    assert desk.made == []
    with pytest.raises(UserError, match="runs/test/model: this stage is not finished"):
        context.manifest("model")


def test_manifests_of_earlier_versions_are_read_and_that_is_said_once(
    make_context: MakeContext, desk: Desk, tmp_path: Path
) -> None:
    context = make_context()
    stages = (desk.events(), desk.model())
    for stage, folder in zip(stages, (EVENTS, MODEL), strict=True):
        manifest = run_stage(stage, context)
        del manifest["files"]
        context.storage.write_json(manifest, folder, MANIFEST)
    assert all(run_stage(stage, context)["skipped"] for stage in stages)
    [note] = context.progress.notes  # type: ignore[attr-defined]
    assert "earlier version" in note
    (tmp_path / EVENTS / "part-00001.parquet").unlink()  # names it knows
    assert not run_stage(desk.events(), make_context())["skipped"]


# -- what it costs --------------------------------------------------------------------------


@dataclass(frozen=True)
class Counting(Storage):
    """Notes what is read and listed."""

    calls: list[str] = field(default_factory=list, compare=False)

    def read(self, *names: str) -> bytes:
        self.calls.append("/".join(names))
        return super().read(*names)

    def sizes(self, *folder: str) -> dict[str, int]:
        self.calls.append("list " + "/".join(folder))
        return super().sizes(*folder)


def test_a_look_at_a_finished_stage_is_one_listing_and_no_part_is_read(
    make_context: MakeContext, desk: Desk
) -> None:
    run_stage(desk.events(), make_context())
    storage = Counting(make_context().storage.root)
    assert run_stage(desk.events(), replace(make_context(), storage=storage))["skipped"]
    assert storage.calls == [f"list {EVENTS}"]


def test_writers_bring_their_digests_so_that_no_part_or_model_is_read_again(
    make_context: MakeContext, desk: Desk
) -> None:
    storage = Counting(make_context().storage.root)
    context = replace(make_context(), storage=storage)
    manifests = [run_stage(desk.events(), context), run_stage(desk.model(), context)]
    assert not [call for call in storage.calls if call.endswith((".parquet", ".safetensors"))]
    files = manifests[0]["files"] | manifests[1]["files"]
    assert {"part-00000.parquet", "quarantine/part-00000.json", "seed-1/model.safetensors"} <= set(
        files
    )
    assert all(facts["digest"] and facts["bytes"] for facts in files.values())


# -- commands that read a run -----------------------------------------------------------------


def test_commands_that_read_a_run_stop_at_what_is_missing(
    make_context: MakeContext, desk: Desk, tmp_path: Path
) -> None:
    context = make_context()
    config = context.config.model_dump(mode="json")
    run = {**RUN.stamp, "stages": ["events", "model"], "config": config}
    context.storage.write_json(run, "runs/test", "run.json")
    run_stage(desk.events(), context)
    run_stage(desk.model(), context)
    with reopened(context.storage, "test", verify=True):
        pass
    flip(tmp_path / EVENTS / "part-00001.parquet")
    with (
        pytest.raises(
            UserError, match="part-00001.parquet: is not as it was.*run --run-id test --"
        ),
        reopened(context.storage, "test", verify=True),
    ):
        pass
    (tmp_path / MODEL / "seed-1" / "model.safetensors").unlink()
    with (
        pytest.raises(UserError, match="model/seed-1/model.safetensors: is missing"),
        reopened(context.storage, "test"),
    ):
        pass
    with reopened(context.storage, "test", renewed=("model",)):
        pass  # the caller runs that stage, which mends it


def test_a_record_of_files_that_cannot_be_read_is_damage_like_any_other(
    make_context: MakeContext, desk: Desk
) -> None:
    context = make_context()
    run_stage(desk.events(), context)
    run_stage(desk.model(), context)
    check_stage(context.storage, "test", "model", verify=True)
    for data in (b"", b"[]", json.dumps({"model.safetensors": 7}).encode()):
        context.storage.write(data, MODEL, "seed-1", FILES)
        with pytest.raises(UserError, match="seed-1/files.json: has"):
            check_stage(context.storage, "test", "model")
        run_stage(desk.model(), context)
