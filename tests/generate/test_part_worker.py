"""One part through one actor: what is asked, what is kept, who is blamed."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from llmaug.commands import retry
from llmaug.config import (
    FILTERS,
    ContinueConfig,
    FiltersConfig,
    NewUsersConfig,
    RepeatedConfig,
    TooShortConfig,
)
from llmaug.core.formats import OUTCOMES
from llmaug.core.stage import Context
from llmaug.core.storage import Storage, digest
from llmaug.errors import UserError
from llmaug.generate import earlier_nights
from llmaug.generate import stage as generate
from llmaug.generate.engines import Engine, Finished, UniformEngine
from llmaug.generate.look import EventLook
from llmaug.generate.outcome_cache import remember
from llmaug.generate.part_answer import ATTEMPTS, KEPT, OutcomeFolders, keep
from llmaug.generate.part_worker import PartWorker
from llmaug.generate.units import Units
from llmaug.items.vocabulary import BOS, NUM_SPECIAL
from llmaug.lm.generator import Generator
from llmaug.plan.parts import read_parts
from tests.filter.own_filters import HERE
from tests.tables import (
    catalogue,
    events,
    histories,
    map_parts_here,
    read_rows,
    write_finished,
    write_plan,
    write_vocabulary,
)

MakeContext = Callable[..., Context]
ITEMS = "abcdefghij"
PLAN = {"strategies": [{"kind": "new_users"}]}


def unit(number: int, user: str | None = None, sample: int = 0) -> dict[str, Any]:
    return {
        "unit_id": digest(number), "user_id": user, "sample": sample, "prompt": [BOS],
        "strategy": "continue" if user else "new_users", "seed": number,
        "sampling": {"temperature": 1.0, "top_p": 1.0, "top_k": -1, "max_tokens": 3,
                     "forbid_repeats": False},
    }  # fmt: skip


class Recorder(UniformEngine):
    """Remembers which units were asked."""

    def __init__(self, num_items: int = len(ITEMS)) -> None:
        super().__init__(num_items)
        self.asked: list[int] = []

    def add(self, units: Units, numbers: np.ndarray, first_key: int) -> list[tuple[int, str]]:
        self.asked += units.seeds[numbers].tolist()
        return super().add(units, numbers, first_key)


class FailsAt(Recorder):
    """Has no answer for one unit."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self._seed = seed

    def step(self) -> Finished | None:
        units, numbers, first_key = self._queue[0]
        found = super().step()
        assert found is not None and len(found.keys) == len(numbers)
        good = np.flatnonzero(units.seeds[numbers] != self._seed)
        failed = [(first_key + int(n), "engine_crashed", "") for n in range(len(numbers))
                  if n not in good]  # fmt: skip
        return Finished(found.keys[good], found.tokens.take(good), found.num_cached[good], failed)


@pytest.fixture
def storage(make_context: MakeContext) -> Storage:
    """A plan of one part with ten units of new users."""
    context = make_context(generate={"engine": "uniform"})
    write_vocabulary(context, catalogue(ITEMS), {})
    write_plan(context, "0-new-users-00000", None, [unit(number) for number in range(10)])
    return context.storage


ROW = {"name": "0-new-users-00000", "source": "s", "strategy": 0, "train_part": None}


GENERATOR = Generator("uniform@1", "uniform", "runs/test/vocabulary", None, "1", 64)


def worker(storage: Storage, engine: Engine, quota: int | None = None, **more: Any) -> PartWorker:
    folders = OutcomeFolders(storage, "runs/test/plan", "runs/test/outcomes", "test", "uniform@1")
    strategies = [NewUsersConfig(), ContinueConfig(accepted_per_user=quota)]
    look = partial(EventLook, storage, GENERATOR, strategies, **more)
    return PartWorker(folders, lambda: engine, look=look)


def folders_of(context: Context) -> OutcomeFolders:
    plan, outcomes = (context.folder(name) for name in ("plan", "outcomes"))
    return OutcomeFolders(context.storage, plan, outcomes, "test", "uniform@1")


def rows(storage: Storage) -> list[dict[str, Any]]:
    return read_rows(storage, "runs/test/outcomes")


def test_answers_of_an_unfinished_part_become_a_smaller_part(storage: Storage) -> None:
    """What a limit leaves: four of ten units were answered."""
    worker(storage, Recorder())(ROW)
    folders, name = (
        OutcomeFolders(storage, "runs/test/plan", "runs/test/outcomes", "test", "g"),
        ROW["name"],
    )
    answered = storage.read_part(folders.outcomes, name).slice(0, 4)
    storage.delete(folders.outcomes, f"{name}.json")
    keep(folders, name, answered, {"cache_hits": 1})

    [part] = read_parts(storage, folders.plan)
    counts = generate._commit_part(folders, {name: part}, name)
    assert (counts["units"], counts["left_out"], counts["cache_hits"]) == (4, 6, 1)
    assert [row["unit_id"] for row in rows(storage)] == answered["unit_id"].to_pylist()


@pytest.mark.parametrize("known", [False, True])
def test_what_the_cache_knows_is_asked_by_nobody_and_what_is_left_out_stays_so(
    storage: Storage, known: bool
) -> None:
    """Of ten units a limit left three out, and one, the seventh, failed: `retry-failed` asks for
    that one alone. The cache has all of them by now, or all but the one."""
    worker(storage, Recorder())(ROW)
    name = ROW["name"]
    folders = OutcomeFolders(storage, "runs/test/plan", "runs/test/outcomes", "test", "another@1")
    first = storage.read_part(folders.outcomes, name, stored=OUTCOMES)
    failed = first["unit_id"][6].as_py()
    remember(storage, "another@1", "s", "yesterday", "p", first.slice(0, 6))
    remember(storage, "another@1", "s", "today", "p", first.slice(6 if known else 7))
    keep(folders, name, first.slice(0, 6), {"left_out": 3}, only=[failed])
    storage.delete(folders.outcomes, f"{name}.json")

    found = earlier_nights._answer_source(folders, {"s": [name]}, ["s"], "s")
    engine = Recorder()
    counts = json.loads(worker(storage, engine)(ROW)["counts"])

    assert found["cache_hits"] == counts.get("cache_hits", 0) == int(known)
    assert engine.asked == ([] if known else [6])
    assert (counts["units"], counts["left_out"]) == (7, 3)
    assert [row["unit_id"] for row in rows(storage)] == first["unit_id"].to_pylist()[:7]


def test_a_part_that_is_written_is_not_asked_again(storage: Storage) -> None:
    engine = Recorder()
    once = worker(storage, engine)
    first = once(ROW)
    assert once(ROW) == first  # its node died after the write, Ray runs the row again
    assert engine.asked == list(range(10))
    assert [row["attempts"] for row in rows(storage)] == [1] * 10


def test_told_to_stop_it_keeps_what_is_there_and_the_next_one_asks_for_the_rest(
    storage: Storage,
) -> None:
    class Stopping(Recorder):
        """Answers four units, then the board says stop."""

        def step(self) -> Finished | None:
            if self.num_unfinished == 6:
                loop._reported = 0.0  # the next report is due
                loop._report = lambda news: "interrupted"
                return None
            units, numbers, first_key = self._queue.popleft()
            self._queue += [(units, numbers[:4], first_key), (units, numbers[4:], first_key + 4)]
            return super().step()

    stopped = worker(storage, Stopping())
    loop = stopped._loop
    assert stopped(ROW) == {"part": ROW["name"], "counts": "{}"}
    assert rows(storage) == []
    assert storage.parts(f"runs/test/outcomes/{KEPT}") == [ROW["name"]]

    engine = Recorder()
    counts = json.loads(worker(storage, engine)(ROW)["counts"])
    assert engine.asked == [4, 5, 6, 7, 8, 9]
    assert (counts["units"], counts["repeated"]) == (10, 1)
    assert [row["attempts"] for row in rows(storage)] == [1] * 4 + [2] * 6
    assert [row["unit_id"] for row in rows(storage)] == [digest(n) for n in range(10)]


def test_a_damaged_note_of_what_was_put_aside_is_named(storage: Storage) -> None:
    storage.write_json({"counts": {}}, "runs/test/outcomes", KEPT, f"{ROW['name']}.json")
    with pytest.raises(UserError, match=f"{ROW['name']}.json.*only: Field required"):
        worker(storage, Recorder())(ROW)


def test_a_part_that_killed_its_engine_twice_is_run_unit_by_unit(storage: Storage) -> None:
    def crashed(**note: Any) -> None:
        storage.write_json(note, "runs/test/outcomes", ATTEMPTS, f"{ROW['name']}.json")

    crashed(attempts=3, unfinished=3, at=7, crashes={"7": 1})  # died twice with unit 7 alone
    engine = Recorder()
    worker(storage, engine)(ROW)
    assert engine.asked == [0, 1, 2, 3, 4, 5, 6, 8, 9]
    failed = [row for row in rows(storage) if row["status"] == "failed"]
    assert [(row["unit_id"], row["reason"]) for row in failed] == [(digest(7), "engine_crashed")]


def test_a_part_that_is_done_unit_by_unit_blames_nobody_afterwards(
    storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While it is being committed the next part may have the engine, and kill it."""
    storage.write_json({"attempts": 3, "unfinished": 3}, "runs/test/outcomes", ATTEMPTS,
                       f"{ROW['name']}.json")  # fmt: skip
    noted: list[Any] = []

    def commit(answer: Any) -> dict[str, int]:
        noted.append(storage.read_json("runs/test/outcomes", ATTEMPTS, f"{ROW['name']}.json"))
        return {}

    monkeypatch.setattr("llmaug.generate.part_answer.PartAnswer.commit", commit)
    worker(storage, Recorder())(ROW)
    assert [note["at"] for note in noted] == [None]


class Fragile(UniformEngine):
    """Takes its process with it when it meets unit 5."""

    def add(self, units: Units, numbers: np.ndarray, first_key: int) -> list[tuple[int, str]]:
        if 5 in units.seeds[numbers]:
            os._exit(1)
        return super().add(units, numbers, first_key)


def test_a_unit_that_kills_every_engine_fails_alone(
    make_context: MakeContext, ray_session: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    context = make_context(generate={"engine": "uniform"}, plan=PLAN)
    write_vocabulary(context, catalogue(ITEMS), {})
    for part in range(3):
        units = [unit(number) for number in range(4 * part, 4 * part + 4)]
        write_plan(context, f"0-new-users-0000{part}", None, units)
    write_finished(context, "plan", units=12)
    monkeypatch.setattr(generate, "engine_maker", lambda *_: lambda: Fragile(len(ITEMS)))
    counts = generate.run(context)
    assert (counts["units"], counts["generated"], counts["failed"]) == (12, 11, 1)
    assert counts["failed.engine_crashed"] == 1
    assert counts["deaths"] >= 4
    failed = [row for row in rows(context.storage) if row["status"] == "failed"]
    assert [row["unit_id"] for row in failed] == [digest(5)]


def test_a_quota_asks_until_enough_is_accepted(make_context: MakeContext) -> None:
    """Users who had nine of ten items need many tries for an event that is new to them."""
    context = make_context(generate={"engine": "uniform"})
    write_vocabulary(context, catalogue(ITEMS), {})
    train = events(histories(easy="a", hard="abcdefghi"))
    context.storage.write_part(train, {}, "runs/test/split/train", "p0")
    units = [unit(100 * n + s, user, s) for n, user in enumerate(("easy", "hard"))
             for s in range(40)]  # fmt: skip
    name = write_plan(context, "0-p0", "p0", units)
    engine = Recorder()
    counts = json.loads(
        worker(
            context.storage, engine, quota=2, train="runs/test/split/train",
            filters=FiltersConfig(rules=[RepeatedConfig(), TooShortConfig(min_events=1)]),
        )({**ROW, "name": name, "strategy": 1, "train_part": "p0"})["counts"]
    )  # fmt: skip
    answered = Counter(row["user_id"] for row in rows(context.storage))
    assert answered["easy"] <= 3 < answered["hard"] < 40
    j = NUM_SPECIAL + 9  # the one item that is new to "hard"
    tries = [j in row["tokens"] for row in rows(context.storage) if row["user_id"] == "hard"]
    assert sum(tries) == 2 and tries[-1], "it stops with the second one that would be accepted"
    assert counts["units"] + counts["not_needed"] == 80


def test_a_user_who_is_content_by_now_needs_no_retry(make_context: MakeContext) -> None:
    """Three tries each for one accepted outcome. The first of u1 failed, another was accepted: what
    was not needed then and what is not needed now are counted once each."""
    context = make_context(generate={"engine": "uniform"})
    write_vocabulary(context, catalogue(ITEMS), {})
    train = events(histories(u1="a", u2="b"))
    context.storage.write_part(train, {}, "runs/test/split/train", "p0")
    units = [unit(10 * n + s, user, s) for n, user in enumerate(("u1", "u2")) for s in range(3)]
    name = write_plan(context, "0-p0", "p0", units)
    row = {**ROW, "name": name, "strategy": 1, "train_part": "p0"}

    def run(engine: Engine) -> dict[str, int]:
        done = worker(
            context.storage, engine, quota=1, train="runs/test/split/train",
            filters=FiltersConfig(repeats="allow"), may_repeat=(True,),
        )(row)  # fmt: skip
        return json.loads(done["counts"])

    first = run(FailsAt(seed=0))
    assert first["units"] + first["not_needed"] == 6 and first["failed"] == 1
    retry._open_part(folders_of(context), "runs/test/outcomes", "retry", {"engine_crashed"}, name)
    again = Recorder()
    second = run(again)
    assert again.asked == []
    assert second["units"] == first["units"] - 1
    assert second["not_needed"] == first["not_needed"] + 1

    # A limit before the retry had come to it leaves one unit out.
    context.storage.delete("runs/test/outcomes", f"{name}.json")
    [part] = read_parts(context.storage, "runs/test/plan")
    cut = generate._commit_part(folders_of(context), {name: part}, name)
    assert (cut["not_needed"], cut["left_out"]) == (first["not_needed"], 1)


def test_a_broken_engine_is_the_error_of_the_run(storage: Storage) -> None:
    def broken() -> Engine:
        raise RuntimeError("no such model")

    folders = OutcomeFolders(storage, "runs/test/plan", "runs/test/outcomes", "test", "uniform@1")
    with pytest.raises(RuntimeError, match="no such model"):
        look = partial(EventLook, storage, GENERATOR, [NewUsersConfig()])
        PartWorker(folders, broken, look=look)(ROW)


@pytest.mark.parametrize("begun", [0, 2], ids=["among others", "unit by unit"])
def test_a_filter_that_fails_is_told_at_once_and_costs_no_answer(
    storage: Storage, begun: int
) -> None:
    """And no unit is blamed for it, however often the run is tried."""
    note = {"attempts": begun, "unfinished": begun}
    storage.write_json(note, "runs/test/outcomes", ATTEMPTS, f"{ROW['name']}.json")
    fails = FILTERS.make({"kind": f"{HERE}:AnswersConfig", "answer": "a bug"})
    with pytest.raises(UserError, match=f"filter {HERE}:AnswersConfig .*unit {digest(0)}: "):
        worker(storage, Recorder(), filters=FiltersConfig(rules=[fails]))(ROW)
    assert storage.parts(f"runs/test/outcomes/{KEPT}") == [ROW["name"]]
    past = storage.read_json("runs/test/outcomes", ATTEMPTS, f"{ROW['name']}.json")
    assert (past["unfinished"], past["at"], past["crashes"]) == (0, None, {})

    engine = Recorder()
    worker(storage, engine)(ROW)  # mended
    answered = 1 if begun else 10
    assert engine.asked == list(range(answered, 10))
    assert len(rows(storage)) == 10


def test_titles_and_tags_count_for_quotas(make_context: MakeContext) -> None:
    context = make_context(generate={"engine": "uniform"})
    write_vocabulary(context, catalogue("ab", tags={"a": ["horror"]}), {})
    train = events(histories(somebody="b"))
    context.storage.write_part(train, {}, "runs/test/split/train", "p0")
    name = write_plan(context, "0-p0", "p0", [unit(n, "somebody", n) for n in range(40)])
    unwanted = FILTERS.make({"kind": f"{HERE}:UnwantedTagConfig", "tag": "horror"})
    worker(
        context.storage, Recorder(2), quota=2, train="runs/test/split/train",
        filters=FiltersConfig(rules=[unwanted, TooShortConfig(min_events=3)]),
    )({**ROW, "name": name, "strategy": 1, "train_part": "p0"})  # fmt: skip
    b = NUM_SPECIAL + 1
    assert sum(row["tokens"] == [b, b, b] for row in rows(context.storage)) == 2


def test_a_limit_before_the_first_answer_leaves_everything_out(
    make_context: MakeContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where an engine takes longer to start than the night lasts."""
    context = make_context(generate={"engine": "uniform"}, plan=PLAN)
    monkeypatch.setattr(generate, "map_parts", map_parts_here)
    monkeypatch.setattr(generate, "run_engines", lambda *_: ("deadline", {}))
    write_vocabulary(context, catalogue(ITEMS), {})
    write_plan(context, "0-new-users-00000", None, [unit(number) for number in range(10)])
    write_finished(context, "plan", units=10)
    counts = generate.run(context)
    assert (counts["units"], counts["left_out"], counts["stopped"]) == (0, 10, "deadline")


def test_limits_end_generation_in_a_smaller_valid_data_set(
    make_context: MakeContext, ray_session: None, tmp_path: Path
) -> None:
    context = make_context(
        generate={"engine": "uniform", "simulated_tokens_per_s": 100.0},
        budget={"max_gpu_hours": 2.0 / 3600},
        plan=PLAN,
    )
    write_vocabulary(context, catalogue(ITEMS), {})
    for part in range(20):
        units = [unit(number) for number in range(10 * part, 10 * part + 10)]
        write_plan(context, f"0-new-users-000{part:02d}", None, units)
    write_finished(context, "plan", units=200)
    counts = generate.run(context)  # 200 units x 3 tokens would take 6 s
    assert counts["stopped"] == "max_gpu_hours"
    assert 0 < counts["units"] < 200
    assert counts["units"] + counts["left_out"] == counts["planned"] == 200
    done = {row["unit_id"] for row in rows(context.storage)}
    assert len(done) == counts["units"]
    planned = read_parts(context.storage, context.folder("plan"))
    assert [p.name for p in planned][:3] == [f"0-new-users-0000{n}" for n in range(3)]
    assert digest(0) in done and digest(199) not in done, "what comes first is served first"
