"""The stage and its times: every unit gets a verdict, and the ledger adds up."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import date, timedelta
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from llmaug.config.plan import WindowConfig
from llmaug.core.stage import Context
from llmaug.core.storage import digest
from llmaug.errors import UserError
from llmaug.filter import real_runs
from llmaug.filter import stage as filters
from llmaug.filter.times import event_times, within
from llmaug.items.vocabulary import BOS, Statistics
from llmaug.lm.prompts import Prompts
from llmaug.schema import OUTCOME, UNIT
from tests.filter.own_filters import HERE
from tests.tables import (
    START,
    catalogue,
    events,
    histories,
    hour,
    map_parts_here,
    read_rows,
    share_here,
    write_finished,
    write_plan,
    write_vocabulary,
)

MakeContext = Callable[..., Context]
NEW_USERS = {"kind": "new_users"}
A, B, C, D, E, F, G = range(3, 10)


# -- times ---------------------------------------------------------------------------------


def statistics(gap_s: float = 60.0, window_hours: float = 100.0) -> Statistics:
    return Statistics(
        gap_s=[0.0, gap_s, 2 * gap_s],
        start_s=[START.timestamp(), START.timestamp() + 3600],
        history_len=[1, 5],
        window_end_s=hour(window_hours).timestamp(),
        actions=["view"],
    )


@pytest.mark.parametrize("after", [None, hour(50)], ids=["new user", "continuation"])
@pytest.mark.parametrize("gap_s", [60.0, 1e7], ids=["room", "squeezed"])
def test_times_increase_inside_the_training_window(after: Any, gap_s: float) -> None:
    for seed in range(50):
        times = event_times(np.random.default_rng(seed), 20, after, None, statistics(gap_s))
        assert len(times) == 20
        assert times == sorted(times) and times[0] < times[-1]
        assert (after or START) <= times[0]
        assert times[-1] <= hour(100)
        if after is None:
            assert times[0] <= hour(1) + timedelta(seconds=2 * gap_s)


def test_a_user_at_the_end_of_the_window_stays_there() -> None:
    times = event_times(np.random.default_rng(0), 3, hour(100), None, statistics())
    assert times == [hour(100)] * 3


def test_users_of_a_festival_come_and_go_in_its_days() -> None:
    """Days that no training event has reached: the training window ends at hour 100."""
    days = WindowConfig(start=date(2030, 11, 27), end=date(2030, 11, 28))
    festival = within(statistics(gap_s=3e4), *days.seconds())
    for seed in range(50):
        times = event_times(np.random.default_rng(seed), 5, None, None, festival)
        assert times == sorted(times)
        assert {at.date() for at in times} <= {days.start, days.end}
    with pytest.raises(ValueError, match="is before start"):
        WindowConfig(start=days.end, end=days.start)


@pytest.mark.parametrize("gap_s", [60.0, 1e7], ids=["room", "squeezed"])
def test_events_before_a_history_end_where_it_begins(gap_s: float) -> None:
    for seed in range(50):
        times = event_times(np.random.default_rng(seed), 20, None, hour(50), statistics(gap_s))
        assert times == sorted(times)
        assert times[0] >= START and times[-1] == hour(50)


def test_events_in_a_gap_stay_in_it() -> None:
    for seed in range(50):
        rng = np.random.default_rng(seed)
        times = event_times(rng, 5, hour(50), hour(51), statistics(gap_s=1e4))
        assert times == sorted(times)
        assert hour(50) <= times[0] and times[-1] <= hour(51)


def test_where_logs_know_the_day_alone_so_do_events_that_were_made_up() -> None:
    days = replace(statistics(gap_s=5e4), time_step_s=86_400.0)
    first, last = START + timedelta(days=2), START + timedelta(days=4)
    for seed in range(50):
        for after, before in [(None, None), (first, None), (None, last), (first, last)]:
            times = event_times(np.random.default_rng(seed), 5, after, before, days)
            assert times == sorted(times)
            assert all(at.time() == START.time() for at in times)
            assert (after or START) <= times[0] and times[-1] <= (before or hour(100))


# -- the stage -----------------------------------------------------------------------------


def outcome(name: str, tokens: list[int], user: str | None = None, reason: str = "") -> dict:
    return {
        "unit_id": digest(name),
        "user_id": user,
        "strategy": "continue" if user else "new_users",
        "sample": 0,
        "status": "failed" if reason else "generated",
        "reason": reason or None,
        "tokens": tokens,
        "num_prompt_tokens": 1,
        "num_generated_tokens": len(tokens),
        "engine_seconds": 0.1,
        "attempts": 1,
    }


def write_outcomes(
    context: Context, source: str, train_part: str | None, outcomes: list[dict], places: Any
) -> None:
    asked = {"prompt": [BOS], "seed": 1, "places": places, "sampling": {"max_tokens": 5}}
    units = [{**row, **asked} for row in outcomes]
    known = [{name: unit.get(name) for name in UNIT.names} for unit in units]
    part = write_plan(context, source, train_part, known)
    table = pa.Table.from_pylist(outcomes, schema=OUTCOME)
    context.storage.write_part(table, {}, context.folder("outcomes"), part)


def test_every_unit_gets_its_verdict_and_the_ledger_adds_up(
    make_context: MakeContext, ray_session: None
) -> None:
    plan = {"strategies": [{"kind": "continue"}, NEW_USERS]}
    privacy = {"run_len": 3, "min_run_users": 2}
    context = make_context(privacy=privacy, generate={"engine": "uniform"}, plan=plan)
    context.storage.write_part(
        events(histories(u1="ab", u2="cdefg")), {}, context.folder("split/train"), "part-00000"
    )
    write_vocabulary(context, catalogue("abcdefg"), statistics(window_hours=4).__dict__)
    continuations = [
        outcome("fresh", [C, D, A], user="u1"),
        outcome("repeats", [A, B, E], user="u1"),
        outcome("broken", [], user="u2", reason="no_answer"),
    ]
    new_users = [outcome("copy", [C, D, E, F, G]), outcome("new", [G, F, E, D, C])]
    write_outcomes(context, "0-part-00000", "part-00000", continuations, places=[2])
    write_outcomes(context, "1-new-users-00000", None, new_users, places=None)
    write_finished(context, "split")
    write_finished(context, "outcomes", units=5)

    real_runs.run(context)
    counts = filters.run(context)

    assert counts == {
        **{"units": 5, "rows": 5, "accepted": 2, "rejected": 2, "failed": 1},
        **{"rejected.too_short": 1, "rejected.copied": 1, "failed.no_answer": 1},
        # kept: C and D of "fresh" and all five of "new"
        **{"events_generated": 3 + 3 + 5 + 5, "events_dropped.repeated": 3, "events_kept": 7},
    }
    folder = context.folder("filtered")
    assert context.storage.parts(folder) == ["0-part-00000-00000", "1-new-users-00000"]
    rows = {row["unit_id"]: row for row in read_rows(context.storage, folder)}
    verdicts = [(rows[digest(name)]["status"], rows[digest(name)]["reason"])
                for name in ("fresh", "repeats", "broken", "copy", "new")]  # fmt: skip
    assert verdicts == [
        ("accepted", None),
        ("rejected", "too_short"),
        ("failed", "no_answer"),
        ("rejected", "copied"),
        ("accepted", None),
    ]
    fresh = rows[digest("fresh")]["events"]
    assert [(event["item_id"], event["keep"], event["reason"]) for event in fresh] == [
        ("c", True, None),
        ("d", True, None),
        ("a", False, "repeated"),
    ]
    assert [event["position"] for event in fresh] == [0, 1, 2]
    assert [event["place"] for event in fresh] == [2, 2, 2]
    assert all(hour(1) <= event["timestamp"] <= hour(4) for event in fresh)
    # What is rejected is shown whole, and none of it is kept.
    repeats = rows[digest("repeats")]["events"]
    assert [event["item_id"] for event in repeats] == ["a", "b", "e"]
    assert not any(event["keep"] for event in repeats)


def without_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (filters, real_runs):
        monkeypatch.setattr(module, "map_parts", map_parts_here)
    monkeypatch.setattr(real_runs, "share", share_here)


def three_new_users(
    make_context: MakeContext, monkeypatch: pytest.MonkeyPatch, **config: Any
) -> Context:
    """Units a, b and c were answered; item b is in the second alone."""
    without_ray(monkeypatch)
    engine = {"engine": "uniform"}
    context = make_context(generate=engine, plan={"strategies": [NEW_USERS]}, **config)
    tags = {"c": ["horror"], "d": ["horror"], "e": ["horror"]}
    write_vocabulary(context, catalogue("abcdefg", tags), statistics().__dict__)
    rows = [outcome(name, tokens) for name, tokens in (("a", [C, D]), ("b", [A, B]), ("c", [E, F]))]
    write_outcomes(context, "0-new-users-00000", None, rows, places=None)
    context.storage.write_part(events([]), {}, context.folder("split/train"), "part-00000")
    write_finished(context, "split")
    write_finished(context, "outcomes", units=3)
    real_runs.run(context)
    return context


def test_a_row_that_cannot_be_read_is_one_failed_outcome(
    make_context: MakeContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    def crash_on_b(self: Prompts, strategy: Any, tokens: list[int], candidates: Any) -> list[int]:
        if B in tokens:
            raise ZeroDivisionError("no such answer")
        return tokens

    monkeypatch.setattr(Prompts, "events", crash_on_b)
    context = three_new_users(make_context, monkeypatch)
    counts = filters.run(context)
    assert (counts["accepted"], counts["failed"]) == (2, 1)
    assert counts["failed.unparsable"] == 1
    failed = read_rows(context.storage, context.folder("filtered"))[1]
    assert failed["reason"] == "unparsable" and "no such answer" in failed["detail"]


def test_a_filter_that_fails_ends_the_stage(
    make_context: MakeContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    rules = [{"kind": "too_short"}, {"kind": f"{HERE}:FailsAtBConfig"}]
    context = three_new_users(make_context, monkeypatch, filters={"rules": rules})
    told = (
        f"filter {HERE}:FailsAtBConfig .*unit {digest('b')}: ZeroDivisionError: a bug in a filter"
    )
    with pytest.raises(UserError, match=told):
        filters.run(context)
    assert context.storage.parts(context.folder("filtered")) == []


def test_a_filter_of_ones_own_is_counted_by_its_reasons(
    make_context: MakeContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    rules = [
        {"kind": f"{HERE}:UnwantedTagConfig", "tag": "horror"},
        {"kind": "too_short", "min_events": 1},
        {"kind": f"{HERE}:SameTitleConfig"},
    ]
    context = three_new_users(make_context, monkeypatch, filters={"rules": rules})
    counts = filters.run(context)
    assert counts["events_dropped.unwanted_tag"] == 3
    assert counts["rejected.too_short"] == 1  # of c and d
    assert counts["rejected.same_title"] == 1  # f alone is left
    assert counts["accepted"] == 1


def test_what_was_generated_gets_its_place_and_time_in_the_history(
    make_context: MakeContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    """u1 did a, b, c at 0, 1, 2 o'clock."""
    without_ray(monkeypatch)
    plan = {"strategies": [{"kind": kind} for kind in ("prefix", "infill", "substitute")]}
    filter_config = {"rules": [{"kind": "too_short", "min_events": 1}]}
    context = make_context(generate={"engine": "uniform"}, plan=plan, filters=filter_config)
    write_vocabulary(context, catalogue("abcdefg"), statistics().__dict__)
    train = events(histories(u1="abc"))
    context.storage.write_part(train, {}, context.folder("split/train"), "part-00000")
    write_finished(context, "split")
    write_finished(context, "outcomes", units=3)

    def of(strategy: str) -> dict[str, Any]:
        return outcome(strategy, [D, E], user="u1") | {"strategy": strategy}

    write_outcomes(context, "0-part-00000", "part-00000", [of("prefix")], places=[0])
    write_outcomes(context, "1-part-00000", "part-00000", [of("infill")], places=[2])
    write_outcomes(context, "2-part-00000", "part-00000", [of("substitute")], places=[0, 2])
    real_runs.run(context)
    filters.run(context)
    rows = {row["strategy"]: row for row in read_rows(context.storage, context.folder("filtered"))}
    placed = {
        strategy: [event["place"] for event in row["events"]] for strategy, row in rows.items()
    }
    assert placed == {"prefix": [0, 0], "infill": [2, 2], "substitute": [0, 2]}
    times = {
        strategy: [event["timestamp"] for event in row["events"]] for strategy, row in rows.items()
    }
    assert times["prefix"][-1] == hour(0)
    assert hour(1) <= times["infill"][0] <= times["infill"][1] <= hour(2)
    assert times["substitute"] == [hour(0), hour(2)]  # those of the originals
