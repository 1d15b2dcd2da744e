"""What a step on some events would do to the validation events: right, wrong, and beside it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from llmaug import recommenders
from llmaug.arms.arms import AUGMENTED, REAL
from llmaug.commands.influence import ALL, NUM_BLOCKS, Targets, gradient, influence, measure
from llmaug.config import RECOMMENDERS
from llmaug.core.stage import Context
from llmaug.errors import UserError
from llmaug.recommenders import DataFacts
from tests.tables import catalogue, events, histories, write_finished, write_vocabulary

WORDS = catalogue("abcdef", train_events=dict.fromkeys("abcdef", 10))
A, B, C, D, E, F = range(3, 9)
SASREC = {"model": "sasrec", "embedding_dim": 8, "num_layers": 1, "num_heads": 1, "dropout": 0.0}


@pytest.fixture
def model() -> Any:
    torch.manual_seed(1)
    return recommenders.build(RECOMMENDERS.make(SASREC), DataFacts(WORDS)).eval()


def after(history: int, *targets: int, times: int = 64) -> Targets:
    """So many users who had one item, and took one of `targets` then."""
    taken = [targets[number % len(targets)] for number in range(times)]
    return Targets(["u"] * times, [[history]] * times, taken)


def test_right_events_help_wrong_ones_mislead_and_others_say_nothing(model: Any) -> None:
    """After c people take d: events that say so, that say a, and that say either."""
    groups = {"right": after(C, D), "wrong": after(C, A), "both": after(C, D, A)}
    validation = after(C, D)
    found = measure(model, groups, validation, {ALL: np.arange(64)}, seed=1)
    right, wrong, both = (found[name][ALL] for name in groups)
    assert right["share"] == pytest.approx(1, abs=1e-4)
    assert wrong["high"] < 0
    assert wrong["share"] < both["share"] < right["share"]
    assert both["share"] == pytest.approx((right["share"] + wrong["share"]) / 2, abs=1e-3)


def test_a_step_does_what_its_product_says(model: Any) -> None:
    """First order: the loss of the validation events falls by rate times both gradients."""
    train, validation, rate = after(C, D, E), after(B, D), 1e-3
    step, towards = gradient(model, train), gradient(model, validation)
    before = loss(model, validation)
    with torch.no_grad():
        place = 0
        for weights in model.parameters():
            size = weights.numel()
            weights -= rate * step[place : place + size].view_as(weights)
            place += size
    assert before - loss(model, validation) == pytest.approx(rate * float(step @ towards), rel=0.02)


def loss(model: Any, of: Targets) -> float:
    with torch.no_grad():
        scores = model.score(of.users, of.histories)[:, 3:].double()
    picked = scores.log_softmax(-1)[torch.arange(len(of)), torch.tensor(of.targets) - 3]
    return -float(picked.mean())


def test_too_few_events_are_not_measured(model: Any) -> None:
    few = {"few": after(C, D, times=2 * NUM_BLOCKS - 1)}
    assert measure(model, few, after(C, D), {ALL: np.arange(64)}, seed=1) == {}


# -- of a run ------------------------------------------------------------------------------------


def write_run(context: Context) -> None:
    """Forty users who take a, b, c and then d (held out); `continue` says so, `prefix` does not."""
    storage, names = context.storage, [f"u{number}" for number in range(40)]
    write_vocabulary(context, WORDS, {})
    train = events(histories(**dict.fromkeys(names, "abc")))
    storage.write_part(train, {}, context.folder("split/train"), "part-0")
    held_out = events([(name, "d", 9.0) for name in names])
    storage.write_part(held_out, {}, context.folder("split/validation"), "part-0")
    storage.write_part(merged(names), {}, context.folder(f"merged/{AUGMENTED}"), "part-0")
    write_finished(context, f"merged/{AUGMENTED}")
    torch.manual_seed(1)
    model = recommenders.build(context.config.train, DataFacts(WORDS)).eval()
    folder = context.folder(f"model/{REAL}/seed-1")
    digest = recommenders.save_recommender(storage, folder, model, context.config.train, WORDS)
    write_finished(context, f"model/{REAL}", **{"seed-1": {"model_digest": digest}})


def merged(names: list[str]) -> Any:
    """The histories, and behind each what two strategies wrote."""
    rows = events(histories(**dict.fromkeys(names, "abc"))).to_pylist()
    for name in names:
        own = [row for row in rows if row["user_id"] == name and not row["unit_id"]]
        for strategy, item, place in (("continue", "d", 3), ("prefix", "f", 0)):
            rows.append({
                **own[-1], "item_id": item, "origin": "synthetic", "unit_id": f"{strategy}-{name}",
                "strategy": strategy, "place": place, "position": 0,
            })  # fmt: skip
    rows.sort(key=lambda row: (row["user_id"], row["unit_id"] or ""))
    from llmaug.schema import EVENT

    return type(events([])).from_pylist(rows, schema=EVENT)


def test_each_strategy_of_a_run_is_measured(make_context: Callable[..., Context]) -> None:
    context = make_context(train={**SASREC, "seeds": [1]})
    write_run(context)
    found = influence(context, 2048)
    assert (found["seed"], found["validation_events"]) == (1, 40)
    events_of = {group["group"]: group["events"] for group in found["groups"]}
    # A prefix counts with what stands behind it: that is what it is written for.
    assert events_of == {REAL: 120, "continue": 40, "prefix": 160}
    on = {group["group"]: group["on"] for group in found["groups"]}
    assert on["continue"][ALL]["low"] > max(0.5, on["prefix"][ALL]["high"])
    # Everybody has three events, and no other length is shown.
    assert set(on["continue"]) >= {ALL, "history <=3"} and "history 4-7" not in on["continue"]


def test_models_that_read_no_history_are_refused(make_context: Callable[..., Context]) -> None:
    context = make_context(train={"model": "popularity"})
    with pytest.raises(UserError, match="popularity is not trained on histories"):
        influence(context, 2048)


def test_a_run_without_the_arm_says_what_is_missing(make_context: Callable[..., Context]) -> None:
    with pytest.raises(UserError, match="merged/augmented: this stage is not finished"):
        influence(make_context(train=SASREC), 2048)
