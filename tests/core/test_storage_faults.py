"""Storage on a real S3 server behind a proxy that breaks calls: right results, or a clear end."""

from __future__ import annotations

import os
import random
import socket
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from llmaug.config import FilesConfig
from llmaug.core import lease as lease_module
from llmaug.core import s3
from llmaug.core.lease import Lease
from llmaug.core.sources import list_sources
from llmaug.core.storage import Storage, digest
from llmaug.errors import UserError
from llmaug.ingest.layout import Layout
from llmaug.ingest.readers import read_pieces
from llmaug.publish import pointer
from tests.faults import FAULTS, FaultProxy, fault_proxy
from tests.servers import BUCKET

pytestmark = [pytest.mark.faults, pytest.mark.s3]
TABLE = pa.table({"n": [1, 2, 3]})
FIRST_PAUSE_S = s3.FIRST_PAUSE_S  # before `impatient`
BOUNDED_S = 60  # it ends, and not after minutes: a few seconds on a machine with nothing else to do
BREAKS = [fault for fault in FAULTS if fault != "delay"]


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The same number of tries as in production, with shorter pauses between them."""
    monkeypatch.setattr(s3, "FIRST_PAUSE_S", 0.02)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))  # where `fetch_folder` puts things


@pytest.fixture
def proxy(endpoint: str) -> Iterator[FaultProxy]:
    """Breaks nothing of itself: the tests name what is to happen."""
    with fault_proxy(endpoint, share=0) as running:
        yield running


@pytest.fixture
def storage(proxy: FaultProxy) -> Storage:
    return Storage(f"s3://{BUCKET}/{uuid.uuid4().hex}", proxy.url)


# -- one call in ten goes wrong ------------------------------------------------------------


def test_nothing_is_lost_or_half_read_when_one_call_in_ten_goes_wrong(
    proxy: FaultProxy, storage: Storage
) -> None:
    proxy.share = 0.1
    with ThreadPoolExecutor(8) as pool:
        for _ in pool.map(lambda n: every_call(storage, f"runs/monday/worker-{n}"), range(8)):
            pass
    assert proxy.counts.total() > 500
    assert all(proxy.counts[fault] for fault in FAULTS), proxy.counts


def every_call(storage: Storage, folder: str) -> None:
    """What stages do, with the result of each call checked."""
    rng, parts, version = random.Random(folder), [], ""
    for number in range(6):
        part = f"part-{number:05d}"
        table = pa.table({"n": [rng.random() for _ in range(500)]})
        note = storage.write_part(table, {"kept": number}, folder, part)
        parts.append(part)
        assert storage.parts(folder) == parts
        assert storage.read_part(folder, part).equals(table)
        assert storage.read_json(folder, f"{part}.json") == note
        assert note["digest"] == digest(storage.read(folder, f"{part}.parquet"))
        assert storage.names(folder, "nowhere") == []
        assert storage.sizes(folder)[f"{part}.parquet"] == note["bytes"]

        if number == 0:
            assert storage.create({"n": number}, f"{folder}-pointer")
        else:
            assert storage.swap({"n": number}, version, f"{folder}-pointer")
        assert not storage.create({"n": "late"}, f"{folder}-pointer")
        value, seen = storage.read_version(f"{folder}-pointer")
        assert value == {"n": number} and seen
        version = seen

    with tempfile.TemporaryDirectory() as local:
        weights = rng.randbytes(300_000)
        Path(local, "weights").write_bytes(weights)
        Path(local, "config.json").write_text("{}")
        version = storage.put_folder(local, f"{folder}-model")
    fetched = storage.fetch_folder(f"{folder}-model", version)
    assert Path(fetched, "weights").read_bytes() == weights
    assert sorted(os.listdir(fetched)) == ["config.json", "files.json", "weights"]

    assert storage.exists(folder, "part-00000.json")
    storage.delete(folder, "part-00000.json")
    assert not storage.exists(folder, "part-00000.json")
    assert storage.parts(folder) == parts[1:]
    storage.delete(folder)
    assert storage.names(folder) == []


def test_of_racing_writers_one_wins_and_knows_it(proxy: FaultProxy, storage: Storage) -> None:
    proxy.share, proxy.faults = 0.3, BREAKS
    for name in range(8):
        with ThreadPoolExecutor(4) as pool:
            won = list(
                pool.map(lambda n, name=name: storage.create({"by": n}, f"{name}"), range(4))
            )
        assert sum(won) == 1
        assert storage.read_json(f"{name}") == {"by": won.index(True)}
    assert proxy.counts["cut_after"]


def test_no_update_of_many_writers_is_lost(proxy: FaultProxy, storage: Storage) -> None:
    """False may come for a swap that was there for a moment: so a writer looks before it repeats,
    as the lease does with its token."""
    proxy.share, proxy.faults = 0.1, BREAKS
    storage.create([], "list")

    def add(item: str) -> None:
        while True:
            there, version = storage.read_version("list")
            if item in there:
                return
            if storage.swap([*there, item], version or "", "list"):
                return

    def write(number: int) -> None:
        for step in range(6):
            add(f"{number}-{step}")

    with ThreadPoolExecutor(3) as pool:
        list(pool.map(write, range(3)))
    assert sorted(storage.read_json("list")) == [
        f"{n}-{step}" for n in range(3) for step in range(6)
    ]


# -- one call, one fault -------------------------------------------------------------------


@pytest.mark.parametrize("fault", ["cut_after", "cut_before", "internal_error", "conflict"])
def test_a_conditional_write_that_is_repeated_knows_that_it_won(
    proxy: FaultProxy, storage: Storage, fault: str
) -> None:
    proxy.next(fault)
    assert storage.create({"n": 1}, "pointer")
    _, version = storage.read_version("pointer")
    assert version
    proxy.next(fault)
    assert storage.swap({"n": 2}, version, "pointer")
    assert proxy.counts[fault] == 2
    assert storage.read_json("pointer") == {"n": 2}

    proxy.next(fault)
    assert not storage.create({"n": 2}, "pointer"), "the same value, but another wrote it"
    proxy.next(fault)
    assert not storage.swap({"n": 2}, version, "pointer")


def test_a_swap_of_what_has_gone_is_lost(proxy: FaultProxy, storage: Storage) -> None:
    proxy.next("no_such_key")  # AWS; SeaweedFS answers 412
    assert not storage.swap({"n": 1}, '"etag"', "pointer")
    assert not storage.exists("pointer")


def test_an_object_that_breaks_off_again_and_again_is_read_whole(
    proxy: FaultProxy, storage: Storage
) -> None:
    data = random.Random(0).randbytes(1_000_000)
    storage.write(data, "object")
    for _ in range(s3.TRIES - 1):
        proxy.next("cut_body", "GET")
    assert storage.read("object") == data
    assert proxy.counts["cut_body"] == s3.TRIES - 1
    for _ in range(s3.TRIES - 1):
        proxy.next("cut_body", "GET")
    with storage.fs.open(storage.path("object"), "rb") as file:  # as logs are read
        assert file.read() == data


def test_what_a_server_did_not_delete_is_deleted_again(proxy: FaultProxy, storage: Storage) -> None:
    storage.write_part(TABLE, {}, "runs/monday/stage", "part")
    proxy.next("not_deleted", "POST")
    storage.delete("runs/monday/stage")
    assert proxy.counts["not_deleted"] == 1
    assert storage.names("runs/monday/stage") == []


def test_a_large_upload_whose_end_was_not_heard_is_there(
    proxy: FaultProxy, storage: Storage
) -> None:
    """Uploaded in pieces, as large checkpoints are; the piece that ends it is told apart."""
    data = random.Random(0).randbytes(11_000_000)
    for fault in ("delay", "cut_after", "no_such_upload"):  # begin, end, and end again
        proxy.next(fault, "POST")
    storage.fs.pipe_file(storage.path("object"), data, chunksize=5 * 2**20)
    assert proxy.counts["no_such_upload"] == 1
    assert storage.read("object") == data


# -- what stands on conditional writes -----------------------------------------------------


def test_a_lease_survives_answers_that_are_lost(
    proxy: FaultProxy, storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease_module, "HEARTBEAT_S", 0.05)
    proxy.next("cut_after")
    with Lease(storage, "runs/tonight") as lease:
        for fault in ("cut_after", "cut_before", "slow_down"):
            proxy.next(fault)
            before = storage.read_json("runs/tonight", "lease.json")["heartbeat"]
            wait_until(
                lambda before=before: (
                    storage.read_json("runs/tonight", "lease.json")["heartbeat"] > before
                )
            )
            lease.check()
        with pytest.raises(UserError, match="held by process"), Lease(storage, "runs/tonight"):
            pass
    assert proxy.counts["cut_after"] == 2
    assert storage.read_json("runs/tonight", "lease.json") is None


def test_a_lease_that_silent_storage_cannot_renew_is_lost_in_time(
    proxy: FaultProxy, storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another run may take it once it has expired, also while our renewal waits for an answer."""
    monkeypatch.setattr(lease_module, "HEARTBEAT_S", 0.05)
    monkeypatch.setattr(lease_module, "EXPIRES_S", 1.0)
    with Lease(storage, "runs/tonight") as lease:
        wait_until(lambda: proxy.counts["none"] > 20)
        lease.check()
        proxy.next("silent")
        wait_until(lambda: proxy.counts["silent"] == 1)
        time.sleep(1.1)
        with pytest.raises(UserError, match="lease not renewed for 1 s.*storage does not answer"):
            lease.check()


def test_the_error_that_ended_a_run_is_the_one_that_is_shown(
    proxy: FaultProxy, storage: Storage
) -> None:
    with pytest.raises(RuntimeError, match="power cut"), Lease(storage, "runs/tonight"):
        proxy.die()
        raise RuntimeError("power cut")


def test_the_published_pointer_moves_once_though_answers_are_lost(
    proxy: FaultProxy, storage: Storage
) -> None:
    for night in ("monday", "tuesday", "wednesday"):
        proxy.next("cut_after")
        version = f"published/films/versions/{night}"
        card = {"run_id": "n", "arm": "real", "model_digest": night, "version": version}
        pointer.advance(storage, "films", card)
    current = pointer.current(storage, "films")
    assert current["version"].endswith("wednesday") and current["previous"].endswith("tuesday")
    assert len(current["earlier"]) == 1
    assert proxy.counts["cut_after"] == 3


def wait_until(happened: Callable[[], bool], timeout_s: float = 10) -> None:
    deadline = time.monotonic() + timeout_s
    while not happened():
        assert time.monotonic() < deadline, "did not happen"
        time.sleep(0.02)


# -- storage that is gone for good ---------------------------------------------------------


def calls(storage: Storage, local: Path) -> dict[str, Callable[[], Any]]:
    """Every call that talks to storage."""
    return {
        "exists": lambda: storage.exists("object"),
        "read": lambda: storage.read("object"),
        "write": lambda: storage.write(b"new", "object"),
        "read_json": lambda: storage.read_json("object"),
        "write_json": lambda: storage.write_json({}, "object"),
        "names": lambda: storage.names("stage"),
        "sizes": lambda: storage.sizes("stage"),
        "delete": lambda: storage.delete("stage"),
        "create": lambda: storage.create({}, "new"),
        "read_version": lambda: storage.read_version("object"),
        "read_any": lambda: storage.read_any("object"),
        "swap": lambda: storage.swap({}, '"etag"', "object"),
        "read_table": lambda: storage.read_table("stage", "part.parquet"),
        "write_table": lambda: storage.write_table(TABLE, "stage", "part.parquet"),
        "write_part": lambda: storage.write_part(TABLE, {}, "stage", "part"),
        "read_part": lambda: storage.read_part("stage", "part"),
        "parts": lambda: storage.parts("stage"),
        "put_folder": lambda: storage.put_folder(local, "model"),
        "fetch_folder": lambda: storage.fetch_folder("model", "1"),
        "large write": lambda: storage.write(bytes(9 * 2**20), "object"),
    }


def ends(call: Callable[[], Any]) -> tuple[float, BaseException | None]:
    """(seconds, what the call raised)."""
    started = time.monotonic()
    try:
        call()
    except BaseException as error:
        return time.monotonic() - started, error
    return time.monotonic() - started, None


@pytest.mark.parametrize("broken", ["dead", "silent", *BREAKS])
def test_every_call_to_storage_that_stays_broken_ends_in_a_clear_error(
    proxy: FaultProxy,
    storage: Storage,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    broken: str,
) -> None:
    if broken == "silent":
        monkeypatch.setenv("LLMAUG_S3_READ_TIMEOUT_S", "0.2")
    storage.write_part(TABLE, {}, "stage", "part")
    storage.write_json({}, "object")
    (tmp_path / "config.json").write_text("{}")
    proxy.share, proxy.faults = 1.0, [broken]
    if broken == "dead":
        proxy.die()
    wanted = calls(storage, tmp_path)
    if broken == "cut_body":
        wanted = {name: wanted[name] for name in ("read", "read_part", "names", "delete")}
    with ThreadPoolExecutor(len(wanted)) as pool:
        ended = dict(zip(wanted, pool.map(ends, wanted.values()), strict=True))
    for name, (seconds, error) in ended.items():
        assert isinstance(error, UserError), f"{name}: {error!r}"
        assert "storage does not answer" in error.message, name
        assert storage.root in error.message and proxy.url in error.message, name
        assert seconds < BOUNDED_S, f"{name} took {seconds:.0f} s"


def test_a_server_that_accepts_connections_and_no_bytes_is_given_up(
    endpoint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An upload larger than the buffers on the way: nobody reads it."""
    monkeypatch.setenv("LLMAUG_S3_READ_TIMEOUT_S", "0.1")
    with socket.create_server(("127.0.0.1", 0), backlog=50) as deaf:
        storage = Storage(f"s3://{BUCKET}/x", f"http://127.0.0.1:{deaf.getsockname()[1]}")
        seconds, error = ends(lambda: storage.write(bytes(20_000_000), "object"))
    assert isinstance(error, UserError) and "no answer in time" in error.message
    assert 0.1 * s3.TRIES < seconds < 10


def test_the_time_limits_are_those_of_the_documentation() -> None:
    pauses_s = FIRST_PAUSE_S * sum(2**number for number in range(s3.TRIES - 1))
    assert pauses_s == 31, "all that refused connections cost"
    assert s3.TRIES * Storage("s3://x/y").fs._limit_s(1000) + pauses_s < 122
    assert 0.1**s3.TRIES < 1e-5


def test_logs_on_storage_that_does_not_answer_are_not_taken_for_damaged(
    proxy: FaultProxy, storage: Storage
) -> None:
    storage.write_table(pa.table({"user_id": ["u"], "item_id": ["i"]}), "logs", "a.parquet")
    storage.write(b'{"user_id": "u", "item_id": "i"}', "logs", "b.jsonl")
    place = Storage(f"{storage.root}/logs", proxy.url)
    sources = list_sources(place, "ingest")
    proxy.share, proxy.faults = 1.0, ["internal_error"]
    for source, kind in zip(sources, ("parquet", "jsonl"), strict=True):
        files = FilesConfig(path=place.root, format=kind)  # type: ignore
        layout = Layout("ingest", files, ("user_id",), ("user_id", "item_id"))
        with pytest.raises(UserError, match="storage does not answer"):
            list(read_pieces(place, source, layout))
