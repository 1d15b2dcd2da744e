"""The thread that owns an engine and keeps it fed.

Several parts are in the engine at once: while one drains, the next is already running and the
one before it is being written. So the engine never waits for storage, only for units.
"""

from __future__ import annotations

import os
import queue
import sys
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from llmaug.generate.engines import Engine, EngineMaker, Finished, together
from llmaug.generate.units import Units, answers_of, failures_of

REPORT_EVERY_S = 1.0
HAND_EVERY_S = 0.25  # tables of a few rows each would cost more than what is in them
STALLED_S = 900.0  # of one step, warm-up of kernels and graphs included


@dataclass
class Job:
    """Some units of a part, on their way through the engine."""

    units: Units
    numbers: np.ndarray
    """(N,) rows of `units` to run."""
    answers: queue.SimpleQueue[pa.Table | None] = field(default_factory=queue.SimpleQueue)
    """Rows of ANSWER as they come; None when the engine was told to stop."""
    first_key: int = 0
    num_open: int = 0


Report = Callable[[dict[str, Any]], str]
"""Takes what happened since the last report; returns why to stop, or ''."""


class EngineLoop:
    """Starts the engine in a thread of its own; `submit` hands it units from any thread."""

    def __init__(
        self, make_engine: EngineMaker, report: Report, on_death: Callable[[str], None]
    ) -> None:
        self._make_engine, self._report, self._on_death = make_engine, report, on_death
        self._inbox: queue.SimpleQueue[Job] = queue.SimpleQueue()
        self._jobs: list[Job] = []
        self._next_key = 0
        self._finished: list[Finished] = []  # not handed over yet
        self._handed = 0.0
        self._since: Counter[str] = Counter()
        self._lock = threading.Lock()
        self._busy_s, self._reported = 0.0, 0.0
        self._marked: float | None = None  # up to when busy and idle time has been counted
        self._step_begun: float | None = None
        self._first_unit: float | None = None  # seconds since 1970
        self.broken: BaseException | None = None
        self.stopped = ""
        threading.Thread(target=self._run, daemon=True, name="engine").start()

    def submit(self, units: Units, numbers: np.ndarray) -> Job:
        job = Job(units, numbers)
        self._inbox.put(job)
        return job

    def count(self, **counts: int) -> None:
        """Add to what the next report says."""
        with self._lock:
            self._since.update(counts)

    def _run(self) -> None:
        try:
            engine = self._make_engine()
        except BaseException as error:
            self.broken = error
            while True:  # every part that comes shall hear of it
                self._inbox.get().answers.put(None)
        threading.Thread(target=self._guard, args=[engine], daemon=True, name="guard").start()
        try:
            while True:
                self._turn(engine)
        except BaseException:
            traceback.print_exc()
            self._die(traceback.format_exc(limit=-3))

    def _guard(self, engine: Engine) -> None:
        """A step may wait for ever for an engine that is gone or hangs."""
        while True:
            time.sleep(1.0)
            begun = self._step_begun
            if not engine.alive:
                self._die("the process of the engine was killed")
            if begun is not None and time.monotonic() - begun > STALLED_S:
                self._die(f"the engine has been in one step for {STALLED_S:.0f} s")

    def _die(self, last_words: str) -> None:
        """The engine is gone, and the parts in it with it: a new process runs them again."""
        sys.stderr.flush()
        self._on_death(last_words)
        os._exit(1)

    def _turn(self, engine: Engine) -> None:
        self._take(engine)
        if engine.num_unfinished:
            self._step_begun = begin = time.monotonic()
            finished = engine.step()
            self._busy_s += time.monotonic() - begin
            self._step_begun = None
            if finished is not None:
                self._finished.append(finished)
            self._deliver(at_once=not engine.num_unfinished)
            if not engine.num_unfinished:  # what the last units did shall be known, too
                self._send(engine)
        if time.monotonic() - self._reported >= REPORT_EVERY_S:
            self._send(engine)

    def _take(self, engine: Engine) -> None:
        """Give the engine all that waits; without anything to do, wait a moment for more."""
        try:
            working = engine.num_unfinished
            job = self._inbox.get_nowait() if working else self._inbox.get(timeout=0.2)
        except queue.Empty:
            return
        if self.stopped:
            job.answers.put(None)
            return
        begin = time.monotonic()
        if self._marked is None:
            self._marked = begin
            self._first_unit = time.time()
        job.first_key, job.num_open = self._next_key, len(job.numbers)
        self._next_key += len(job.numbers)
        self._jobs.append(job)
        refused = engine.add(job.units, job.numbers, job.first_key)
        if refused:
            failures = [(number, "refused_by_engine", why) for number, why in refused]
            self._hand(job, failures_of(failures))
            self.count(failed=len(refused))
        self._busy_s += time.monotonic() - begin

    def _deliver(self, at_once: bool) -> None:
        """Hand over what has finished, now and then."""
        now = time.monotonic()
        if not self._finished or not (at_once or now - self._handed >= HAND_EVERY_S):
            return
        self._handed = now
        finished, self._finished = together(self._finished), []
        seconds_each = self._busy_s / (len(finished.keys) + len(finished.failed))
        assert self._marked is not None
        self.count(
            generated=len(finished.keys),
            failed=len(finished.failed),
            output_tokens=_num_tokens(finished),
            busy_us=round(1e6 * self._busy_s),
            # Waiting after the very last unit is never counted, waiting between units is.
            idle_us=round(1e6 * (now - self._marked - self._busy_s)),
        )
        self._busy_s, self._marked = 0.0, now
        for job in list(self._jobs):
            place = finished.keys - job.first_key
            mine = (place >= 0) & (place < len(job.numbers))
            if mine.any():
                tokens = finished.tokens if mine.all() else finished.tokens.filter(pa.array(mine))
                numbers, cached = job.numbers[place[mine]], finished.num_cached[mine]
                soft, said = (
                    table and table.filter(pa.array(mine))
                    for table in (finished.soft, finished.said)
                )
                self._hand(job, answers_of(numbers, tokens, cached, seconds_each, soft, said))
            failures = [
                (int(job.numbers[key - job.first_key]), reason, detail)
                for key, reason, detail in finished.failed
                if 0 <= key - job.first_key < len(job.numbers)
            ]
            if failures:
                self._hand(job, failures_of(failures))

    def _hand(self, job: Job, answers: pa.Table) -> None:
        job.num_open -= answers.num_rows
        if not job.num_open:
            self._jobs.remove(job)
        job.answers.put(answers)

    def _send(self, engine: Engine) -> None:
        self._reported = time.monotonic()
        with self._lock:
            news: dict[str, Any] = dict(self._since)
            self._since = Counter()
        news |= {"running": engine.num_unfinished, "first_unit": self._first_unit}
        self.stopped = self._report(news) or self.stopped
        if self.stopped and self._jobs:
            self._deliver(at_once=True)
            engine.abort()
            for job in self._jobs:
                job.answers.put(None)
            self._jobs = []


def _num_tokens(finished: Finished) -> int:
    """Generated; of texts from elsewhere, as the server counted them."""
    said = finished.said and pc.sum(finished.said["said_tokens"]).as_py()
    return said or len(finished.tokens.values)
