"""One run folder, one holder: a lease with a heartbeat, kept in `runs/<run_id>/lease.json`.

Taken with a conditional put, renewed and taken over with compare-and-swap, so two drivers
can never both believe that they hold it. Clocks of two machines are never compared: who finds
a lease watches, by its own clock, whether the object changes within the time that a holder has
to renew it. Only a holder on this very machine (host, boot and process namespace) is looked up
among the processes: one that is gone is replaced at once, one that runs and renews is left alone.
"""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from llmaug.core.storage import Storage
from llmaug.errors import UserError

EXPIRES_S = 60.0
HEARTBEAT_S = 10.0


@dataclass(frozen=True)
class Holder:
    """Who holds a lease, as it says of itself; None where it does not say, or nonsense."""

    token: str | None = None
    host: str | None = None
    boot: str | None = None
    """Id of the machine's boot: two machines, or one before and after, differ in it."""
    namespace: str | None = None
    """That of its process ids: containers of one machine may share their host's name."""
    pid: int | None = None
    started: int | None = None
    """Clock ticks from the boot to the start of the process: another process of the same number
    differs in it, and no correction of the clock changes it."""
    heartbeat: float | None = None
    """Seconds since 1970 by its own clock: for people to read."""
    beats: int | None = None

    @classmethod
    def read(cls, value: Any) -> Holder:
        """From parsed JSON, whatever it is."""
        found = value if isinstance(value, dict) else {}
        kinds = {"pid": int, "started": int, "beats": int, "heartbeat": float}
        known: dict[str, Any] = {}
        for field in fields(cls):
            given, kind = found.get(field.name), kinds.get(field.name, str)
            if kind is float and type(given) is int:
                given = float(given)
            if type(given) is kind:  # no bool for a number
                known[field.name] = given
        return cls(**known)

    def __str__(self) -> str:
        if self.pid is None or self.host is None:
            return "a holder that it does not name (the file is damaged)"
        return f"process {self.pid} on {self.host}"

    @property
    def last_seen(self) -> str:
        """For people, by the holder's own clock: `heartbeat at 2026-01-31 04:00:00 UTC`."""
        if self.heartbeat is not None:
            with contextlib.suppress(OverflowError, ValueError, OSError):  # no time at all
                at = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(self.heartbeat))
                return f"heartbeat at {at} UTC by its clock"
        return "no heartbeat that can be read"


def lives(holder: Holder) -> bool | None:
    """Does its process live? None where that cannot be seen from here."""
    here = _here()
    ours = (here.host, here.boot, here.namespace)
    theirs = (holder.host, holder.boot, holder.namespace)
    if None in ours or ours != theirs or holder.pid is None or holder.started is None:
        return None
    state, started = _process(holder.pid)
    if state is not None:
        return started == holder.started and state not in "ZX"  # zombie, dead
    try:
        os.kill(holder.pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        pass
    return None  # it is there, and hidden from us


class Lease:
    """Context manager. Raises UserError when another live run holds the folder.

    tell: called with a sentence when a holder is watched, which takes up to `EXPIRES_S`.
    clock, wait: for tests; seconds that only grow, and a pause.
    """

    def __init__(
        self,
        storage: Storage,
        run_folder: str,
        tell: Callable[[str], None] | None = None,
        clock: Callable[[], float] = time.monotonic,
        wait: Callable[[float], None] = time.sleep,
    ) -> None:
        self._storage, self._tell, self._clock, self._wait = storage, tell, clock, wait
        self._name = (run_folder, "lease.json")
        self._token = uuid.uuid4().hex
        self._version: str | None = None
        self._beats = 0
        self._renewed_at = 0.0
        self._lost = False
        self._error: Exception | None = None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._renew, daemon=True, name="lease")

    def __enter__(self) -> Lease:
        for _ in range(5):  # a holder may let go between our look and our try
            if self._acquire():
                self._thread.start()
                return self
        raise UserError(f"{self._where}: cannot take the run lease")

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(timeout=HEARTBEAT_S)
        # Where storage is gone the lease expires, and the error that ends the run stays the first.
        with contextlib.suppress(UserError):
            if self._look()[0].token == self._token:
                self._storage.delete(*self._name)

    def check(self) -> None:
        """Raises UserError when the lease was lost, as far as is known here; asks nobody."""
        if self._lost:
            raise UserError("run lease lost to another run: this one stops before it commits")
        # Counted here and not by the thread, whose call to silent storage may hang for minutes.
        silent_s = self._clock() - self._renewed_at
        if silent_s > EXPIRES_S:
            raise UserError(
                f"{self._where}: run lease not renewed for {silent_s:.0f} s, "
                f"another run may have taken it: {self._error or 'storage does not answer'}. "
                "Run the same command again: finished parts are kept"
            )

    def confirm(self) -> None:
        """Raises UserError unless storage says that the lease is ours; call before what cannot
        be taken back (a manifest, a deletion, a published pointer): a process that was stopped
        for an hour believes its own clock."""
        self.check()
        if self._look()[0].token != self._token:
            self._lost = True
            self.check()

    @property
    def _where(self) -> str:
        return self._storage.uri(*self._name)

    def _acquire(self) -> bool:
        begin = self._clock()
        if self._storage.create(self._holder(), *self._name):
            return self._is_ours(begin)
        holder, version = self._look()
        if version is None:
            return False
        alive = lives(holder)
        if alive:  # on this machine, whose clock both go by
            age = time.time() - (holder.heartbeat or 0.0)
            if abs(age) <= EXPIRES_S:
                raise self._held(holder, f"It is running, heartbeat {age:.0f} s ago")
        if alive is not False and not self._watch(holder, version):
            return False
        begin = self._clock()
        swapped = self._storage.swap(self._holder(), version, *self._name)
        return swapped and self._is_ours(begin)

    def _watch(self, holder: Holder, version: str) -> bool:
        """True when the lease stayed as it is for as long as a holder has to renew it, False when
        it is gone. Raises UserError when it moved: its holder lives."""
        if self._tell:
            self._tell(
                f"{self._where}: this run is held by {holder}, {holder.last_seen}; waiting up to "
                f"{EXPIRES_S:.0f} s to see whether it still lives"
            )
        begin = self._clock()
        while (left := begin + EXPIRES_S - self._clock()) > 0:
            self._wait(min(HEARTBEAT_S / 5, left))
            now, seen = self._look()
            if seen is None:
                return False
            if seen != version:
                raise self._held(now, "It lives: the lease was renewed while we watched it")
        return True

    def _held(self, holder: Holder, why: str) -> UserError:
        return UserError(
            f"{self._where}: this run is held by {holder}. {why}. Wait for it, stop it, or choose "
            "another --run-id"
        )

    def _look(self) -> tuple[Holder, str | None]:
        """Who holds it, and the version of the object (None: there is none)."""
        value, version = self._storage.read_any(*self._name)
        return Holder.read(value), version

    def _is_ours(self, begin: float) -> bool:
        """Does storage hold what we wrote after `begin`? Then its version is what the next
        renewal replaces, and `begin` is what it counts from."""
        holder, version = self._look()
        if version is None or holder.token != self._token:
            return False
        self._version = version
        if holder.beats == self._beats:
            self._renewed_at = begin
        return True

    def _holder(self) -> dict[str, Any]:
        self._beats += 1  # so that every renewal changes the object, whatever the clock says
        here = _here()
        return asdict(here) | {
            "token": self._token,
            "heartbeat": time.time(),
            "beats": self._beats,
        }

    def _renew(self) -> None:
        while not self._stop.wait(HEARTBEAT_S):
            try:
                assert self._version is not None
                begin = self._clock()
                self._storage.swap(self._holder(), self._version, *self._name)
                self._lost = not self._is_ours(begin)
            except Exception as error:  # storage hiccup: the lease lives until it expires
                self._error = error
                continue
            if self._lost:
                return


def _here() -> Holder:
    return Holder(
        host=socket.gethostname(),
        boot=_boot_id(),
        namespace=_process_namespace(),
        pid=os.getpid(),
        started=_process(os.getpid())[1],
    )


def _process(pid: int) -> tuple[str | None, int | None]:
    """(state, ticks from the boot to its start) of a process, or (None, None): Linux alone says
    them in a way that no clock changes (proc_pid_stat(5))."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
        values = stat.rpartition(")")[2].split()  # a program's name may hold blanks
        return values[0], int(values[19])
    return None, None


def _boot_id() -> str | None:
    with contextlib.suppress(OSError):
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip() or None
    return None


def _process_namespace() -> str | None:
    with contextlib.suppress(OSError):
        return os.readlink("/proc/self/ns/pid")
    return None
