"""Filters by hand: what is kept, why the rest is not, and a ledger that adds up."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from llmaug.config import FiltersConfig
from llmaug.core.stage import Context
from llmaug.core.storage import digest
from llmaug.filter import stage as filters
from llmaug.filter.copied import run_hashes
from llmaug.filter.rules import Candidate, judge
from llmaug.filter.times import event_times
from llmaug.items.vocabulary import BOS, EOS, PAD, Statistics
from llmaug.schema import OUTCOME, UNIT
from tests.tables import (
    START,
    catalogue,
    events,
    histories,
    hour,
    map_parts_here,
    read_rows,
    write_finished,
    write_plan,
    write_vocabulary,
)

MakeContext = Callable[..., Context]
A, B, C, D, E, F, G = range(3, 10)
NUM_TOKENS = 10


def candidate(
    tokens: list[int],
    strategy: str = "continue",
    history: str = "",
    real: Sequence[list[int]] = (),
) -> Candidate:
    """Letters of `history` are items; `real` are the training histories, in runs of 3."""
    hashes = [run_hashes(np.array(tokens), 3) for tokens in real]
    return Candidate(
        strategy=strategy,
        tokens=tokens,
        history=frozenset(ord(letter) - ord("a") + A for letter in history),
        num_items=NUM_TOKENS - 3,
        real_runs=np.unique(np.concatenate([np.empty(0, np.uint64), *hashes])),
    )


def test_tokens_that_no_item_has_are_dropped() -> None:
    reasons, verdict = judge(candidate([A, PAD, B, BOS, EOS, NUM_TOKENS, -1]), FiltersConfig())
    assert reasons == [None, *["outside_catalogue"], None, *["outside_catalogue"] * 4]
    assert verdict is None  # two events are left


def test_items_that_the_user_had_already_are_dropped() -> None:
    reasons, _ = judge(candidate([C, A, C, D], history="ab"), FiltersConfig())
    assert reasons == [None, "repeated", "repeated", None]


def test_repeats_are_kept_where_they_are_normal() -> None:
    config = FiltersConfig(repeats="allow")
    free = replace(candidate([C, A, C], history="ab"), may_repeat=(config.may_repeat("view"),))
    reasons, _ = judge(free, config)
    assert reasons == [None, None, None]


def test_the_first_filter_that_objects_gives_the_reason() -> None:
    reasons, _ = judge(candidate([BOS, BOS, A, B]), FiltersConfig())
    assert reasons == ["outside_catalogue", "outside_catalogue", None, None]
    # One event is too short, whether or not it would also be a copy.
    config = FiltersConfig(min_events=4, copied_ngram=3)
    _, verdict = judge(candidate([A, B, C], "new_users", real=[[A, B, C]]), config)
    assert verdict == ("too_short", "3 of 3 events kept")


@pytest.mark.parametrize(("num_kept", "accepted"), [(1, False), (2, True)])
def test_an_outcome_needs_enough_events(num_kept: int, accepted: bool) -> None:
    _, verdict = judge(candidate([A, B][:num_kept] + [BOS]), FiltersConfig(min_events=2))
    assert (verdict is None) == accepted


@pytest.mark.parametrize("strategy", ["infill", "choose"])
def test_one_event_is_enough_in_a_gap_and_for_a_choice(strategy: str) -> None:
    config = FiltersConfig(min_events=2)
    assert judge(candidate([A], strategy), config) == ([None], None)
    assert judge(candidate([BOS], strategy), config)[1] == ("too_short", "0 of 1 events kept")


def test_a_copy_of_a_real_person_is_rejected() -> None:
    config = FiltersConfig(copied_ngram=3, max_copied_share=0.5)
    real = [[A, B, C, D, E]]
    _, verdict = judge(candidate([A, B, C, D], "new_users", real=real), config)
    assert verdict == ("copied", "100% of the runs of 3 events are in real histories")
    # Runs ABC (real), BCG, CGF: a third.
    assert judge(candidate([A, B, C, G, F], "new_users", real=real), config)[1] is None
    # The same items in another order are nobody's history.
    assert judge(candidate([D, C, B, A], "new_users", real=real), config)[1] is None
    # Whoever continues a real person is not a new one.
    assert judge(candidate([A, B, C, D], "continue", real=real), config)[1] is None


def test_a_copy_is_recognised_by_the_events_that_are_kept() -> None:
    config = FiltersConfig(copied_ngram=3)
    _, verdict = judge(candidate([A, BOS, B, A, C], "new_users", real=[[A, B, C]]), config)
    assert verdict is not None and verdict[0] == "copied"


def test_run_hashes_tell_order_and_content_apart() -> None:
    assert len(run_hashes(np.array([A, B, C, D]), 3)) == 2
    assert run_hashes(np.array([G, A, B, C]), 3)[1] == run_hashes(np.array([A, B, C]), 3)[0]
    every = [[a, b, c] for a in range(3, 13) for b in range(3, 13) for c in range(3, 13)]
    assert len({int(run_hashes(np.array(run), 3)[0]) for run in every}) == 1000
    assert len(run_hashes(np.array([A, B]), 3)) == 0


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
    context = make_context(filters={"copied_ngram": 3}, generate={"engine": "uniform"})
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


def test_a_row_that_cannot_be_read_is_one_failed_outcome(
    make_context: MakeContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    def crash_on_b(candidate: Candidate, config: FiltersConfig) -> list[str | None]:
        if B in candidate.tokens:
            raise ZeroDivisionError("a bug in a filter")
        return [None] * len(candidate.tokens)

    monkeypatch.setattr("llmaug.filter.rules.EVENT_FILTERS", [crash_on_b])
    monkeypatch.setattr(filters, "map_parts", map_parts_here)
    context = make_context(generate={"engine": "uniform"})
    write_vocabulary(context, catalogue("abcdefg"), statistics().__dict__)
    rows = [outcome(name, tokens) for name, tokens in (("a", [C, D]), ("b", [A, B]), ("c", [E, F]))]
    write_outcomes(context, "0-new-users-00000", None, rows, places=None)
    context.storage.write_part(events([]), {}, context.folder("split/train"), "part-00000")
    write_finished(context, "split")
    write_finished(context, "outcomes", units=3)
    counts = filters.run(context)
    assert (counts["accepted"], counts["failed"]) == (2, 1)
    assert counts["failed.unparsable"] == 1
    failed = read_rows(context.storage, context.folder("filtered"))[1]
    assert failed["reason"] == "unparsable" and "a bug in a filter" in failed["detail"]


def test_what_was_generated_gets_its_place_and_time_in_the_history(
    make_context: MakeContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    """u1 did a, b, c at 0, 1, 2 o'clock."""
    monkeypatch.setattr(filters, "map_parts", map_parts_here)
    context = make_context(generate={"engine": "uniform"}, filters={"min_events": 1})
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
