"""Strategy soft_events from plan to training sequences, with a model of random weights."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch

from llmaug.arms import merge
from llmaug.config import CausalConfig
from llmaug.core.stage import Context
from llmaug.errors import UserError
from llmaug.filter import real_runs
from llmaug.filter import stage as filters
from llmaug.generate.engine_maker import engine_maker
from llmaug.generate.engines import BothEngines, ChancesEngine, UniformEngine
from llmaug.generate.look import EventLook
from llmaug.generate.part_answer import OutcomeFolders
from llmaug.generate.part_worker import PartWorker
from llmaug.items.batches import Batches
from llmaug.items.sequences import load_sequences
from llmaug.items.vocabulary import BOS, NUM_SPECIAL
from llmaug.lm.causal import model as causal
from llmaug.lm.causal.model import CausalLm
from llmaug.lm.generator import generator_of
from llmaug.lm.language import Language
from llmaug.plan import stage as plan
from tests.tables import (
    catalogue,
    events,
    histories,
    map_parts_here,
    read_rows,
    share_here,
    write_finished,
    write_vocabulary,
)

MakeContext = Callable[..., Context]
WORDS = catalogue("abcdefgh")
A, B, C, D, E, F, G, H = range(NUM_SPECIAL, NUM_SPECIAL + 8)
CONFIG = CausalConfig(hidden_size=32, num_heads=1, num_layers=1, context_len=5)
SOFT: dict[str, Any] = {"kind": "soft_events", "num_candidates": 3}
TRAIN = {"p0": histories(u1="abc", u2="e"), "p1": histories(u3="edcbaf")}


@pytest.fixture
def make(make_context: MakeContext, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Context]:
    """A run whose model is there, of a language with these actions."""
    for module in (plan, real_runs, filters, merge):
        monkeypatch.setattr(module, "map_parts", map_parts_here)
    monkeypatch.setattr(real_runs, "share", share_here)

    def make(*others: dict[str, Any], actions: tuple[str, ...] = (), **strategy: Any) -> Context:
        lm = CONFIG.model_dump(exclude={"name"})
        strategies = [SOFT | strategy, *others]
        context = make_context(
            lm=lm, plan={"strategies": strategies, "units_per_part": 2}, ray={"gpus": "none"}
        )
        for part, rows in TRAIN.items():
            context.storage.write_part(events(rows), {}, context.folder("split/train"), part)
        write_vocabulary(context, WORDS, {})
        torch.manual_seed(0)
        model = CausalLm(CONFIG, WORDS, 1, Language(WORDS.num_tokens, actions=actions))
        digest = causal.save(context.storage, context.folder("lm/causal"), model, WORDS, {})
        write_finished(context, "lm/causal", model_digest=digest)
        write_finished(context, "split")
        real_runs.run(context)
        return context

    return make


def test_from_plan_to_batches(make: Callable[..., Context]) -> None:
    context = make()
    storage, generator = context.storage, generator_of(context)
    counts = plan.run(context)
    assert (counts["units"], counts["soft_events"], counts["max_output_tokens"]) == (3, 3, 3)
    units = {unit["user_id"]: unit for unit in read_rows(storage, context.folder("plan"))}
    assert {user: unit["prompt"] for user, unit in units.items()} == {
        "u1": [BOS, A, B, C], "u2": [BOS, E], "u3": [C, B, A, F],  # 4 + 1 = 5: the newest
    }  # fmt: skip
    assert units["u3"]["also_seen"] == [D, E]
    assert units["u1"]["sampling"] == {
        "temperature": 1.0, "top_p": 1.0, "top_k": 3, "max_tokens": 1, "forbid_repeats": True
    }  # fmt: skip

    engine = engine_maker(context, generator, context.config.plan.strategies)()
    assert isinstance(engine, ChancesEngine)
    folders = OutcomeFolders(
        storage, context.folder("plan"), context.folder("outcomes"), "test", generator.name
    )
    look = partial(EventLook, storage, generator, context.config.plan.strategies)
    worker = PartWorker(folders, lambda: engine, look=look)
    for part in plan.read_parts(storage, context.folder("plan")):
        worker(vars(part))
    write_finished(context, "outcomes", units=3)
    counts = filters.run(context)
    assert counts == {
        **{"units": 3, "rows": 3, "accepted": 3, "rejected": 0, "failed": 0},
        # Nothing is known of what came first where the history was cut, nor of what it left out.
        **{"soft_events": 3 + 1 + 3, "soft_events_kept": 7, "soft_targets": 3 * 7},
    }
    write_finished(context, "plan", generator=generator.name)
    assert merge.run("augmented", context) == {"rows": 10, "real": 10, "synthetic": 0, "soft": 7}

    rows = read_rows(storage, context.folder("merged/augmented"))
    by_user = {user: [row["soft_tokens"] for row in rows if row["user_id"] == user]
               for user in ("u1", "u2", "u3")}  # fmt: skip
    assert by_user["u3"][:3] == [None] * 3
    # Nobody is given an item twice: of eight items u3 had five before the last one.
    assert [len(each) for each in by_user["u3"][3:]] == [3, 3, 3]
    assert set(by_user["u3"][5]) == {F, G, H}
    for user, letters in {"u1": [A, B, C], "u2": [E]}.items():
        seen: list[int] = []
        for token, others in zip(letters, by_user[user], strict=True):
            assert len(set(others)) == 3 and not set(others) & set(seen)
            seen.append(token)
    # Up to rounding: of u3's last event the three are all that there are.
    assert all(0 < sum(row["soft_chances"]) < 1 + 1e-6 for row in rows if row["soft_chances"])

    sequences = load_sequences(storage, context.folder("merged/augmented"), WORDS, soft=True)
    tokens, _, others, chances = Batches(sequences, 3, 10, seed=1).at(0)
    [row] = np.flatnonzero((tokens == C).any(1) & (tokens == B).any(1) & ~(tokens == D).any(1))
    assert tokens[row, :4].tolist() == [BOS, A, B, C]
    assert others[row, 1:4].tolist() == by_user["u1"]
    assert (chances.sum(2) < 1 + 1e-6).all()


def test_beside_strategies_of_events(make: Callable[..., Context]) -> None:
    """Each kind of unit is answered by an engine of its own, and each is counted as what it is."""
    others = [
        {"kind": "new_users", "num_users": 4, "num_events": 2},
        {"kind": "continue", "num_events": 2, "samples_per_user": 3, "accepted_per_user": 1},
    ]
    context = make(*others)
    storage, generator = context.storage, generator_of(context)
    counts = plan.run(context)
    assert [counts[kind] for kind in ("new_users", "soft_events", "continue")] == [4, 3, 9]
    parts = plan.read_parts(storage, context.folder("plan"))
    assert [part.strategy for part in parts] != sorted(part.strategy for part in parts)  # mixed

    soft, *_ = context.config.plan.strategies
    of_chances = engine_maker(context, generator, [soft])()
    assert isinstance(of_chances, ChancesEngine)
    both = BothEngines(of_chances, UniformEngine(WORDS.num_items))
    folders = OutcomeFolders(
        storage, context.folder("plan"), context.folder("outcomes"), "test", generator.name
    )
    worker = PartWorker(
        folders, lambda: both,
        look=partial(
            EventLook, storage, generator, context.config.plan.strategies,
            train=context.folder("split/train"),
        ),
    )  # fmt: skip
    with ThreadPoolExecutor(len(parts)) as pool:  # several parts are in the engine at a time
        answered = list(pool.map(worker, map(vars, parts)))
    done: Counter[str] = Counter()
    for each in answered:
        done.update(json.loads(each["counts"]))
    assert done["units"] + done["not_needed"] == 4 + 3 + 9 and done["generated"] == done["units"]
    outcomes = read_rows(storage, context.folder("outcomes"))
    assert {(row["strategy"], row["soft_k"]) for row in outcomes} == {
        ("soft_events", 3), ("new_users", None), ("continue", None)
    }  # fmt: skip
    write_finished(context, "outcomes", units=len(outcomes))

    judged = filters.run(context)
    assert judged["units"] == len(outcomes) == judged["accepted"] + judged["rejected"]
    assert (judged["soft_events"], judged["soft_events_kept"]) == (7, 7)
    by_kind = Counter((row["strategy"], row["status"])
                      for row in read_rows(storage, context.folder("filtered")))  # fmt: skip
    assert by_kind["soft_events", "accepted"] == 3
    assert by_kind["continue", "accepted"] <= 3  # one a user
    write_finished(context, "plan", generator=generator.name)
    merged = merge.run("augmented", context)
    assert (merged["real"], merged["soft"]) == (10, 7)
    assert merged["synthetic"] == judged["events_kept"] > 0
    assert merged["rows"] == merged["real"] + merged["synthetic"]

    # The same answers beside others as alone.
    alone = make()
    for stage in ("plan", "outcomes"):
        storage.delete(alone.folder(stage))
    plan.run(alone)
    look = partial(EventLook, storage, generator, alone.config.plan.strategies)
    worker = PartWorker(folders, lambda: of_chances, look=look)
    for part in plan.read_parts(storage, alone.folder("plan")):
        worker(vars(part))
    names = ("unit_id", "tokens", "soft_tokens", "soft_chances")
    assert [
        [row[name] for name in names] for row in read_rows(storage, alone.folder("outcomes"))
    ] == [[row[name] for name in names] for row in outcomes if row["strategy"] == "soft_events"]


def test_events_of_several_tokens_are_refused(make: Callable[..., Context]) -> None:
    with pytest.raises(UserError, match=r"one token, and here they have 2: set lm\.action_tokens"):
        plan.run(make(actions=("view", "buy")))


def test_how_many_are_asked_for_is_another_question(make: Callable[..., Context]) -> None:
    ids = []
    for changes in ({}, {"temperature": 0.5}, {"num_candidates": 4}):
        context = make(**changes)
        context.storage.delete(context.folder("plan"))
        plan.run(context)
        ids.append({row["unit_id"] for row in read_rows(context.storage, context.folder("plan"))})
    assert ids[0] == ids[1] and not ids[0] & ids[2]
