"""A generator that copies real people: refused by the audit where nobody filters, and let pass,
less what was dropped, where the filter is on. One that makes histories up loses nothing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from llmaug.arms import merge
from llmaug.config import EvaluateConfig, GateConfig
from llmaug.core.stage import Context
from llmaug.evaluate import gate, privacy
from llmaug.filter import real_runs
from llmaug.filter import stage as filters
from llmaug.items.vocabulary import NUM_SPECIAL
from tests.evaluate.test_gate import figures
from tests.filter.test_filters import NEW_USERS, outcome, statistics, write_outcomes
from tests.nights import without_ray
from tests.tables import catalogue, events, histories, write_finished, write_vocabulary

MakeContext = Callable[..., Context]
ITEMS = [chr(code) for code in range(0x100, 0x100 + 150)]
NUM_UNITS, NUM_COPIES = 40, 10
WITHOUT = [{"kind": "repeated"}, {"kind": "too_short"}, {"kind": "copied"}]
WITH = [*WITHOUT, {"kind": "identifying"}]


def real_people() -> dict[str, list[int]]:
    """30 users with 12 items each, as tokens."""
    rng = np.random.default_rng(0)
    return {
        f"u{user:02d}": (rng.permutation(len(ITEMS))[:12] + NUM_SPECIAL).tolist()
        for user in range(30)
    }


def made_up(rng: np.random.Generator) -> list[int]:
    return (rng.permutation(len(ITEMS))[:20] + NUM_SPECIAL).tolist()


def copies(real: list[int], rng: np.random.Generator) -> list[int]:
    """Eight events of a real person amid others: too few for the filter `copied`."""
    own = [token for token in made_up(rng) if token not in real]
    return [*own[:5], *real[2:10], *own[5:12]]


def near_copies(real: list[int], rng: np.random.Generator) -> list[int]:
    """The same, with every fourth event another one."""
    found = copies(real, rng)
    spare = [token for token in made_up(rng) if token not in real and token not in found]
    found[5 + 3], found[5 + 7] = spare[:2]
    return found


def night(
    make_context: MakeContext, copy: Callable[..., list[int]] | None, **config: Any
) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    """(counts of the filters, the audit, the gate's decision) with `NUM_COPIES` outcomes of
    `copy` among those that are made up."""
    context = make_context(
        generate={"engine": "uniform"},
        plan={"strategies": [NEW_USERS]},
        split={"kind": "leave_one_out"},
        **config,
    )
    people, rng = real_people(), np.random.default_rng(1)
    words = {user: "".join(ITEMS[t - NUM_SPECIAL] for t in own) for user, own in people.items()}
    write_vocabulary(context, catalogue(ITEMS), statistics().__dict__)
    context.storage.write_part(
        events(histories(**words)), {}, context.folder("split/train"), "part-00000"
    )
    units = [
        outcome(f"unit {number}", copy(people[f"u{number:02d}"], rng) if number < NUM_COPIES
                and copy else made_up(rng))
        for number in range(NUM_UNITS)
    ]  # fmt: skip
    write_outcomes(context, "0-new-users-00000", None, units, places=None)
    write_finished(context, "split", train=360)
    write_finished(context, "plan", generator="copier@1234")
    write_finished(context, "outcomes", units=NUM_UNITS)
    real_runs.run(context)
    counts = filters.run(context)
    merge.run("augmented", context)
    audit = privacy.run(context)
    return counts, audit, gate.decide(figures(), GateConfig(), EvaluateConfig(), audit)


@pytest.fixture(autouse=True)
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    without_ray(monkeypatch)


def test_copies_are_refused_by_the_audit_where_the_filter_is_off(
    make_context: MakeContext,
) -> None:
    counts, audit, decision = night(make_context, copies, filters={"rules": WITHOUT})
    assert counts["accepted"] == NUM_UNITS == audit["synthetic"]
    assert audit["identifying"] == NUM_COPIES
    assert not decision["passed"] and decision["reasons"] == [
        "privacy: 10 of 40 synthetic histories (25.00%) hold a run of 5 events that fewer than 5 "
        "real users have; at most 1.00% may"
    ]


@pytest.mark.parametrize("rules", [{}, {"rules": WITH}], ids=["by default", "asked for"])
def test_what_the_audit_would_refuse_is_dropped_first_and_counted(
    make_context: MakeContext, rules: dict[str, Any]
) -> None:
    counts, audit, decision = night(make_context, copies, filters=rules)
    assert counts["rejected.identifying"] == NUM_COPIES == counts["rejected"]
    assert counts["units"] == counts["accepted"] + counts["rejected"] + counts["failed"]
    assert (audit["synthetic"], audit["identifying"]) == (NUM_UNITS - NUM_COPIES, 0)
    assert decision["passed"]


def test_near_copies_are_nothing_to_runs_without_gaps(make_context: MakeContext) -> None:
    counts, audit, decision = night(make_context, near_copies)
    assert counts["accepted"] == NUM_UNITS and audit["identifying"] == 0 and decision["passed"]


def test_near_copies_are_refused_where_runs_may_have_gaps(make_context: MakeContext) -> None:
    _, audit, decision = night(
        make_context, near_copies, privacy={"max_skips": 1}, filters={"rules": WITHOUT}
    )
    assert audit["identifying"] == NUM_COPIES and not decision["passed"]
    assert "5 events (leaving out up to 1) that" in decision["reasons"][0]


def test_near_copies_are_dropped_first_and_counted(make_context: MakeContext) -> None:
    counts, audit, decision = night(make_context, near_copies, privacy={"max_skips": 1})
    assert counts["rejected.identifying"] == NUM_COPIES
    assert audit["identifying"] == 0 and decision["passed"]


@pytest.mark.parametrize("max_skips", [0, 1, 2])
def test_what_is_made_up_loses_nothing(make_context: MakeContext, max_skips: int) -> None:
    counts, audit, decision = night(make_context, None, privacy={"max_skips": max_skips})
    assert counts["accepted"] == NUM_UNITS == audit["synthetic"]
    assert audit["identifying"] == 0 and decision["passed"]
