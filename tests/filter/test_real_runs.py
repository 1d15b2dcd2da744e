"""How many real users have a run: by hand, and in as many ranges of hashes as one likes."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pyarrow as pa
import pytest

from llmaug.config import PrivacyConfig
from llmaug.core.stage import Context
from llmaug.filter import real_runs
from llmaug.filter.real_runs import item_keys, run_hashes, runs_of, shared_runs
from tests.nights import without_ray
from tests.tables import events, histories, write_finished

MakeContext = Callable[..., Context]
OF_3 = PrivacyConfig(run_len=3, min_run_users=2)


def keys(items: str) -> np.ndarray:
    return item_keys(pa.array(list(items), pa.string()))


def test_hashes_tell_order_and_content_apart() -> None:
    assert len(run_hashes(keys("abcd"), 3)) == 2
    assert run_hashes(keys("gabc"), 3)[1] == run_hashes(keys("abc"), 3)[0]
    letters = "abcdefghij"
    every = [run_hashes(keys(a + b + c), 3)[0] for a in letters for b in letters for c in letters]
    assert len({int(found) for found in every}) == 1000
    assert len(run_hashes(keys("ab"), 3)) == 0


def test_a_user_counts_once_however_often_it_has_a_run() -> None:
    runs = runs_of([keys("abcabc"), keys("xabc"), keys("bca")], OF_3)
    assert runs.users_with(keys("abcaz")).tolist() == [2, 2, 0]  # abc, bca, caz
    assert runs.users_with(keys("ab")).tolist() == []


def test_a_run_of_nobody_and_one_of_many_identify_nobody() -> None:
    runs = runs_of([keys("abcd"), keys("abc")], OF_3)
    assert runs.identifying(keys("abcdz")).tolist() == [False, True, False]
    assert not runs_of([], OF_3).identifying(keys("abcd")).any()


@pytest.mark.parametrize(
    "generated",
    ["abcXef", "abXcdef", "abdef", "bacdef"],
    ids=["an item swapped", "one put in", "one left out", "two in another order"],
)
def test_a_near_copy_is_found_where_runs_may_leave_an_event_out(generated: str) -> None:
    real = [keys("abcdefgh")]
    of_5 = PrivacyConfig(run_len=5, min_run_users=2)
    assert not runs_of(real, of_5).identifying(keys(generated)).any()
    near = runs_of(real, of_5.model_copy(update={"max_skips": 1}))
    assert near.identifying(keys(generated)).any()
    assert not near.identifying(keys("abXYef")).any()  # two are swapped
    assert not near.identifying(keys("hgfedcba")).any()


def test_runs_with_gaps_are_all_those_between_their_ends() -> None:
    # abc bcd, abd acd of four in a row
    assert len(run_hashes(keys("abcd"), 3, max_skips=1)) == 4
    assert len(set(run_hashes(keys("abcdefg"), 3, max_skips=2).tolist())) == 5 + 2 * 4 + 3 * 3
    assert run_hashes(keys("abcdefg"), 3, 2)[:5].tolist() == run_hashes(keys("abcdefg"), 3).tolist()


@pytest.mark.parametrize("runs_a_range", [10**6, 9, 1])
def test_the_stage_counts_over_all_parts_in_ranges(
    make_context: MakeContext, monkeypatch: pytest.MonkeyPatch, runs_a_range: int
) -> None:
    without_ray(monkeypatch)
    monkeypatch.setattr(real_runs, "RUNS_A_RANGE", runs_a_range)
    context = make_context(privacy=OF_3.model_dump())
    train = {"p": histories(u1="abcde", u2="abcx"), "q": histories(u3="cdeab", u4="xy", u5="abc")}
    for part, rows in train.items():
        context.storage.write_part(events(rows), {}, context.folder("split/train"), part)
    write_finished(context, "split", train=19)

    counts = real_runs.run(context)

    assert counts == {"rows": 6}  # abc bcd cde bcx dea eab
    folder = context.folder("real_runs")
    assert len(context.storage.parts(folder)) == 1 + 19 // runs_a_range
    assert context.storage.parts(f"{folder}/pieces") == []
    runs = shared_runs(context)()
    assert (np.diff(runs.hashes.astype(object)) > 0).all()
    assert runs.users_with(keys("abcdeab")).tolist() == [3, 1, 2, 1, 1]
    assert runs.users_with(keys("xyabx")).tolist() == [0, 0, 0]  # of no single user


def test_workers_of_a_node_share_what_was_counted(
    make_context: MakeContext, ray_session: None
) -> None:
    import ray

    context = make_context(privacy=OF_3.model_dump())
    context.storage.write_part(events(histories(u1="abcd")), {}, context.folder("split/train"), "p")
    write_finished(context, "split", train=4)
    real_runs.run(context)
    found = shared_runs(context)

    def asked(row: dict) -> dict:
        runs = found()
        writable = runs.hashes.flags.writeable
        return {"users": runs.users_with(keys("abcd")).tolist(), "writable": writable}

    [answer] = ray.data.from_items([{"n": 1}]).map(asked).take_all()
    assert list(answer["users"]) == [1, 1]
    assert not answer["writable"]  # a view into the node's memory, and no copy
