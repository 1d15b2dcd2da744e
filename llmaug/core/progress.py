"""What the person at the terminal sees: which stage, how far, how long still.

rich bars in a terminal; without one a line of JSON a minute, for log collectors. The same
state is put to `runs/<run_id>/progress.json` for `llmaug status` on another machine.
"""

from __future__ import annotations

import contextlib
import json
import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any, Protocol

import psutil
from rich.text import Text

from llmaug.core.formats import utc_now
from llmaug.core.terminal import Terminal

LINE_EVERY_S = 60.0


class Advance(Protocol):
    """Moves a bar: by steps, or to a place."""

    def __call__(self, step: int = 1, counts: dict[str, Any] | str | None = None) -> None:
        """`counts` (a dict of numbers, or its JSON) are added to those of earlier calls."""

    def show(self, done: int, shown: dict[str, Any]) -> None:
        """Stand at `done`, and show these values and no others."""


class Progress:
    """Reports stages to `console`, and their state as a dict to `publish`."""

    def __init__(
        self, console: Terminal | None = None, publish: Callable[[dict], None] | None = None
    ) -> None:
        self._console = console or Terminal(stderr=True, quiet=True)
        self._publish = publish
        self._stages: list[str] = []
        self._stage = ""

    def plan(self, stages: list[str]) -> None:
        """Name all stages ahead, so that each can be shown as `3/14`."""
        self._stages = stages

    def skipped(self, stage: str) -> None:
        self._line(stage, ("unchanged, skipped", "dim"))

    def start(self, stage: str) -> None:
        self._stage = stage
        self._line(stage, "...")
        self._put({"stage": stage, "done": 0, "total": None})

    def finish(self, stage: str, seconds: float) -> None:
        self._line(stage, ("done", "green"), f" in {seconds:.1f} s")

    def note(self, text: str, style: str = "") -> None:
        """A line the user should read: a decision, a count."""
        self._console.print("      " + text.replace("\n", "\n      "), style=style)

    def warn(self, text: str) -> None:
        """A line the user should not miss."""
        self.note(text, "yellow")

    @contextlib.contextmanager
    def track(self, total: int, unit: str, done: int = 0) -> Iterator[Advance]:
        """A bar over `total` units, `done` of them finished earlier."""
        state = _Bar(self._stage, total, unit, done)
        with self._bar(state) as draw:

            def after() -> None:
                draw()
                self._put(state.as_dict())

            yield _Advance(state, after)

    @contextlib.contextmanager
    def _bar(self, state: _Bar) -> Iterator[Callable[[], None]]:
        if not self._console.is_terminal:
            last = [time.monotonic()]

            def draw_line() -> None:
                if time.monotonic() - last[0] >= LINE_EVERY_S:
                    last[0] = time.monotonic()
                    self._say_state(state.as_dict())

            yield draw_line
            return
        from rich.progress import BarColumn, TextColumn, TimeRemainingColumn
        from rich.progress import Progress as RichProgress

        shown = TextColumn("{task.description}", markup=False)
        columns = (TextColumn("      "), BarColumn(), shown)
        with RichProgress(*columns, TimeRemainingColumn(), console=self._console) as bars:
            task = bars.add_task(state.line(), total=state.total, completed=state.done)
            yield lambda: bars.update(task, completed=state.done, description=state.line())

    def _say_state(self, state: dict[str, Any]) -> None:
        self._console.print(json.dumps({"time": utc_now(), **state}), soft_wrap=True)

    def _line(self, stage: str, *words: str | tuple[str, str]) -> None:
        place = self._stages.index(stage) + 1 if stage in self._stages else 0
        label = f"[{place:>2}/{len(self._stages)}] {stage} "
        self._console.print(Text.assemble(label, *words))

    def _put(self, state: dict[str, Any]) -> None:
        if self._publish:
            place = self._stages.index(self._stage) + 1 if self._stage in self._stages else 0
            self._publish({**state, "number": place, "of": len(self._stages), "time": time.time()})


class _Advance:
    def __init__(self, state: _Bar, after: Callable[[], None]) -> None:
        self._state, self._after = state, after

    def __call__(self, step: int = 1, counts: dict[str, Any] | str | None = None) -> None:
        self._state.add(step, counts)
        self._after()

    def show(self, done: int, shown: dict[str, Any]) -> None:
        self._state.stand_at(done, shown)
        self._after()


class _Bar:
    def __init__(self, stage: str, total: int, unit: str, done: int) -> None:
        self.stage, self.total, self.unit, self.done = stage, total, unit, done
        self._first: int | None = None
        self._begin = 0.0
        self._counts: Counter[str] = Counter()
        self._shown: dict[str, Any] = {}

    def add(self, step: int, counts: dict[str, Any] | str | None) -> None:
        self.done += step
        if self._first is None:
            # Start-up (an engine, workers) is over now: what is left is reckoned from here.
            self._first, self._begin = self.done, time.monotonic()
        counts = json.loads(counts) if isinstance(counts, str) else counts or {}
        for name, value in counts.items():
            if isinstance(value, int):
                self._counts[name] += value
                self._shown[name] = f"{self._counts[name]:,}"
            else:
                self._shown[name] = _text(value)

    def stand_at(self, done: int, shown: dict[str, Any]) -> None:
        if self._first is None and done > self.done:
            self._first, self._begin = self.done, time.monotonic()
        self.done, self._shown = done, {name: _text(value) for name, value in shown.items()}

    def remaining_s(self) -> float | None:
        moved = self.done - (self.done if self._first is None else self._first)
        elapsed = time.monotonic() - self._begin
        return elapsed / moved * (self.total - self.done) if moved else None

    def line(self) -> str:
        left = self.remaining_s()
        parts = [f"{self.done}/{self.total} {self.unit}"]
        parts += [f"{name} {value}" for name, value in self._shown.items()]
        parts += [f"{left:.0f} s left"] if left is not None else []
        return ", ".join(parts)

    def as_dict(self) -> dict[str, Any]:
        return {
            "stage": self.stage,
            "done": self.done,
            "total": self.total,
            "unit": self.unit,
            "counts": self._shown,
            "remaining_s": self.remaining_s(),
        }


def _text(value: Any) -> Any:
    if isinstance(value, float):
        return f"{value:.4g}"
    return f"{value:,}" if isinstance(value, int) else value


class MemoryMeter:
    """Peak resident memory (MB) of this process and its children while the block runs.

    Shared pages (Ray's object store) are counted once a process, so it is an upper bound.
    On a cluster it sees the driver's machine only.
    """

    def __init__(self, every_s: float = 1.0) -> None:
        self.peak_mb = 0
        self._every_s = every_s
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True, name="memory")

    def __enter__(self) -> MemoryMeter:
        self._thread.start()
        return self

    def __exit__(self, *_: Any) -> None:
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        while True:
            self.peak_mb = max(self.peak_mb, tree_rss_mb())
            if self._stop.wait(self._every_s):
                return


def tree_rss_mb() -> int:
    """Resident memory, less the shared pages, of this process and all its descendants."""
    me = psutil.Process(os.getpid())
    total = 0
    for process in [me, *me.children(recursive=True)]:
        with contextlib.suppress(psutil.Error):
            memory = process.memory_info()
            total += memory.rss - getattr(memory, "shared", 0)
    return total // 2**20
