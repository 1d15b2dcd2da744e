"""The engine: bad units fail alone, seeds decide, only items come out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from llmaug.config import GenerateConfig, LmConfig
from llmaug.generate import Generator, UniformEngine, VllmEngine
from llmaug.schema import FAILED, GENERATED, UNIT
from llmaug.storage import Storage
from llmaug.vocabulary import BOS, NUM_SPECIAL
from tests.tables import catalogue

NUM_ITEMS = 30
LM = LmConfig(hidden_size=32, num_heads=1, num_layers=1, context_len=16)


def unit(number: int, prompt: list[int], seed: int = 1, **sampling: Any) -> dict[str, Any]:
    defaults = {"temperature": 1.0, "top_p": 1.0, "top_k": -1, "max_tokens": 5}
    return {
        "unit_id": f"unit-{number}",
        "user_id": None,
        "strategy": "new_users",
        "sample": number,
        "prompt": prompt,
        "sampling": {**defaults, **sampling},
        "seed": seed,
        "after": None,
    }


UNITS = [
    unit(0, [BOS]),
    unit(1, []),  # empty prompt
    unit(2, [BOS] + [5] * 20),  # longer than the context
    unit(3, [BOS, 10_000]),  # no such token
    unit(4, [BOS], top_p=7.0),  # a sampling value that the engine refuses
    unit(5, [BOS, 5, 6], seed=2),
    unit(6, [BOS, 5, 6], seed=3),
    unit(7, [BOS, 5, 6], seed=2),  # as unit 5
]
# More prompt tokens at once than one step of the engine takes: seeded units must survive it.
CROWD = [unit(number, [BOS, *range(4, 14)], seed=number) for number in range(100, 900)]


def outcomes(storage: Storage, engine: Any) -> list[dict[str, Any]]:
    table = pa.Table.from_pylist(UNITS + CROWD, schema=UNIT)
    storage.write_part(table, {}, "plan", "part-0")
    counts = Generator(storage, "plan", "outcomes", engine)("part-0")
    rows = storage.read_part("outcomes", "part-0").to_pylist()
    assert counts["units"] == len(rows) == counts[GENERATED] + counts[FAILED]
    return rows


def test_poisoned_units_fail_with_their_reason_and_leave_their_neighbours_alone(
    ray_session: None, tmp_path: Path
) -> None:
    import ray

    rows = ray.get(ray.remote(_on_vllm).remote(str(tmp_path)))
    assert [row["unit_id"] for row in rows] == [u["unit_id"] for u in UNITS + CROWD]
    failed = {row["unit_id"]: row["detail"] for row in rows if row["status"] == FAILED}
    assert set(failed) == {"unit-1", "unit-2", "unit-3", "unit-4"}
    assert "empty prompt" in failed["unit-1"]
    assert "context of 16" in failed["unit-2"]
    assert "token ids outside" in failed["unit-3"]
    assert "top_p" in failed["unit-4"]
    tokens = {row["unit_id"]: row["tokens"] for row in rows if row["status"] == GENERATED}
    assert all(len(t) == 5 and min(t) >= NUM_SPECIAL for t in tokens.values())
    assert tokens["unit-5"] == tokens["unit-7"] != tokens["unit-6"]


def _on_vllm(folder: str) -> list[dict[str, Any]]:
    """In a worker: vLLM sets process-wide state that the test process should not have."""
    import torch

    from llmaug.lm.causal import CausalLm, save

    torch.manual_seed(0)
    storage, vocabulary = Storage(folder), catalogue([f"item-{n}" for n in range(NUM_ITEMS)])
    model = CausalLm(LM, vocabulary, min_tag_items=1)
    save(storage, "lm", model, vocabulary, {})
    config = GenerateConfig(max_num_seqs=1024)
    local = storage.fetch_folder("lm", "v1")
    return outcomes(
        storage,
        lambda: VllmEngine(local, config, LM, vocabulary.num_tokens, torch.cuda.is_available()),
    )


def test_the_uniform_control_draws_any_item_by_seed(tmp_path: Path) -> None:
    rows = outcomes(Storage(str(tmp_path)), lambda: UniformEngine(NUM_ITEMS))
    assert all(row["status"] == GENERATED for row in rows)
    assert rows[5]["tokens"] == rows[7]["tokens"] != rows[6]["tokens"]
    drawn = {token for row in rows for token in row["tokens"]}
    assert drawn <= set(range(NUM_SPECIAL, NUM_SPECIAL + NUM_ITEMS))


@pytest.mark.gpu
def test_the_engine_runs_on_a_gpu(tmp_path: Path, ray_session: None) -> None:
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA GPU and the extra `gpu`")
    import ray

    rows = ray.get(ray.remote(num_gpus=1)(_on_vllm).remote(str(tmp_path)))
    assert sum(row["status"] == GENERATED for row in rows) == 4 + len(CROWD)
