"""What the driver sees of generation while it runs, and how people stop it."""

from __future__ import annotations

import contextlib
import signal
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

from llmaug.core.stage import Context
from llmaug.core.storage import Storage
from llmaug.errors import Interrupted, UserError
from llmaug.generate.board import ENGINES_DIE, INTERRUPTED, Board, Limits

SPENT = "_spent.json"


class Spent:
    """Engine seconds of this run's earlier attempts and of this one, kept in storage."""

    def __init__(self, storage: Storage, folder: str) -> None:
        self._storage, self._folder, self._attempt = storage, folder, uuid.uuid4().hex
        self._spent: dict[str, float] = storage.read_json(folder, SPENT) or {}
        self.before = sum(self._spent.values())
        self._written = 0.0

    def write(self, seconds: float, at_once: bool = False) -> None:
        if at_once or time.monotonic() - self._written > 10:
            self._written = time.monotonic()
            self._spent[self._attempt] = round(seconds, 1)
            self._storage.write_json(self._spent, self._folder, SPENT)


class Watch:
    """Asks the board once a second, and shows what it says."""

    def __init__(
        self,
        context: Context,
        board: Any,
        spent: Spent,
        num_units: int,
        finished: Counter[str],
        cache_hits: int,
    ) -> None:
        self._context, self._board, self._spent, self._num_units = context, board, spent, num_units
        self._before = finished["units"]
        self._hits = cache_hits
        self.finished = finished
        self._ended = 0.0
        self.state: dict[str, Any] = Board(Limits()).snapshot()
        self._interrupted, self._over = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True, name="watch")

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended = time.time()
        self._over.set()
        self._thread.join()
        with contextlib.suppress(UserError):  # the error that ended the run is the first one
            self._spent.write(self.state["engine_seconds"], at_once=True)

    def seen(self) -> dict[str, Any]:
        """What only shows while engines run, for the stage's manifest."""
        totals, first = Counter(self.state["totals"]), self.state["first_unit"]
        worked, waited = totals["busy_us"], totals["idle_us"]
        span = self._ended - first if first else 0.0
        return {
            "span_s": round(span, 3),  # from the first unit in an engine to the last one written
            "span_tokens_per_s": round(totals["output_tokens"] / span, 1) if span else 0.0,
            "idle_share": round(waited / (worked + waited), 4) if worked else 0.0,
            "engine_hours": round((self._spent.before + self.state["engine_seconds"]) / 3600, 5),
            "deaths": self.state["deaths"],
            "utilisation": self.state["curve"],
        }

    def interrupt(self) -> None:
        """From a signal handler: only a flag, the thread tells the board."""
        self._interrupted.set()

    def verdict(self) -> str:
        """The limit that ended generation, or ''. Raises Interrupted after a signal and
        UserError when the engines cannot live."""
        reason = self.state["stop"]
        if self._interrupted.is_set():
            done, total = self.finished["units"], self._num_units
            raise Interrupted(
                f"stopped: {done:,} of {total:,} units are in finished parts, and what was "
                "answered of the others is kept; run the same command again to go on"
            )
        if reason == ENGINES_DIE:
            raise UserError(
                f"engines died {self.state['deaths']} times, the last ones without finishing a "
                f"unit in between. The last one said: {self.state['last_words'] or 'nothing'}"
            )
        return reason

    def _watch(self) -> None:
        import ray

        price = self._context.config.budget.price_per_hour / 3600
        with self._context.progress.track(self._num_units, "units") as advance:
            while True:
                over = self._over.wait(1.0)
                # Neither a lost board nor storage that is away ends the view of what runs on.
                with contextlib.suppress(ray.exceptions.RayError, UserError):
                    if self._interrupted.is_set():
                        ray.get(self._board.stop.remote(INTERRUPTED))
                    self.state = ray.get(self._board.snapshot.remote(), timeout=10)
                    seconds = self._spent.before + self.state["engine_seconds"]
                    advance.show(*self._shown(seconds * price))
                    self._spent.write(self.state["engine_seconds"])
                if over:
                    return

    def _shown(self, cost: float) -> tuple[int, dict[str, Any]]:
        totals = Counter(self.state["totals"])
        answered = self._before + totals["kept"] + totals["generated"] + totals["failed"]
        looked_at = totals["accepted"] + totals["rejected"]
        accepted = totals["accepted"] / looked_at if looked_at else 0.0
        rate = self.state["tokens_per_s"]
        shown: dict[str, Any] = {
            "accepted": f"{accepted:.1%}",
            "rejected": f"{1 - accepted if looked_at else 0:.1%}",
            "failed": totals["failed"],
            "tokens/s": round(rate, 1),
            "events/s": round(rate * _events_per_token(totals), 1),
            "cache hits": self._hits,
            "engines": self.state["engines"],
        }
        if self.state["deaths"]:
            shown["restarts"] = self.state["deaths"]
        if cost:
            shown["cost"] = round(cost, 2)
        return min(answered, self._num_units), shown


def _events_per_token(totals: Counter[str]) -> float:
    """Kept events a generated token, of the units that were looked at."""
    return totals["events_kept"] / totals["tokens_seen"] if totals["tokens_seen"] else 0.0


@contextlib.contextmanager
def interruptible(stop: Callable[[], None], context: Context) -> Iterator[None]:
    """The first SIGTERM or Ctrl-C calls `stop`; a second one ends the process as usual."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def first(number: int, _: Any) -> None:
        stop()
        context.progress.note("stopping: keeping what is finished; once more stops at once")
        for each, handler in usual.items():
            signal.signal(each, handler)

    usual = {each: signal.signal(each, first) for each in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for each, handler in usual.items():
            signal.signal(each, handler)
