"""Storage on a local folder: whole objects or none, and one winner of every race."""

from __future__ import annotations

import errno
import os
import pickle
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmaug.core.storage import Storage, digest
from llmaug.errors import UserError

TABLE = pa.table({"n": [1, 2, 3]})


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    return Storage(str(tmp_path))


def test_what_is_written_is_read_back_and_no_temporary_file_stays(storage: Storage) -> None:
    storage.write(b"old", "folder", "object")
    storage.write(b"new", "folder", "object")
    assert storage.read("folder", "object") == b"new"
    assert storage.names("folder") == ["object"]


def test_a_piece_of_an_object_is_read_alone(storage: Storage) -> None:
    storage.write(b"0123456789", "folder", "object")
    assert storage.size("folder", "object") == 10
    assert storage.read_range(2, 5, "folder", "object") == b"234"
    assert storage.read_range(8, 50, "folder", "object") == b"89"
    with pytest.raises(FileNotFoundError):
        storage.size("folder", "nothing")


def test_a_reader_of_the_old_object_reads_it_to_its_end(storage: Storage) -> None:
    storage.write(b"old and whole", "object")
    with open(storage.path("object"), "rb", buffering=0) as reader:
        begin = reader.read(4)
        storage.write(b"new", "object")
        assert begin + reader.read() == b"old and whole"


def test_names_of_a_folder_that_is_not_there_are_none(storage: Storage) -> None:
    assert storage.names("nowhere") == []
    assert storage.read_json("nowhere", "x.json") is None
    assert not storage.exists("nowhere")
    storage.delete("nowhere")  # nothing to remove is fine


def test_sizes_are_those_of_all_objects_below_a_folder_and_no_other(storage: Storage) -> None:
    assert storage.sizes("nowhere") == {}
    for place in (["folder", "a"], ["folder", "inner", "b"], ["folder-2", "c"]):
        storage.write(b"12345", *place)
    assert storage.sizes("folder") == {"a": 5, "inner/b": 5}
    assert storage.sizes("folder", "a") == {}


@pytest.mark.parametrize("data", [b"", b"{", b"\xff", b"[" * 100_000])
def test_what_is_no_json_has_a_version_all_the_same(storage: Storage, data: bytes) -> None:
    assert storage.read_any("object") == (None, None)
    storage.write(data, "object")
    value, version = storage.read_any("object")
    assert value is None and version
    assert storage.swap({"n": 1}, version, "object")
    assert storage.read_any("object")[0] == {"n": 1}


def test_delete_removes_an_object_or_a_whole_folder_of_a_run(storage: Storage) -> None:
    stage = "runs/monday/stage"
    for name in ("a", "b"):
        storage.write(b"x", stage, "inner", name)
    storage.delete(stage, "inner", "a")
    assert storage.names(stage, "inner") == ["b"]
    storage.delete(stage)
    assert not storage.exists(stage)
    assert storage.exists("runs/monday")


@pytest.mark.parametrize("folder", ["logs", "logs/events", "runs", "runs/monday", "published/m"])
def test_a_folder_outside_of_a_run_is_emptied_for_nobody(storage: Storage, folder: str) -> None:
    theirs = (folder, "events", "theirs.parquet")
    storage.write(b"years of logs", *theirs)
    with pytest.raises(UserError, match="not deleted: 1 files are in it.*its own runs only"):
        storage.delete(folder)
    assert storage.read(*theirs) == b"years of logs"
    storage.delete(*theirs)  # an object that is named
    storage.delete(folder)  # nothing but empty folders
    assert not storage.exists(folder)


@pytest.mark.parametrize(
    "names",
    [("",), ("..",), (".",), ("/etc",), ("a", ""), ("a//b",), ("a/",), ("a/../../b",),
     ("a", "../b"), ("runs/../../victim", "x"), ("a\0b",)],
)  # fmt: skip
def test_no_name_leads_out_of_the_root(tmp_path: Path, names: tuple[str, ...]) -> None:
    storage, victim = Storage(str(tmp_path / "root")), tmp_path / "victim"
    victim.write_text("kept")
    for act in (storage.path, storage.exists, storage.read, storage.names, storage.delete):
        with pytest.raises(UserError, match="no path below"):
            act(*names)
    with pytest.raises(UserError, match="no path below"):
        storage.write(b"x", *names)
    assert [path.name for path in tmp_path.iterdir()] == ["victim"]
    assert victim.read_text() == "kept"


@given(st.lists(st.text(st.sampled_from("a./~\\é\0 ")), max_size=3))
def test_every_path_lies_below_the_root_or_is_refused(names: list[str]) -> None:
    for storage in (Storage("/data/llmaug"), Storage("s3://bucket/prefix")):
        base = storage.path()
        try:
            path = storage.path(*names)
        except UserError:
            continue
        assert os.path.normpath(path) == path
        assert path == base or path.startswith(f"{base}/")


def test_a_relative_root_is_made_absolute_because_workers_stand_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    storage = pickle.loads(pickle.dumps(Storage("data")))
    assert storage.uri("x") == f"{tmp_path}/data/x"
    assert Storage(f"file://{tmp_path}").root == str(tmp_path)


def test_an_unknown_protocol_is_refused() -> None:
    with pytest.raises(UserError, match=r"gs://bucket: roots are folders or s3://bucket/prefix"):
        Storage("gs://bucket")


# -- conditional writes --------------------------------------------------------------------


def test_create_writes_once(storage: Storage) -> None:
    assert storage.create({"by": "first"}, "folder", "lease.json")
    assert not storage.create({"by": "second"}, "folder", "lease.json")
    assert storage.read_json("folder", "lease.json") == {"by": "first"}
    assert storage.names("folder") == ["lease.json"]


def test_swap_is_refused_when_the_object_has_changed_since(storage: Storage) -> None:
    storage.create({"by": "first"}, "CURRENT")
    _, seen = storage.read_version("CURRENT")
    assert seen is not None
    assert storage.swap({"by": "second"}, seen, "CURRENT")
    assert not storage.swap({"by": "third"}, seen, "CURRENT")
    assert storage.read_json("CURRENT") == {"by": "second"}


def test_an_object_that_is_not_there_has_no_version(storage: Storage) -> None:
    assert storage.read_version("CURRENT") == (None, None)


def race(num_threads: int, act: Any) -> list[bool]:
    """What `act(number)` returned in each of the threads, which all start together."""
    barrier = threading.Barrier(num_threads)
    results: list[bool] = []

    def run(number: int) -> None:
        barrier.wait()
        results.append(act(number))

    threads = [threading.Thread(target=run, args=(number,)) for number in range(num_threads)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


@pytest.mark.parametrize("attempt", range(5))
def test_of_racing_writers_exactly_one_wins(storage: Storage, attempt: int) -> None:
    created = race(2, lambda number: storage.create({"by": number}, "CURRENT"))
    assert sorted(created) == [False, True]
    _, seen = storage.read_version("CURRENT")
    assert seen is not None
    swapped = race(2, lambda number: storage.swap({"by": 10 + number}, seen, "CURRENT"))
    assert sorted(swapped) == [False, True]
    assert storage.read_json("CURRENT")["by"] in (10, 11)


# -- parts ---------------------------------------------------------------------------------


def test_a_part_without_its_note_is_not_a_part(storage: Storage) -> None:
    note = storage.write_part(TABLE, {"kept": 3}, "stage", "part-00001")
    storage.write_table(TABLE, "stage", "part-00000.parquet")  # killed before its note
    assert storage.parts("stage") == ["part-00001"]
    assert storage.read_json("stage", "part-00001.json") == note
    assert (note["rows"], note["counts"]) == (3, {"kept": 3})


def test_the_note_names_the_bytes_of_the_part(storage: Storage) -> None:
    note = storage.write_part(TABLE, {}, "stage", "part")
    assert note["digest"] == digest(storage.read("stage", "part.parquet"))
    assert storage.read_part("stage", "part").equals(TABLE)
    assert note["digest"] == storage.write_part(TABLE, {}, "again", "part")["digest"]


def test_a_folder_of_plain_files_has_one_digest_over_names_and_bytes(
    storage: Storage, tmp_path: Path
) -> None:
    local = tmp_path / "local"
    local.mkdir()
    (local / "config.json").write_text("{}")
    first = storage.put_folder(local, "model")
    assert storage.put_folder(local, "copy") == first
    (local / "config.json").write_text("{ }")
    assert storage.put_folder(local, "model") != first
    assert storage.read("model", "config.json") == b"{ }"


# -- places that cannot be written ---------------------------------------------------------


@pytest.mark.parametrize("below", ["", "/folder"])
def test_a_root_that_is_a_file_is_named(tmp_path: Path, below: str) -> None:
    (tmp_path / "file").write_text("")
    storage = Storage(f"{tmp_path}/file{below}")
    with pytest.raises(UserError, match="cannot write here") as caught:
        storage.write(b"x", "object")
    assert f"{tmp_path}/file{below}/object" in caught.value.message


def test_a_folder_in_the_place_of_a_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "object").mkdir()
    with pytest.raises(UserError, match=f"{tmp_path}/object: a folder lies where a file belongs"):
        Storage(str(tmp_path)).write(b"x", "object")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_permission_is_named(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(UserError, match=f"{tmp_path}/object: no permission"):
        Storage(str(tmp_path)).write(b"x", "object")


def test_no_permission_says_whom_to_ask(storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> Any:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr("tempfile.mkstemp", refuse)
    with pytest.raises(UserError, match="no permission.*owner or the AWS credentials") as caught:
        storage.write(b"x", "object")
    assert storage.uri("object") in caught.value.message


def test_a_full_disk_leaves_the_old_object_and_no_half_of_the_new(
    storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage.write(b"old", "folder", "object")

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(UserError, match="the disk is full. Free space and run the same command"):
        storage.write(b"new", "folder", "object")
    assert storage.read("folder", "object") == b"old"
    assert storage.names("folder") == ["object"]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A real disk of 64 KiB."""
    place = tmp_path / "small"
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(place)]
    try:
        mounted = subprocess.run(command, capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired) as error:
        pytest.skip(f"no mount here: {error}")
    if mounted.returncode:
        pytest.skip(f"may not mount a small disk here: {mounted.stderr.strip()}")
    yield place
    subprocess.run(["umount", str(place)], check=True)


def test_a_disk_that_is_really_full_keeps_its_finished_parts(small_disk: Path) -> None:
    storage = Storage(str(small_disk))
    storage.write_part(TABLE, {}, "stage", "part-00000")
    noise = pa.table({"noise": [os.urandom(200_000)]})
    with pytest.raises(UserError, match="part-00001.parquet: the disk is full"):
        storage.write_part(noise, {}, "stage", "part-00001")
    assert storage.parts("stage") == ["part-00000"]
    assert storage.names("stage") == ["part-00000.json", "part-00000.parquet"]
    storage.write_part(TABLE, {}, "stage", "part-00001")  # there is room for less
    assert storage.parts("stage") == ["part-00000", "part-00001"]
