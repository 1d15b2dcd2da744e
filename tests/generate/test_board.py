"""The board: sums, limits, and a curve that does not grow."""

from __future__ import annotations

import re
import time as clock_module
import urllib.request
from datetime import UTC, datetime, time, timedelta

import pytest

from llmaug.config import BudgetConfig
from llmaug.core import stage_metrics
from llmaug.generate import board as board_module
from llmaug.generate.board import DEADLINE, ENGINE_HOURS, ENGINES_DIE, MAX_POINTS, Board, Limits
from llmaug.generate.stage import limits_of


class Clock:
    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        monkeypatch.setattr(board_module.time, "time", lambda: self.now)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


def test_reports_of_all_engines_are_added_up(clock: Clock) -> None:
    board = Board(Limits())
    for second in range(1, 11):
        clock.now = 1000.0 + second
        for engine in ("a", "b"):
            assert board.report(engine, {"output_tokens": 50, "generated": 5, "running": 9}) == ""
    seen = board.snapshot()
    assert seen["totals"] == {"output_tokens": 1000, "generated": 100}
    assert (seen["engines"], seen["running"]) == (2, 18)
    assert seen["tokens_per_s"] == pytest.approx(100)
    assert seen["engine_seconds"] == 18.0  # nine seconds each between first and last report


def test_a_deadline_and_engine_hours_stop_everyone(clock: Clock) -> None:
    late = Board(Limits(deadline=1005.0))
    assert late.report("a", {}) == ""
    clock.now = 1005.0
    assert late.report("a", {}) == DEADLINE
    assert late.report("b", {}) == DEADLINE

    clock.now = 2000.0
    costly = Board(Limits(engine_seconds=10.0))
    costly.report("a", {})
    costly.report("b", {})
    clock.now = 2004.0
    assert costly.report("a", {}) == ""
    assert costly.report("b", {}) == ""  # 8 engine seconds
    clock.now = 2006.0
    assert costly.report("a", {}) == ENGINE_HOURS


def test_engines_that_die_one_after_the_other_end_the_run(clock: Clock) -> None:
    board = Board(Limits(deaths_in_a_row=3))
    for process in range(3):  # killed without a word: its actor comes back as another process
        assert board.report(f"actor-{process}", {"first_unit": None}) == ""
    clock.now += 70.0  # a machine is lost: another actor comes
    assert board.report("other-1", {"generated": 1}) == "", "work was done: start counting again"
    assert board.snapshot()["deaths"] == 3
    for process in (2, 3, 4):
        board.died(f"other-{process}", "no memory")
    assert board.report("other-5", {}) == ENGINES_DIE
    assert board.snapshot()["last_words"] == "no memory"


def test_the_curve_keeps_its_size(clock: Clock) -> None:
    board = Board(Limits())
    for second in range(5000):
        clock.now = 1000.0 + second
        board.report("a", {"output_tokens": 10, "running": 1})
    curve = board.snapshot()["curve"]
    assert MAX_POINTS / 2 <= len(curve) <= MAX_POINTS
    assert curve[-1]["second"] > 4950
    assert all(point["tokens_per_s"] == pytest.approx(10) for point in curve[10:])


def test_a_time_of_day_is_the_next_one_in_utc() -> None:
    now = datetime(2026, 2, 1, 22, 0, tzinfo=UTC)
    tonight = limits_of(BudgetConfig(deadline=time(23, 30)), 0.0, now)
    assert tonight.deadline == (now + timedelta(hours=1.5)).timestamp()
    tomorrow = limits_of(BudgetConfig(deadline=time(6, 30)), 0.0, now)
    assert tomorrow.deadline == (now + timedelta(hours=8.5)).timestamp()


def test_earlier_attempts_have_spent_engine_hours() -> None:
    limits = limits_of(BudgetConfig(max_gpu_hours=1.0), 3000.0, datetime.now(UTC))
    assert limits.engine_seconds == 600.0


def test_prometheus_finds_the_same_figures(ray_session: None) -> None:
    import ray

    board = ray.remote(Board).options(num_cpus=0).remote(Limits(), "tonight", 2.0, True)
    ray.get(board.report.remote("a-1", {"generated": 10, "output_tokens": 50, "running": 3}))
    ray.get(board.add.remote({"cache_hits": 7}))
    (node,) = (node for node in ray.nodes() if node["Alive"])
    port = f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"
    stage_metrics.export("tonight", "ingest", {"seconds": 1.5, "peak_rss_mb": 900})
    wanted = {"generated_total": 10, "output_tokens_total": 50, "cache_hits_total": 7, "running": 3}
    wanted |= {"stage_seconds": 1.5, "stage_peak_mb": 900}
    found: dict[str, float] = {}
    deadline = clock_module.monotonic() + 60
    while not wanted.items() <= found.items():
        assert clock_module.monotonic() < deadline, found
        clock_module.sleep(0.5)
        ray.get(board.report.remote("a-1", {"running": 3}))  # an engine that is silent is gone
        ray.get(board.snapshot.remote())
        page = urllib.request.urlopen(port).read().decode()
        found = {
            name: float(value)
            for name, value in re.findall(
                r'^ray_llmaug_(\w+)\{.*run_id="tonight"(?:,stage="ingest")?\} (\S+)$', page, re.M
            )
        }
    assert {"tokens_per_s", "engines", "restarts", "cost"} <= set(found)
