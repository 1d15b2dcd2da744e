"""The run lease: one living holder, and the dead do not block the living."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from llmaug.core import lease as lease_module
from llmaug.core.lease import EXPIRES_S, HEARTBEAT_S, Holder, Lease, lives
from llmaug.core.storage import Storage
from llmaug.errors import UserError

RUN = "runs/tonight"
DAY_S = 24 * 3600.0


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    return Storage(str(tmp_path))


def write_holder(storage: Storage, **changes: Any) -> dict[str, Any]:
    """A lease as this process would write it, but another's where `changes` say so."""
    holder = {**Lease(storage, RUN)._holder(), "token": "another", **changes}
    storage.write_json(holder, RUN, "lease.json")
    return holder


class Time:
    """A clock that only moves while somebody waits; `during` is called after each wait."""

    def __init__(self, during: Callable[[float], None] = lambda now: None) -> None:
        self.now, self.said = 1000.0, list[str]()
        self._during = during

    def wait(self, seconds: float) -> None:
        self.now += seconds
        self._during(self.now - 1000)

    def lease(self, storage: Storage) -> Lease:
        return Lease(storage, RUN, self.said.append, lambda: self.now, self.wait)


def holder_of(storage: Storage) -> Any:
    return storage.read_json(RUN, "lease.json")


def test_it_is_held_inside_the_block_and_released_after_it(storage: Storage) -> None:
    with Lease(storage, RUN) as lease:
        assert holder_of(storage)["pid"] == os.getpid()
        lease.check()
    assert holder_of(storage) is None
    with Lease(storage, RUN):
        pass


def test_it_is_released_when_the_run_fails(storage: Storage) -> None:
    with pytest.raises(RuntimeError, match="power cut"), Lease(storage, RUN):
        raise RuntimeError("power cut")
    assert holder_of(storage) is None


def test_a_second_run_is_refused_at_once_and_told_who_holds_it(storage: Storage) -> None:
    with Lease(storage, RUN), pytest.raises(UserError) as caught, Time().lease(storage):
        pass
    message = caught.value.message
    assert f"held by process {os.getpid()} on {os.uname().nodename}" in message
    assert "heartbeat 0 s ago" in message and "--run-id" in message


def test_other_run_folders_are_free(storage: Storage) -> None:
    with Lease(storage, RUN), Lease(storage, "runs/tomorrow"):
        assert holder_of(storage) is not None


# -- holders that cannot be seen from here: whether the lease moves -------------------------


@pytest.mark.parametrize("clock_is_off_s", [0, -65, -30 * DAY_S, 30 * DAY_S])
@pytest.mark.parametrize(
    "where",
    [{"host": "elsewhere"}, {"boot": "another"}, {"namespace": "pid:[7]"}, {"namespace": None}],
)
def test_a_living_holder_is_left_alone_wherever_it_is_and_whatever_its_clock_says(
    storage: Storage, where: dict[str, str], clock_is_off_s: float
) -> None:
    """The number of its process means nothing here: nobody has it, or somebody else."""
    began = time.time() + clock_is_off_s

    def renew(passed_s: float) -> None:
        beats = int(passed_s / HEARTBEAT_S)
        write_holder(storage, pid=2**22 + 1, heartbeat=began, beats=beats, **where)

    renew(0)
    watch = Time(renew)
    with pytest.raises(UserError, match="held by process 4194305 on .*It lives"):
        watch.lease(storage).__enter__()
    assert watch.now <= 1000 + HEARTBEAT_S + 2
    assert "waiting up to 60 s to see whether it still lives" in watch.said[0]
    assert holder_of(storage)["token"] == "another"


@pytest.mark.parametrize("clock_is_off_s", [0, -65, 30 * DAY_S])
def test_a_silent_holder_is_replaced_after_one_time_out_whatever_its_clock_says(
    storage: Storage, clock_is_off_s: float
) -> None:
    write_holder(storage, host="elsewhere", heartbeat=time.time() + clock_is_off_s)
    watch = Time()
    with watch.lease(storage) as lease:
        assert holder_of(storage)["token"] != "another"
        lease.confirm()
    assert watch.now == 1000 + EXPIRES_S
    assert len(watch.said) == 1 and "held by process" in watch.said[0]


def test_a_holder_that_lets_go_while_it_is_watched_is_followed_at_once(storage: Storage) -> None:
    write_holder(storage, host="elsewhere")
    watch = Time(lambda passed_s: storage.delete(RUN, "lease.json"))
    with watch.lease(storage):
        assert holder_of(storage)["token"] != "another"
    assert watch.now < 1000 + HEARTBEAT_S


def test_of_two_who_watch_the_same_dead_holder_one_takes_over(storage: Storage) -> None:
    write_holder(storage, host="elsewhere")
    first = Lease(storage, RUN, clock=lambda: 0.0)

    def the_other_was_faster(passed_s: float) -> None:
        if passed_s >= EXPIRES_S:
            version = storage.read_version(RUN, "lease.json")[1]
            assert version and storage.swap(first._holder(), version, RUN, "lease.json")

    watch = Time(the_other_was_faster)
    with pytest.raises(UserError, match="held by process"):
        watch.lease(storage).__enter__()
    assert holder_of(storage)["token"] == first._token


@pytest.mark.parametrize(
    "damaged",
    [b"", b"{", b"[]", b"null", b"7", b"\xff\xfe", b'{"token": {}, "pid": "x", "heartbeat": []}',
     b'{"pid": -1, "host": 7, "heartbeat": NaN, "started": true}', b"[" * 100_000],
)  # fmt: skip
def test_a_damaged_lease_is_watched_like_any_other(storage: Storage, damaged: bytes) -> None:
    storage.write(damaged, RUN, "lease.json")
    watch = Time()
    with watch.lease(storage):
        assert holder_of(storage)["pid"] == os.getpid()
    assert watch.now == 1000 + EXPIRES_S
    assert "the file is damaged" in watch.said[0]


def test_a_folder_in_place_of_the_lease_is_named(storage: Storage) -> None:
    storage.write(b"", RUN, "lease.json", "inside")
    with pytest.raises(UserError, match="lease.json: a folder lies where a file belongs"):
        Time().lease(storage).__enter__()


@pytest.mark.parametrize("heartbeat", [float("inf"), float("nan"), 1e300, -1e300])
def test_a_heartbeat_that_is_no_time_can_be_told(heartbeat: float) -> None:
    assert Holder.read({"heartbeat": heartbeat}).last_seen == "no heartbeat that can be read"


# -- holders on this machine: its processes -------------------------------------------------


def test_a_dead_holder_on_this_machine_is_replaced_at_once(storage: Storage) -> None:
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    state, born = lease_module._process(process.pid)
    assert state
    write_holder(storage, pid=process.pid, started=born)
    watch = Time()
    with pytest.raises(UserError, match=f"process {process.pid}"), watch.lease(storage):
        pass
    process.kill()
    process.wait()
    with watch.lease(storage):
        assert holder_of(storage)["token"] != "another"
    assert watch.now == 1000 and not watch.said


def test_a_process_that_runs_but_renews_no_more_is_watched_like_any_other(
    storage: Storage,
) -> None:
    """Stopped, or a notebook whose run ended while storage was away."""
    write_holder(storage, heartbeat=time.time() - EXPIRES_S - 1)
    watch = Time()
    with watch.lease(storage):
        assert holder_of(storage)["token"] != "another"
    assert watch.now == 1000 + EXPIRES_S


@pytest.mark.parametrize("set_by_s", [-DAY_S, DAY_S])
def test_a_process_that_runs_is_left_alone_though_the_clock_was_set(
    storage: Storage, set_by_s: float
) -> None:
    def renew(passed_s: float) -> None:
        beats = int(passed_s / HEARTBEAT_S)
        write_holder(storage, heartbeat=time.time() + set_by_s, beats=beats)

    renew(0)
    with pytest.raises(UserError, match="It lives"):
        Time(renew).lease(storage).__enter__()


def test_a_new_process_with_the_number_of_the_dead_one_is_not_the_holder(storage: Storage) -> None:
    write_holder(storage, pid=1, started=(lease_module._process(1)[1] or 0) + 3600)
    with Time().lease(storage) as lease:
        lease.confirm()


def test_a_living_process_is_known_though_the_clock_was_set_meanwhile(storage: Storage) -> None:
    """Its start is counted from the boot, not by the clock."""
    holder = write_holder(storage, heartbeat=time.time() + 65)
    assert lives(Holder.read(holder))


def wait_until(happened: Any, timeout_s: float = 10) -> None:
    deadline = time.monotonic() + timeout_s
    while not happened():
        assert time.monotonic() < deadline, "did not happen"
        time.sleep(0.01)


def test_the_heartbeat_is_renewed(storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease_module, "HEARTBEAT_S", 0.02)
    with Lease(storage, RUN) as lease:
        first = holder_of(storage)["heartbeat"]
        wait_until(lambda: holder_of(storage)["heartbeat"] > first)
        lease.check()


def test_a_run_that_lost_its_lease_may_not_commit_and_leaves_the_new_holder_alone(
    storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease_module, "HEARTBEAT_S", 0.02)

    def raises(lease: Lease) -> bool:
        # Written again until it is noticed: a renewal in flight may still overwrite it once.
        write_holder(storage, host="elsewhere")
        try:
            lease.check()
        except UserError as error:
            assert "lost to another run" in error.message
            return True
        return False

    with Lease(storage, RUN) as lease:
        wait_until(lambda: raises(lease))
    assert holder_of(storage)["host"] == "elsewhere"


def test_a_process_that_slept_through_its_lease_commits_nothing(storage: Storage) -> None:
    """It has not noticed yet, and its clock stood still with it."""
    with Lease(storage, RUN, clock=lambda: 0.0) as lease:
        write_holder(storage, host="elsewhere")
        lease.check()
        with pytest.raises(UserError, match="lost to another run"):
            lease.confirm()


def test_a_lease_that_is_not_renewed_in_time_is_not_relied_on(storage: Storage) -> None:
    watch = Time()
    with watch.lease(storage) as lease:
        watch.now += EXPIRES_S
        lease.check()
        watch.now += 1
        with pytest.raises(UserError, match="not renewed for 61 s.*finished parts are kept"):
            lease.check()
