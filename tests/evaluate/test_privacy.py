"""The audit by hand: whose histories stand in the synthetic ones?"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pyarrow as pa
import pytest

from llmaug.arms.shard_events import order_events
from llmaug.config import EvaluateConfig, GateConfig
from llmaug.core.stage import Context
from llmaug.evaluate import gate, privacy
from llmaug.filter import real_runs
from llmaug.schema import EVENT, SYNTHETIC
from tests.evaluate.test_gate import figures
from tests.nights import without_ray
from tests.tables import (
    events,
    histories,
    read_rows,
    write_finished,
)

MakeContext = Callable[..., Context]

# abc is a run of two users, cde of one; the others' lie in another part.
TRAIN = {"p": histories(u1="abc", u2="abcx"), "q": histories(u3="cde", u4="xy")}


def synthetic(**items: str) -> pa.Table:
    """`synthetic(s1="abc")`: one unit each."""
    rows = events(histories(**items)).to_pylist()
    for row in rows:
        row |= {"origin": SYNTHETIC, "unit_id": f"unit of {row['user_id']}"}
    return pa.Table.from_pylist(rows, schema=EVENT)


def audited(
    make_context: MakeContext, monkeypatch: pytest.MonkeyPatch, generated: pa.Table, users: int
) -> tuple[dict[str, Any], list[str]]:
    """Counts, and the units that the audit names."""
    context = make_context(
        split={"kind": "leave_one_out"}, privacy={"run_len": 3, "min_run_users": users}
    )
    without_ray(monkeypatch)
    for part, rows in TRAIN.items():
        context.storage.write_part(events(rows), {}, context.folder("split/train"), part)
    write_finished(context, "split")
    merged = context.folder("merged/augmented")
    both = order_events(pa.concat_tables([events(TRAIN["p"]), generated]))
    context.storage.write_part(both, {}, merged, "p")
    real_runs.run(context)
    found = privacy.run(context)
    named = [row["unit_id"] for row in read_rows(context.storage, context.folder("privacy"))]
    return found, named


GENERATED = synthetic(s1="xabcy", s2="zcdez", s3="zyxzy")


def test_a_run_of_one_real_user_identifies_it(
    make_context: MakeContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    found, named = audited(make_context, monkeypatch, GENERATED, users=2)
    assert (found["synthetic"], found["identifying"]) == (3, 1)
    assert named == ["unit of s2"]


def test_a_run_of_two_users_identifies_them_where_three_are_asked_for(
    make_context: MakeContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    found, named = audited(make_context, monkeypatch, GENERATED, users=3)
    assert named == ["unit of s1", "unit of s2"]
    assert found["identifying_share"] == pytest.approx(2 / 3)


def test_nothing_synthetic_identifies_nobody(
    make_context: MakeContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    found, named = audited(make_context, monkeypatch, GENERATED.slice(0, 0), users=2)
    assert (found["synthetic"], found["identifying_share"], named) == (0, 0.0, [])


@pytest.mark.parametrize(("share", "passes"), [(0.009, True), (0.02, False)])
def test_the_gate_refuses_what_copies_people(share: float, passes: bool) -> None:
    audit = {"synthetic": 1000, "identifying": int(1000 * share), "identifying_share": share,
             "run_len": 5, "min_run_users": 5}  # fmt: skip
    decision = gate.decide(figures(), GateConfig(), EvaluateConfig(), audit)
    assert decision["passed"] is passes
    reason = decision["reasons"][-1]
    assert reason.startswith("privacy: ") and "of 1,000 synthetic histories" in reason
    assert ("at most 1.00% may" in reason) is not passes
