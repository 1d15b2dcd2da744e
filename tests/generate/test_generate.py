"""The engine: bad units fail alone, seeds decide, only items come out."""

from __future__ import annotations

import json
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from llmaug.config import CausalConfig, ContinueConfig, GenerateConfig
from llmaug.core.storage import Storage
from llmaug.generate.engines import EngineMaker, UniformEngine
from llmaug.generate.look import EventLook
from llmaug.generate.part_answer import OutcomeFolders
from llmaug.generate.part_worker import PartWorker
from llmaug.generate.units import Units
from llmaug.generate.vllm_engine import VllmEngine
from llmaug.items.vocabulary import BOS, ITEMS_PART, NUM_SPECIAL, Vocabulary
from llmaug.lm.generator import Generator
from llmaug.lm.language import Language
from llmaug.schema import FAILED, GENERATED, UNIT
from tests.tables import catalogue

NUM_ITEMS = 30
LM = CausalConfig(hidden_size=32, num_heads=1, num_layers=1, context_len=80)


def unit(number: int, prompt: list[int], seed: int = 1, **sampling: Any) -> dict[str, Any]:
    defaults = {
        "temperature": 1.0, "top_p": 1.0, "top_k": -1, "max_tokens": 5, "forbid_repeats": False,
    }  # fmt: skip
    return {
        "unit_id": f"unit-{number}",
        "user_id": None,
        "strategy": "new_users",
        "sample": number,
        "prompt": prompt,
        "sampling": {**defaults, **sampling},
        "seed": seed,
        "places": [2],
    }


UNITS = [
    unit(0, [BOS]),
    unit(1, []),  # empty prompt
    unit(2, [BOS] + [5] * 80),  # longer than the context
    unit(3, [BOS, 10_000]),  # no such token
    unit(4, [BOS], top_p=7.0),  # a sampling value that the engine refuses
    unit(5, [BOS, 5, 6], seed=2),
    unit(6, [BOS, 5, 6], seed=3),
    unit(7, [BOS, 5, 6], seed=2),  # as unit 5
]
LANGUAGE = Language(NUM_SPECIAL + NUM_ITEMS, has_directions=True)
# A history of ten items, and each of the others must come out once.
NO_REPEATS = [
    unit(number, [BOS, *range(3, 11)], seed=number, max_tokens=20, forbid_repeats=True)
    | {"also_seen": [11, 12]}
    for number in range(10, 30)
]
# More is asked for than there are items left.
NO_ITEM_LEFT = unit(30, [BOS, *range(3, 33)], forbid_repeats=True)
GAPS = [
    unit(number, LANGUAGE.infill_prompt([3, 4], [5, 6], 40), seed=number, max_tokens=20)
    | {"strategy": "infill"}
    for number in range(40, 80)
]
# More prompt tokens at once than one step of the engine takes: seeded units must survive it.
CROWD = [unit(number, [BOS, *range(4, 32), *range(3, 30), *range(5, 20)], seed=number)
         for number in range(100, 900)]  # fmt: skip
ALL = [*UNITS, *NO_REPEATS, NO_ITEM_LEFT, *GAPS, *CROWD]


GENERATOR = Generator("model@1", "uniform", "vocabulary", None, "1", LM.context_len)


def outcomes(storage: Storage, engine: EngineMaker) -> list[dict[str, Any]]:
    """The outcomes of ALL units through one actor's worth of our side."""
    write_catalogue(storage)
    table = pa.Table.from_pylist(ALL, schema=UNIT)
    storage.write_part(table, {}, "plan", "part-0")
    folders = OutcomeFolders(storage, "plan", "outcomes", "test", "model@1")
    look = partial(EventLook, storage, GENERATOR, [ContinueConfig()])
    worker = PartWorker(folders, engine, look=look)
    row = {"name": "part-0", "source": "users", "strategy": 0, "train_part": None}
    counts = json.loads(worker(row)["counts"])
    rows = storage.read_part("outcomes", "part-0").to_pylist()
    assert counts["units"] == len(rows) == counts[GENERATED] + counts[FAILED]
    assert counts["output_tokens"] == sum(len(row["tokens"]) for row in rows)
    return rows


def write_catalogue(storage: Storage) -> Vocabulary:
    vocabulary = catalogue([f"item-{n}" for n in range(NUM_ITEMS)])
    counts = {"vocabulary_digest": vocabulary.digest}
    storage.write_part(vocabulary.items, counts, "vocabulary", ITEMS_PART)
    return vocabulary


@pytest.fixture(scope="module")
def on_vllm(ray_session: None, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """Outcomes of a real engine: started once."""
    import ray

    return ray.get(ray.remote(_on_vllm).remote(str(tmp_path_factory.mktemp("vllm"))))


def test_poisoned_units_fail_with_their_reason_and_leave_their_neighbours_alone(
    on_vllm: list[dict[str, Any]],
) -> None:
    rows = on_vllm
    assert [row["unit_id"] for row in rows] == [u["unit_id"] for u in ALL]
    failed = {row["unit_id"]: row["detail"] for row in rows if row["status"] == FAILED}
    assert set(failed) == {"unit-1", "unit-2", "unit-3", "unit-4"}
    assert "empty prompt" in failed["unit-1"]
    assert "context of 80" in failed["unit-2"]
    assert "token ids outside" in failed["unit-3"]
    assert "top_p" in failed["unit-4"]
    assert {row["reason"] for row in rows if row["status"] == FAILED} == {"refused_by_engine"}
    tokens = {row["unit_id"]: row["tokens"] for row in rows if row["status"] == GENERATED}
    own = [tokens[unit["unit_id"]] for unit in UNITS if unit["unit_id"] in tokens]
    assert all(len(t) == 5 and min(t) >= NUM_SPECIAL for t in own)
    assert tokens["unit-5"] == tokens["unit-7"] != tokens["unit-6"]
    # The samples of the crowd share one history: its whole blocks are computed once.
    crowd = [row for row in rows if int(row["unit_id"][5:]) >= 100]
    assert {row["num_prompt_tokens"] for row in crowd} == {71}
    computed = sum(row["num_prompt_tokens"] - row["num_cached_tokens"] for row in crowd)
    assert computed == 71 + (len(crowd) - 1) * (71 - 64)


def test_repeats_are_forbidden_in_decoding(on_vllm: list[dict[str, Any]]) -> None:
    tokens = {row["unit_id"]: row["tokens"] for row in on_vllm}
    drawn = [tokens[unit["unit_id"]] for unit in NO_REPEATS]
    assert all(sorted(answer) == list(range(13, 33)) for answer in drawn)
    assert len({tuple(answer) for answer in drawn}) == len(drawn)  # in any order
    # Where no item is left the engine answers all the same, and the filter drops the repeats.
    assert len(tokens[NO_ITEM_LEFT["unit_id"]]) == 5


def test_a_gap_ends_where_the_model_ends_it_and_holds_items_alone(
    on_vllm: list[dict[str, Any]],
) -> None:
    tokens = {row["unit_id"]: row["tokens"] for row in on_vllm}
    answers = [LANGUAGE.events("infill", tokens[unit["unit_id"]])
               for unit in GAPS]  # fmt: skip
    assert {len(answer) for answer in answers} > {20} and min(map(len, answers)) >= 1
    drawn = {token for answer in answers for token in answer}
    assert drawn <= set(range(NUM_SPECIAL, LANGUAGE.num_words))


def _on_vllm(folder: str, **settings: Any) -> list[dict[str, Any]]:
    """In a worker: vLLM sets process-wide state that the test process should not have."""
    import torch

    from llmaug.lm.causal.model import CausalLm, save

    torch.manual_seed(0)
    storage = Storage(folder)
    vocabulary = write_catalogue(storage)
    save(storage, "lm", CausalLm(LM, vocabulary, 1, LANGUAGE), vocabulary, {})
    config = GenerateConfig(max_num_seqs=1024, **settings)
    local, context_len = storage.fetch_folder("lm", "v1"), LM.context_len
    on_gpu = torch.cuda.is_available()
    return outcomes(
        storage, lambda: VllmEngine(local, config, context_len, LANGUAGE.num_tokens, on_gpu)
    )


def test_the_uniform_control_draws_any_item_by_seed(tmp_path: Path) -> None:
    rows = outcomes(Storage(str(tmp_path)), lambda: UniformEngine(NUM_ITEMS))
    assert all(row["status"] == GENERATED for row in rows)
    assert rows[5]["tokens"] == rows[7]["tokens"] != rows[6]["tokens"]
    drawn = {token for row in rows for token in row["tokens"]}
    assert drawn == set(range(NUM_SPECIAL, NUM_SPECIAL + NUM_ITEMS))


def test_the_stand_in_takes_the_time_of_a_gpu() -> None:
    engine = UniformEngine(NUM_ITEMS, tokens_per_s=10_000.0)
    units = Units(pa.Table.from_pylist(CROWD, schema=UNIT))  # 800 units of 5 tokens
    engine.add(units, np.arange(800), first_key=0)
    begin, keys = time.monotonic(), []
    while engine.num_unfinished:
        finished = engine.step()
        assert finished is not None
        keys += finished.keys.tolist()
    assert keys == list(range(800))
    assert time.monotonic() - begin >= 0.4


@pytest.mark.gpu
def test_the_engine_runs_on_a_gpu(tmp_path: Path, ray_session: None) -> None:
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA GPU and the extra `gpu`")
    import ray

    rows = ray.get(ray.remote(num_gpus=1)(_on_vllm).remote(str(tmp_path)))
    assert sum(row["status"] == GENERATED for row in rows) == len(ALL) - 4


@pytest.mark.gpu
@pytest.mark.parametrize("settings", [{"num_gpus": 0.5}, {"num_gpus": 0.5, "quantization": "fp8"}])
def test_two_engines_share_a_gpu_and_its_memory(
    tmp_path: Path, ray_session: None, settings: dict[str, Any]
) -> None:
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA GPU and the extra `gpu`")
    import ray

    engine = ray.remote(num_gpus=0.5)(_on_vllm)
    both = ray.get([engine.remote(str(tmp_path / name), **settings) for name in ("a", "b")])
    for rows in both:
        assert sum(row["status"] == GENERATED for row in rows) == len(ALL) - 4
