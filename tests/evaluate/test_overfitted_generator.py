"""Generators that were trained on people whose histories follow no rule: one until it
knows them by heart, one not at all, and one by DP-SGD. The audit tells the first one's members from
others, and the gate refuses it; the other two pass."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch

from llmaug.config import EvaluateConfig, GateConfig
from llmaug.core.stage import Context
from llmaug.evaluate import gate
from llmaug.evaluate.membership import attack, likeness_to_nearest
from llmaug.items.vocabulary import BOS, NUM_SPECIAL
from llmaug.lm.causal.training import CausalTask
from llmaug.training.loop import make_optimiser, train_step
from tests.evaluate.test_gate import figures
from tests.tables import catalogue, events, histories, write_vocabulary

MakeContext = Callable[..., Context]
ITEMS = [chr(0x100 + number) for number in range(120)]
NUM_PEOPLE, LENGTH, NUM_WRITTEN = 40, 8, 400
SMALL: dict[str, Any] = {
    "hidden_size": 32, "num_heads": 1, "num_layers": 1, "context_len": 12, "batch_size": NUM_PEOPLE,
    "dropout": 0.0, "warmup_steps": 0, "learning_rate": 1e-2, "weight_decay": 0.0,
}  # fmt: skip


def people(seed: int) -> list[list[int]]:
    """Places in the catalogue, drawn at random: nothing can be learnt from one about another."""
    rng = np.random.default_rng(seed)
    return [rng.permutation(len(ITEMS))[:LENGTH].tolist() for _ in range(NUM_PEOPLE)]


def written(model: Any) -> list[list[int]]:
    """Histories that the model makes up, each item drawn by its probability."""
    torch.manual_seed(0)
    rows = torch.full((NUM_WRITTEN, 1), BOS)
    with torch.inference_mode():
        for _ in range(LENGTH):
            chances = model._hidden(rows, model.table())[:, -1] @ model.table().T
            chances[:, :NUM_SPECIAL] = -torch.inf
            rows = torch.cat([rows, chances.softmax(1).multinomial(1)], 1)
    return (rows[:, 1:] - NUM_SPECIAL).tolist()


def audit(make_context: MakeContext, num_steps: int, **lm: Any) -> dict[str, Any]:
    context = make_context(lm={**SMALL, "num_steps": max(1, num_steps), **lm})
    members, others = people(1), people(2)
    write_vocabulary(context, catalogue(ITEMS, train_events=dict.fromkeys(ITEMS, 3)), {})
    words = {f"u{n:02d}": "".join(ITEMS[at] for at in own) for n, own in enumerate(members)}
    for fold in ("train", "validation"):
        folder = f"{context.folder('split')}/{fold}"
        context.storage.write_part(events(histories(**words)), {}, folder, "part-00000")
    folders = {name: context.folder(name) for name in ("split", "vocabulary", "ingest/users")}
    task = CausalTask(context.storage, folders, context.config)
    config: Any = context.config.lm
    optimiser = make_optimiser(task.model, config)
    for step in range(num_steps):
        train_step(task, task.model, optimiser, config, seed=1, step=step)
    synthetic = written(task.model.eval())
    likeness = [
        likeness_to_nearest(*flat(own), *flat(synthetic)) for own in (members, others)
    ]  # each person's likeness to the nearest history that was made up
    return {
        "synthetic": NUM_WRITTEN, "identifying": 0, "identifying_share": 0.0, "run_len": 5,
        "min_run_users": 5, "membership": attack(*likeness),
    }  # fmt: skip


def flat(rows: list[list[int]]) -> tuple[pa.Array, np.ndarray]:
    return pa.array([str(at) for own in rows for at in own]), np.array([len(own) for own in rows])


def decided(found: dict[str, Any]) -> dict[str, Any]:
    return gate.decide(figures(), GateConfig(max_membership_auc=0.6), EvaluateConfig(), found)


def test_one_that_knows_people_by_heart_is_refused(make_context: MakeContext) -> None:
    found = audit(make_context, num_steps=80)
    assert found["membership"]["auc"] > 0.95 and found["membership"]["tpr"] > 0.5
    decision = decided(found)
    assert not decision["passed"] and "AUC" in decision["reasons"][0]


@pytest.mark.parametrize(
    ("num_steps", "lm"),
    [(0, {}), (15, {"private": {"epsilon": 2.0, "delta": 1e-3}})],
    ids=["fresh", "private"],
)
def test_one_that_knows_nobody_passes(
    num_steps: int, lm: dict[str, Any], make_context: MakeContext
) -> None:
    found = audit(make_context, num_steps, **lm)
    assert found["membership"]["low"] < 0.6 and found["membership"]["tpr_low"] < 0.05
    assert decided(found)["passed"]
