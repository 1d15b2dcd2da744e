"""Units: the same question has the same id, and every question is asked once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from llmaug.config import NewUsersConfig
from llmaug.core.contents import MANIFEST, describe
from llmaug.core.stage import Context
from llmaug.core.storage import Storage
from llmaug.items.vocabulary import BOS, ITEMS_PART
from llmaug.lm.generator import Generator, generator_of
from llmaug.plan import stage as plan
from llmaug.plan.unit_maker import UnitMaker
from llmaug.schema import USER
from tests.tables import (
    catalogue,
    events,
    histories,
    map_parts_here,
    read_rows,
    write_finished,
    write_vocabulary,
)

MakeContext = Callable[..., Context]
A, B, C, D, E = range(3, 8)
CONTINUE = {"kind": "continue", "num_events": 4, "samples_per_user": 2}
NEW_USERS = {"kind": "new_users", "num_users": 5, "num_events": 3}
TRAIN = {"p0": histories(u1="abc", u2="e"), "p1": histories(u3="edcba")}


@pytest.fixture
def units_of(make_context: MakeContext, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """`units_of(strategy, ...)`: the units of a plan over the histories above."""
    monkeypatch.setattr(plan, "map_parts", map_parts_here)
    number = iter(range(100))

    def units_of(
        *strategies: dict[str, Any],
        model_digest: str | None = None,
        statistics: dict[str, Any] | None = None,
        **config: Any,
    ) -> list[dict[str, Any]]:
        engine = "vllm" if model_digest else "uniform"
        wanted = {"plan": {"strategies": strategies}, "generate": {"engine": engine}}
        if strategies and "plan" in config:
            wanted["plan"] |= config.pop("plan")
        config = {"lm": {"model": "ngram"}, **wanted, **config}
        context = make_context(run_id=f"run-{next(number)}", **config)
        write_inputs(context, statistics)
        if model_digest:
            write_finished(context, "lm/ngram", model_digest=model_digest)
        counts = plan.run(context)
        folder = context.folder("plan")
        units = [
            unit
            for part in plan.read_parts(context.storage, folder)
            for unit in context.storage.read_part(folder, part.name).to_pylist()
        ]
        assert counts["units"] == len(units)
        return units

    return units_of


def write_inputs(context: Context, statistics: dict[str, Any] | None = None) -> None:
    for part, rows in TRAIN.items():
        context.storage.write_part(events(rows), {}, context.folder("split/train"), part)
    write_vocabulary(context, catalogue("abcde"), statistics or {})


def ids(units: list[dict[str, Any]]) -> set[str]:
    return {unit["unit_id"] for unit in units}


def test_a_plan_of_both_strategies(make_context: MakeContext, ray_session: None) -> None:
    strategies = [CONTINUE, NEW_USERS]
    context = make_context(
        plan={"strategies": strategies, "units_per_part": 2}, generate={"engine": "uniform"}
    )
    write_inputs(context)
    counts = plan.run(context)
    generator = f"uniform@{catalogue('abcde').digest[:16]}"
    assert counts == {
        **{"units": 6 + 5, "continue": 6, "new_users": 5, "generator": generator},
        **{"max_output_tokens": 6 * 4 + 5 * 3, "left_out_by_budget": 0},
    }
    folder = context.folder("plan")
    assert context.storage.parts(folder) == [
        *("0-p0-00000", "0-p0-00001", "0-p1-00000"),  # of one training part each
        *("1-new-users-00000", "1-new-users-00001", "1-new-users-00002"),
    ]
    units = read_rows(context.storage, folder)
    assert len(ids(units)) == 11
    assert [(u["user_id"], u["prompt"], u["sample"], u["places"]) for u in units[:4]] == [
        ("u2", [BOS, E], 0, [1]),  # the shortest history first
        ("u2", [BOS, E], 1, [1]),
        ("u1", [BOS, A, B, C], 0, [3]),
        ("u1", [BOS, A, B, C], 1, [3]),
    ]
    assert [(u["user_id"], u["prompt"], u["sample"], u["places"]) for u in units[6:]] == [
        (None, [BOS], sample, None) for sample in range(5)
    ]
    assert {u["sampling"]["max_tokens"] for u in units[:6]} == {4}
    assert {u["sampling"]["max_tokens"] for u in units[6:]} == {3}


def test_the_same_question_has_the_same_id_on_any_night(units_of: Callable[..., Any]) -> None:
    assert units_of(CONTINUE, NEW_USERS) == units_of(CONTINUE, NEW_USERS)


@pytest.mark.parametrize("strategy", [CONTINUE, NEW_USERS], ids=["continue", "new_users"])
@pytest.mark.parametrize(
    "change", [{"temperature": 0.5}, {"top_p": 0.9}, {"top_k": 5}, {"num_events": 2}]
)
def test_other_sampling_is_another_question(
    units_of: Callable[..., Any], strategy: dict[str, Any], change: dict[str, Any]
) -> None:
    assert not ids(units_of(strategy)) & ids(units_of({**strategy, **change}))


def test_another_seed_or_generator_is_another_question(units_of: Callable[..., Any]) -> None:
    usual = ids(units_of(CONTINUE, NEW_USERS))
    for other in (
        units_of(CONTINUE, NEW_USERS, seed=8),
        units_of(CONTINUE, NEW_USERS, model_digest="aaaa"),
        units_of(CONTINUE, NEW_USERS, model_digest="bbbb"),
    ):
        assert not usual & ids(other)
        usual |= ids(other)


def test_more_of_the_same_keeps_what_was_asked_before(units_of: Callable[..., Any]) -> None:
    fewer = units_of({**CONTINUE, "samples_per_user": 1}, NEW_USERS)
    more = units_of(CONTINUE, {**NEW_USERS, "num_users": 50})
    assert ids(fewer) < ids(more)


def test_new_users_may_be_as_long_as_real_ones(units_of: Callable[..., Any]) -> None:
    """Of 4 real ones one has 1 event, one 3, one 5 and one 40: more than are asked for."""
    like = {"kind": "new_users", "num_users": 400, "num_events": 8, "lengths": "training"}
    units = units_of(like, statistics={"history_len": [1.0, 3.0, 5.0, 40.0]})
    found = Counter(unit["sampling"]["max_tokens"] for unit in units)
    assert set(found) == {2, 3, 5, 8} and min(found.values()) > 60
    assert units == units_of(like, statistics={"history_len": [1.0, 3.0, 5.0, 40.0]})


@pytest.mark.parametrize(
    "second",
    [
        {"window": {"start": "2026-11-11", "end": "2026-11-12"}},
        {"lengths": "training"},
        {"lengths": "training", "num_events": 20},
    ],
    ids=["a festival", "other lengths", "longer ones"],
)
def test_two_crowds_of_new_users_share_nobody(
    units_of: Callable[..., Any], second: dict[str, Any]
) -> None:
    """An id that came twice would end the night after all was paid for."""
    crowd = {"kind": "new_users", "num_users": 50, "num_events": 10}
    first = {**crowd, "lengths": "training"} if "num_events" in second else crowd
    units = units_of(first, {**crowd, **second}, statistics={"history_len": [5.0, 10.0]})
    assert len(ids(units)) == len(units) == 100


def test_a_hundred_thousand_new_users_are_all_different(tmp_path: Path) -> None:
    """With seeds of 31 bits samples 92,800 and 98,925 were the first two to be one question."""
    storage = Storage(str(tmp_path))
    words = catalogue("abcde")
    storage.write_part(words.items, {"vocabulary_digest": words.digest}, "words", ITEMS_PART)
    generator = Generator("uniform", "uniform", "words", None, "1", 64)
    maker = UnitMaker(storage, generator, seed=7, may_repeat=(True,), users=None)
    strategy = NewUsersConfig.model_validate(NEW_USERS)
    units = [maker.new_user(strategy, sample) for sample in range(92_800, 98_926)]
    assert len(ids(units)) == len(units)


def test_a_users_table_that_was_corrected_is_read_again(
    make_context: MakeContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a notebook the second run is made by the process that made the first."""
    asked: list[Any] = []
    usual = UnitMaker.of_user

    def of_user(*given: Any) -> dict[str, Any]:
        asked.append(given[-1])
        return usual(*given)

    monkeypatch.setattr(plan, "map_parts", map_parts_here)
    monkeypatch.setattr(UnitMaker, "of_user", of_user)
    context = make_context(
        ingest={"users": {"path": "users"}}, lm={"user_attributes": ["age"]},
        plan={"strategies": [CONTINUE]}, generate={"engine": "uniform"},
    )  # fmt: skip
    storage = context.storage
    write_inputs(context)
    for age in ("30", "31"):
        users = pa.table([["u3"], [[("age", age)]]], schema=USER)
        storage.write_part(users, {}, context.folder("ingest/users"), "part-00000")
        files, _ = describe(storage, context.folder("ingest"))
        storage.write_json({"fingerprint": age, "files": files}, "runs/test/ingest", MANIFEST)
        storage.delete("runs/test/plan")
        asked.clear()
        plan.run(context)
        assert {"age": age} in asked


def test_sample_numbers_beyond_16_bits_can_be_written(units_of: Callable[..., Any]) -> None:
    config = {"strategies": [{**NEW_USERS, "num_users": 32_769}], "units_per_part": 32_768}
    assert units_of(plan=config)[-1]["sample"] == 32_768


def test_a_long_history_is_cut_to_its_newest_events(units_of: Callable[..., Any]) -> None:
    units = units_of({**CONTINUE, "samples_per_user": 1}, lm={"context_len": 7})
    prompts = {unit["user_id"]: unit["prompt"] for unit in units}
    assert prompts == {"u1": [A, B, C], "u2": [BOS, E], "u3": [C, B, A]}  # 3 + 4 new = 7


def test_only_sparse_users_are_continued(units_of: Callable[..., Any]) -> None:
    units = units_of({**CONTINUE, "max_history_len": 3})
    assert {unit["user_id"] for unit in units} == {"u1", "u2"}


def test_the_generator_is_named_with_the_digest_of_its_weights(make_context: MakeContext) -> None:
    context = make_context()
    write_finished(context, "lm/causal", model_digest="0123456789abcdef0123")
    found = generator_of(context)
    assert found.name == "causal@0123456789abcdef"
    assert (found.vocabulary, found.model) == ("runs/test/vocabulary", "runs/test/lm/causal")
    uniform = make_context(generate={"engine": "uniform"})
    write_vocabulary(uniform, catalogue("ab"), {})
    assert generator_of(uniform).name == f"uniform@{catalogue('ab').digest[:16]}"


# -- smaller than the demand -----------------------------------------------------------------


def served(units: list[dict[str, Any]]) -> list[tuple[str, int]]:
    return [(unit["user_id"], unit["sample"]) for unit in units]


@pytest.mark.parametrize(
    ("allocation", "expected"),
    [
        # u2 has 1 event, u1 has 3, u3 has 5
        ("sparse_first", {("u2", 0), ("u2", 1), ("u1", 0), ("u1", 1)}),
        ("uniform", {("u2", 0), ("u1", 0), ("u3", 0), ("u2", 1)}),
        ("proportional", {("u3", 0), ("u1", 0), ("u3", 1), ("u2", 0)}),
    ],
)
def test_a_budget_is_spent_as_allocated(
    units_of: Callable[..., Any], allocation: str, expected: set[tuple[str, int]]
) -> None:
    plan = {"strategies": [CONTINUE], "allocation": allocation}
    assert set(served(units_of(plan=plan, budget={"max_units": 4}))) == expected


def test_every_strategy_is_cut_by_the_same_share(units_of: Callable[..., Any]) -> None:
    new_users = {**NEW_USERS, "num_users": 60}
    units = units_of(CONTINUE, new_users, budget={"max_units": 33})  # of 6 + 60: half
    kinds = Counter(unit["strategy"] for unit in units)
    # 3 of 6 are one user's two samples and half of another's: samples stay together
    assert kinds == {"continue": 2, "new_users": 30}


def test_a_budget_of_tokens_counts_what_can_be_generated(units_of: Callable[..., Any]) -> None:
    units = units_of(NEW_USERS, budget={"max_tokens": 10})  # 3 a unit
    assert len(units) == 3


def test_what_the_budget_leaves_out_is_counted(make_context: MakeContext) -> None:
    context = make_context(
        plan={"strategies": [NEW_USERS]}, generate={"engine": "uniform"}, budget={"max_units": 2}
    )
    write_inputs(context)
    counts = plan.run(context)
    assert (counts["units"], counts["left_out_by_budget"]) == (2, 3)
    assert any("3 of 5 wanted units are left out" in note for note in context.progress.notes)


def test_a_large_plan_puts_sparse_users_first(units_of: Callable[..., Any]) -> None:
    strategies = [{**CONTINUE, "samples_per_user": 3}]
    units = units_of(plan={"strategies": strategies, "units_per_part": 3})
    # u2 and u1 are of one training part; u3 is alone in its own, in the middle of its source
    assert [user for user, _ in served(units)] == ["u2"] * 3 + ["u3"] * 3 + ["u1"] * 3


def test_tries_of_one_user_stay_in_one_part(make_context: MakeContext) -> None:
    strategy = {**CONTINUE, "samples_per_user": 4, "accepted_per_user": 1}
    context = make_context(
        plan={"strategies": [strategy], "units_per_part": 5, "allocation": "uniform"},
        generate={"engine": "uniform"},
    )
    write_inputs(context)
    plan.run(context)
    storage, folder = context.storage, context.folder("plan")
    for part in storage.parts(folder):
        assert len(set(storage.read_part(folder, part)["user_id"].to_pylist())) == 1
        assert storage.read_part(folder, part).num_rows == 4
