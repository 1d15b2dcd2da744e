"""The run lease: one living holder, and the dead do not block the living."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from llmaug import lease as lease_module
from llmaug.errors import UserError
from llmaug.lease import EXPIRES_S, Lease
from llmaug.storage import Storage

RUN = "runs/tonight"


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    return Storage(str(tmp_path))


def write_holder(storage: Storage, **changes: Any) -> dict[str, Any]:
    """A lease as another process would have left it."""
    holder = {
        "token": "another",
        "host": socket.gethostname(),
        "pid": 1,
        "process_started": psutil.Process(1).create_time(),
        "heartbeat": time.time(),
        **changes,
    }
    storage.write_json(holder, RUN, "lease.json")
    return holder


def holder_of(storage: Storage) -> Any:
    return storage.read_json(RUN, "lease.json")


def test_it_is_held_inside_the_block_and_released_after_it(storage: Storage) -> None:
    with Lease(storage, RUN) as lease:
        assert holder_of(storage)["pid"] == psutil.Process().pid
        lease.check()
    assert holder_of(storage) is None
    with Lease(storage, RUN):
        pass


def test_it_is_released_when_the_run_fails(storage: Storage) -> None:
    with pytest.raises(RuntimeError, match="power cut"), Lease(storage, RUN):
        raise RuntimeError("power cut")
    assert holder_of(storage) is None


def test_a_second_run_is_refused_and_told_who_holds_it(storage: Storage) -> None:
    with Lease(storage, RUN), pytest.raises(UserError) as caught, Lease(storage, RUN):
        pass
    message = caught.value.message
    assert f"held by process {psutil.Process().pid} on {socket.gethostname()}" in message
    assert "heartbeat 0 s ago" in message and "--run-id" in message


def test_other_run_folders_are_free(storage: Storage) -> None:
    with Lease(storage, RUN), Lease(storage, "runs/tomorrow"):
        assert holder_of(storage) is not None


def test_a_living_holder_on_another_machine_is_waited_for(storage: Storage) -> None:
    write_holder(storage, host="elsewhere", heartbeat=time.time() - 20)
    with (
        pytest.raises(UserError, match="on elsewhere, heartbeat 20 s ago.*expires in 40 s"),
        Lease(storage, RUN),
    ):
        pass
    assert holder_of(storage)["token"] == "another"


def test_a_dead_holder_on_this_machine_is_replaced_at_once(storage: Storage) -> None:
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    born = psutil.Process(process.pid).create_time()
    write_holder(storage, pid=process.pid, process_started=born)
    with pytest.raises(UserError, match=f"process {process.pid}"), Lease(storage, RUN):
        pass
    process.kill()
    process.wait()
    with Lease(storage, RUN):
        assert holder_of(storage)["token"] != "another"


def test_a_new_process_with_the_number_of_the_dead_one_is_not_the_holder(storage: Storage) -> None:
    write_holder(storage, pid=1, process_started=psutil.Process(1).create_time() - 3600)
    with Lease(storage, RUN):
        assert holder_of(storage)["token"] != "another"


def test_a_silent_holder_on_another_machine_expires(storage: Storage) -> None:
    write_holder(storage, host="elsewhere", heartbeat=time.time() - EXPIRES_S - 1)
    with Lease(storage, RUN):
        assert holder_of(storage)["host"] == socket.gethostname()


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
