"""One run folder, one holder: a lease with a heartbeat, kept in `runs/<run_id>/lease.json`.

Taken with a conditional put, renewed and taken over with compare-and-swap, so two drivers
can never both believe that they hold it. A dead holder's lease expires; on the same
machine its death is seen at once.
"""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import time
import uuid
from typing import Any

import psutil

from llmaug.errors import UserError
from llmaug.storage import Storage

EXPIRES_S = 60.0
HEARTBEAT_S = 10.0


class Lease:
    """Context manager. Raises UserError when another live run holds the folder."""

    def __init__(self, storage: Storage, run_folder: str) -> None:
        self._storage = storage
        self._name = (run_folder, "lease.json")
        self._token = uuid.uuid4().hex
        self._version: str | None = None
        self._heartbeat = 0.0  # the one in storage, by which others judge us
        self._lost = False
        self._error: Exception | None = None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._renew, daemon=True, name="lease")

    def __enter__(self) -> Lease:
        for _ in range(5):  # a holder may let go between our look and our try
            if self._acquire():
                self._thread.start()
                return self
        raise UserError(f"{self._storage.uri(*self._name)}: cannot take the run lease")

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(timeout=HEARTBEAT_S)
        # Where storage is gone the lease expires, and the error that ends the run stays the first.
        with contextlib.suppress(UserError):
            held = self._storage.read_json(*self._name)
            if held and held["token"] == self._token:
                self._storage.delete(*self._name)

    def check(self) -> None:
        """Raises UserError when the lease was lost; call before anything is committed."""
        if self._lost:
            raise UserError("run lease lost to another run: this one stops before it commits")
        # Counted here and not by the thread, whose call to silent storage may hang for minutes.
        silent_s = time.time() - self._heartbeat
        if silent_s > EXPIRES_S:
            raise UserError(
                f"{self._storage.uri(*self._name)}: run lease not renewed for {silent_s:.0f} s, "
                f"another run may have taken it: {self._error or 'storage does not answer'}. "
                "Run the same command again: finished parts are kept"
            )

    def _acquire(self) -> bool:
        if not self._storage.create(self._holder(), *self._name):
            held, version = self._storage.read_version(*self._name)
            if held is None:
                return False
            assert version is not None
            refuse_if_alive(held, self._storage.uri(*self._name))
            if not self._storage.swap(self._holder(), version, *self._name):
                return False
        return self._look()

    def _look(self) -> bool:
        """Is the lease in storage ours? Then its version is what the next renewal replaces."""
        held, version = self._storage.read_version(*self._name)
        if held is None or held["token"] != self._token:
            return False
        self._version, self._heartbeat = version, held["heartbeat"]
        return True

    def _holder(self) -> dict[str, Any]:
        return {
            "token": self._token,
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "process_started": psutil.Process().create_time(),
            "heartbeat": time.time(),
        }

    def _renew(self) -> None:
        while not self._stop.wait(HEARTBEAT_S):
            try:
                assert self._version is not None
                self._storage.swap(self._holder(), self._version, *self._name)
                self._lost = not self._look()
            except Exception as error:  # storage hiccup: the lease lives until it expires
                self._error = error
                continue
            if self._lost:
                return


def refuse_if_alive(held: dict[str, Any], where: str) -> None:
    """Raises UserError naming the holder and its age unless it is dead or expired."""
    if not is_alive(held):
        return
    age = time.time() - held["heartbeat"]
    raise UserError(
        f"{where}: this run is held by process {held['pid']} on {held['host']}, heartbeat "
        f"{age:.0f} s ago. Wait for it, stop it, or choose another --run-id; if its machine "
        f"is dead the lease expires in {max(EXPIRES_S - age, 0):.0f} s"
    )


def is_alive(held: dict[str, Any]) -> bool:
    """Has the holder renewed the lease lately, and (on this machine) does it still run?"""
    if not isinstance(held, dict) or not isinstance(held.get("heartbeat"), int | float):
        return False  # damaged: nobody renews such a lease
    if time.time() - held["heartbeat"] > EXPIRES_S:
        return False
    return held["host"] != socket.gethostname() or is_running(held)


def is_running(held: dict[str, Any]) -> bool:
    """Does the holder's process still live on this machine?"""
    try:
        process = psutil.Process(held["pid"])
        return abs(process.create_time() - held["process_started"]) < 2 and (
            process.status() != psutil.STATUS_ZOMBIE
        )
    except psutil.NoSuchProcess:
        return False
