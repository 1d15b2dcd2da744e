"""Makes a folder of everything that is stored, as the code of the day writes it.

`python -m tests.format_corpus tests/corpus/formats/VERSION`, before a format changes: later code
must read what lies there for ever (test_formats.py).
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from llmaug import recommenders
from llmaug.config import RECOMMENDERS, ClosedFormConfig, OfPairsConfig, parse_config
from llmaug.core.stage import Context
from llmaug.core.storage import Storage
from llmaug.generate.engines import UniformEngine
from llmaug.generate.look import EventLook
from llmaug.generate.part_worker import OutcomeFolders, PartWorker
from llmaug.lm.generator import Generator
from llmaug.plan import stage as plan
from llmaug.publish.recommend import for_user, score_pairs
from llmaug.recommenders import DataFacts
from llmaug.recommenders.pair_batches import PairBatches
from llmaug.report.stage import load_metrics
from tests.nights import NIGHT, USERS, make_night, without_ray
from tests.tables import catalogue, events, histories, map_parts_here, write_vocabulary

KINDS: dict[str, dict[str, Any]] = {
    "sasrec": {"embedding_dim": 4, "history_len": 5, "num_layers": 1, "num_heads": 2,
               "item_features": True},
    "two_tower": {"embedding_dim": 4, "history_len": 5, "loss": "bpr"},
    "linear": {"embedding_dim": 4, "interaction": "hadamard", "loss": "mse"},
    "ease": {"ease_l2": 2.0},
    "popularity": {"popularity_days": 30},
}  # fmt: skip
QUESTION = (["u1", "u3", "stranger"], [[3, 4], [6], []])
PAIRS = [("u1", "d"), ("u1", "no such item"), ("stranger", "a")]
UNITS = "units"
"""The run that has a plan and its outcomes."""


def make(root: Path) -> None:
    """A night that was published, a model of each kind, a plan with its outcomes; and in
    `expected.json` what came of them on the day."""
    storage = Storage(str(root))
    with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory() as home:
        without_ray(patch)
        make_night(root, Path(home))
        patch.setattr(plan, "map_parts", map_parts_here)
        outcomes = _answer_units(storage)
    expected = {
        "scores": {kind: _save_model(storage, kind) for kind in KINDS},
        "metrics": load_metrics(storage, NIGHT),
        "lists": {user: for_user(storage, "recommender", user, 3) for user in ("u1", "stranger")},
        "pairs": score_pairs(storage, "recommender", PAIRS),
        "outcomes": outcomes,
    }
    (root / "expected.json").write_text(json.dumps(expected, indent=1) + "\n", encoding="utf-8")


def _save_model(storage: Storage, kind: str) -> dict[str, Any]:
    """Write `models/<kind>`; returns its digest and its answer to QUESTION."""
    torch.manual_seed(1)
    config, rows = RECOMMENDERS.make({"model": kind, **KINDS[kind]}), events(histories(**USERS))
    words = catalogue("abcd", tags={"a": ["x"], "b": ["x", "y"]})
    pairs = isinstance(config, OfPairsConfig)
    users = PairBatches([rows], words, config, 1).user_ids if pairs else []
    model = recommenders.build(config, DataFacts(words, users))
    if isinstance(config, ClosedFormConfig):
        model.fit(lambda: [rows])
    folder = f"models/{kind}"
    model_digest = recommenders.save_recommender(storage, folder, model.eval(), config, words)
    with torch.no_grad():
        return {"model_digest": model_digest, "scores": model.score(*QUESTION).tolist()}


def _answer_units(storage: Storage) -> dict[str, str]:
    """Plan some units and answer them at random; returns {unit_id: status}."""
    strategies = [
        {"kind": "continue", "num_events": 3},
        {"kind": "new_users", "num_users": 3, "num_events": 3},
    ]
    raw = {"plan": {"strategies": strategies}, "generate": {"engine": "uniform"}}
    context = Context(storage, parse_config(raw), UNITS)
    storage.write_part(events(histories(**USERS)), {}, context.folder("split/train"), "part-00000")
    write_vocabulary(context, catalogue("abcd"), {})
    folder, vocabulary = context.folder("outcomes"), context.folder("vocabulary")
    context_len = context.config.lm.context_len
    generator = Generator("uniform@1", "uniform", vocabulary, None, "1", context_len)
    folders = OutcomeFolders(storage, context.folder("plan"), folder, UNITS, generator.name)
    plan.run(context)
    work: Callable[[dict], Any] = PartWorker(
        folders, lambda: UniformEngine(4),
        look=lambda: EventLook(context.storage, generator, context.config.plan.strategies),
    )  # fmt: skip
    for part in plan.read_parts(storage, folders.plan):
        work(vars(part))
    rows = [
        row for part in storage.parts(folder) for row in storage.read_part(folder, part).to_pylist()
    ]
    return {row["unit_id"]: row["status"] for row in rows}


if __name__ == "__main__":
    make(Path(sys.argv[1]).absolute())
