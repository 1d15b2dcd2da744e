"""The board: one small Ray actor that every engine reports to once a second.

It adds up what happens while a part is still running, keeps the limits (deadline, engine
hours) and answers each report with the reason to stop, if there is one. What it shows is for
people; the ledger is counted from what lies in storage.
"""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass
from typing import Any

INTERRUPTED, DEADLINE, ENGINE_HOURS, ENGINES_DIE = (
    "interrupted",
    "deadline",
    "max_gpu_hours",
    "engines_die",
)
SILENT_S = 5.0  # without a report an engine is not shown
LOST_S = 60.0  # without a report it is taken for dead, when another one comes
MAX_POINTS = 240  # of the utilisation curve; beyond it, two neighbours become one


@dataclass(frozen=True)
class Limits:
    """When generation has to end."""

    deadline: float | None = None
    """Seconds since 1970."""
    engine_seconds: float | None = None
    """Of all engines together, start-up included."""
    deaths_in_a_row: int = 6
    """Engines that died without any unit being finished in between."""


@dataclass
class _Engine:
    first: float  # seconds since 1970 of its first and its last report
    last: float
    running: int = 0
    started: bool = False
    dead: bool = False


@dataclass
class Point:
    """A moment of the utilisation curve."""

    second: float
    engines: int
    busy: int
    """Engines with work."""
    running: int
    """Units in the engines."""
    tokens_per_s: float


class Board:
    """Plain class; `generate` makes an actor of it."""

    def __init__(
        self,
        limits: Limits,
        run_id: str = "",
        price_per_hour: float = 0.0,
        publish_metrics: bool = False,
    ) -> None:
        self._limits, self._price_per_hour = limits, price_per_hour
        self._begin = time.time()
        self._totals: Counter[str] = Counter()
        self._engines: dict[str, _Engine] = {}
        self._first_unit: float | None = None
        self._stop = ""
        self._deaths, self._last_words = 0, ""
        self._deaths_total = 0
        self._curve: list[Point] = []
        self._every_s = 1.0
        self._marked = (0.0, 0)  # time and tokens at the last point
        self._metrics = _Metrics(run_id) if publish_metrics else None

    def report(self, engine: str, news: dict[str, Any]) -> str:
        """What `engine` (`actor-process`) did since its last report; the reason to stop, or ''."""
        now = time.time()
        if engine not in self._engines:
            self._bury_replaced(engine, now)
            self._engines[engine] = _Engine(now, now)
        self._engines[engine].last = now
        self._engines[engine].running = news.get("running", 0)
        self._engines[engine].started |= "first_unit" in news  # the first report is a greeting
        counts = {name: n for name, n in news.items() if name not in ("running", "first_unit")}
        if news.get("first_unit"):
            self._first_unit = min(self._first_unit or now, news["first_unit"])
        self.add(counts)
        if counts.get("generated") or counts.get("failed"):
            self._deaths = 0
        self._mark(now)
        return self._stop or self._limit_reached(now)

    def add(self, counts: dict[str, int]) -> None:
        """Count what no engine did, such as answers from the cache."""
        self._totals.update(counts)
        if self._metrics:
            self._metrics.add(counts)

    def died(self, engine: str, last_words: str) -> None:
        """An engine's process is about to end by itself."""
        self._last_words = last_words
        self._bury(engine)

    def stop(self, reason: str) -> None:
        self._stop = self._stop or reason

    def snapshot(self) -> dict[str, Any]:
        """Totals, rates over the last seconds, engines and the curve so far."""
        now = time.time()
        alive = self._alive(now)
        running = sum(engine.running for engine in alive)
        recent = self._curve[-5:]
        rate = sum(point.tokens_per_s for point in recent) / len(recent) if recent else 0.0
        if self._metrics:
            cost = self._engine_seconds() / 3600 * self._price_per_hour
            self._metrics.show(rate, len(alive), running, self._deaths_total, cost)
        return {
            "totals": dict(self._totals),
            "tokens_per_s": rate,
            "engines": len(alive),
            "running": running,
            "engine_seconds": self._engine_seconds(),
            "first_unit": self._first_unit,
            "deaths": self._deaths_total,
            "stop": self._stop or self._limit_reached(now),
            "last_words": self._last_words,
            "curve": [vars(point) for point in self._curve],
        }

    def _engine_seconds(self) -> float:
        return sum(engine.last - engine.first for engine in self._engines.values())

    def _limit_reached(self, now: float) -> str:
        limits = self._limits
        if limits.deadline is not None and now >= limits.deadline:
            self._stop = DEADLINE
        elif limits.engine_seconds is not None and self._engine_seconds() >= limits.engine_seconds:
            self._stop = ENGINE_HOURS
        elif self._deaths >= limits.deaths_in_a_row:
            self._stop = ENGINES_DIE
        return self._stop

    def _bury_replaced(self, newcomer: str, now: float) -> None:
        """A newcomer stands in for one that was killed and could not say so: an earlier process
        of its own actor, or one on another machine that has fallen silent."""
        for name, engine in self._engines.items():
            lost = engine.started and now - engine.last > LOST_S
            if lost or _actor_of(name) == _actor_of(newcomer):
                self._bury(name)

    def _bury(self, name: str) -> None:
        engine = self._engines.setdefault(name, _Engine(time.time(), time.time()))
        if not engine.dead:
            engine.dead, engine.running = True, 0
            self._deaths += 1
            self._deaths_total += 1

    def _alive(self, now: float) -> list[_Engine]:
        return [e for e in self._engines.values() if not e.dead and now - e.last <= SILENT_S]

    def _mark(self, now: float) -> None:
        then, tokens = self._marked
        if now - (then or self._begin) < self._every_s:
            return
        total = self._totals["output_tokens"]
        rate = (total - tokens) / (now - (then or self._begin))
        self._marked = (now, total)
        alive = self._alive(now)
        busy = sum(1 for engine in alive if engine.running)
        running = sum(engine.running for engine in alive)
        second = round(now - self._begin, 1)
        self._curve.append(Point(second, len(alive), busy, running, round(rate, 1)))
        if len(self._curve) > MAX_POINTS:
            self._curve = [_joined(*pair) for pair in zip(*[iter(self._curve)] * 2, strict=False)]
            self._every_s *= 2


def _actor_of(engine: str) -> str:
    return engine.rsplit("-", 1)[0]


def _joined(one: Point, other: Point) -> Point:
    rate = round((one.tokens_per_s + other.tokens_per_s) / 2, 1)
    return Point(other.second, other.engines, other.busy, other.running, rate)


class _Metrics:
    """The same figures for Prometheus, through Ray's metrics export."""

    COUNTERS = {
        "generated": "Units answered by an engine",
        "failed": "Units that failed",
        "accepted": "Units that the filters would keep (looked at while running)",
        "rejected": "Units that the filters would reject (looked at while running)",
        "cache_hits": "Units answered by the outcomes cache",
        "output_tokens": "Tokens generated",
        "busy_us": "Microseconds in which engines worked",
        "idle_us": "Microseconds in which engines waited between units",
    }
    GAUGES = {
        "tokens_per_s": "Tokens a second over the last seconds",
        "engines": "Engines alive",
        "running": "Units in the engines",
        "restarts": "Engines that died",
        "cost": "Price of the engines so far, in the currency of budget.price_per_hour",
    }

    def __init__(self, run_id: str) -> None:
        from ray.util.metrics import Counter as RayCounter
        from ray.util.metrics import Gauge

        keys = ("run_id",)
        self._counters = {
            name: RayCounter(f"llmaug_{name}", description=text, tag_keys=keys)
            for name, text in self.COUNTERS.items()
        }
        self._gauges = {
            name: Gauge(f"llmaug_{name}", description=text, tag_keys=keys)
            for name, text in self.GAUGES.items()
        }
        self._tags = {"run_id": run_id}

    def add(self, counts: dict[str, int]) -> None:
        for name, number in counts.items():
            if number and name in self._counters:
                self._counters[name].inc(number, tags=self._tags)

    def show(self, *values: float) -> None:
        for gauge, value in zip(self._gauges.values(), values, strict=True):
            gauge.set(value, tags=self._tags)
