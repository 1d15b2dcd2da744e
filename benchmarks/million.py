"""A catalogue of a million items: semantic ids, their trie, and decoding that stays in it.

Item vectors are random clusters. The model is a random Llama over the code words; decoding is
measured with the constraint and without it, the same requests through `vllm.LLM`, each in a
process of its own, by turns. Every answer is read back: each path must be an item's.

    python benchmarks/million.py
    python benchmarks/million.py --num-items 100000 --num-units 500    # does it run?
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import psutil
import pyarrow as pa
import typer

from llmaug.config import CausalConfig, parse_config
from llmaug.core.storage import Storage
from llmaug.generate.units import Units
from llmaug.generate.vllm_arguments import vllm_arguments
from llmaug.generate.vllm_engine import sampling_params
from llmaug.items.semantic_ids import SemanticIds, Trie, build, read_ids
from llmaug.items.vocabulary import BOS, NUM_SPECIAL, of_items
from llmaug.lm.language import Language
from llmaug.schema import ITEM, UNIT

NUM_EVENTS, HISTORY_LEN = 20, 10
LM = {"hidden_size": 128, "num_layers": 4, "num_heads": 4, "context_len": 160}
WAYS = ("free", "constrained", "no repeats")


def main(
    num_items: Annotated[int, typer.Option(help="Items of the catalogue.")] = 1_000_000,
    num_units: Annotated[int, typer.Option(help="Units of 20 events each.")] = 5_000,
    rounds: Annotated[int, typer.Option(help="Take turns so often; the best counts.")] = 2,
) -> None:
    with tempfile.TemporaryDirectory() as root:
        vectors = _vectors(num_items)
        begin = time.monotonic()
        ids = build(vectors, num_levels=3, num_codes=256, seed=1)
        build_s = time.monotonic() - begin
        _save(root, ids)
        before = psutil.Process().memory_info().rss
        begin = time.monotonic()
        trie = Trie(ids)
        trie_s = time.monotonic() - begin
        trie_mb = (psutil.Process().memory_info().rss - before) / 2**20
        runs: dict[str, list[dict[str, Any]]] = {way: [] for way in WAYS}
        for _ in range(rounds):
            for way in WAYS:
                runs[way].append(_apart(root, way, num_units))
    best = {way: max(run["tokens_per_s"] for run in found) for way, found in runs.items()}
    figures = {
        "benchmark": "million",
        "num_items": num_items,
        "words_per_item": ids.word_len,
        "words": ids.num_words,
        "codes_of_last_level": ids.sizes[-1],
        "build_s": round(build_s, 1),
        "trie_nodes": trie.num_nodes,
        "trie_s": round(trie_s, 1),
        "trie_mb": round(trie_mb),
        "tokens_per_s": best,
        "ratio": round(best["constrained"] / best["free"], 3),
        "ratio_no_repeats": round(best["no repeats"] / best["free"], 3),
        "events": {way: found[0]["events"] for way, found in runs.items()},
        "invalid": {way: found[0]["invalid"] for way, found in runs.items()},
        "repeated": {way: found[0]["repeated"] for way, found in runs.items()},
    }
    for name, value in figures.items():
        print(f"{name:22} {value}")
    print(json.dumps(figures))


def _vectors(num_items: int) -> np.ndarray:
    """(I, 64) float32: 2,000 clusters of different sizes, and noise."""
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(2000, 64)).astype(np.float32)
    share = 1 / np.arange(1, 2001)
    cluster = rng.choice(2000, num_items, p=share / share.sum())
    return centres[cluster] + 0.5 * rng.normal(size=(num_items, 64)).astype(np.float32)


def _save(root: str, ids: SemanticIds) -> None:
    import torch

    from llmaug.lm.causal.model import CausalLm, save

    torch.manual_seed(0)
    names = pa.array([f"{number:07d}" for number in range(len(ids.codes))])
    columns = {"item_id": names, "origin": pa.repeat("real", len(names))}
    table = pa.table(
        [columns.get(field.name, pa.nulls(len(names), field.type)) for field in ITEM], schema=ITEM
    )
    vocabulary = of_items(table)
    language = Language(ids.num_words, items=ids)
    save(Storage(root), "lm", CausalLm(CausalConfig(**LM), vocabulary, 1, language), vocabulary, {})


def _apart(root: str, way: str, num_units: int) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, __file__, "--child", root, way, str(num_units)], text=True,
        stdout=subprocess.PIPE,
        env={**os.environ, "VLLM_ENABLE_V1_MULTIPROCESSING": "0", "VLLM_LOGGING_LEVEL": "ERROR",
             "VLLM_CPU_KVCACHE_SPACE": "2", "VLLM_CPU_OMP_THREADS_BIND": "nobind",
             "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, f"{way} failed"
    return json.loads(done.stdout.splitlines()[-1])


def _child(root: str, way: str, num_units: int) -> dict[str, Any]:
    from vllm import LLM

    ids = read_ids(Storage(root), "lm")
    assert ids is not None
    config = parse_config({"lm": LM})
    folder = str(Path(root, "lm"))
    arguments = vllm_arguments(folder, config.generate, config.lm.context_len, on_gpu=False)
    if way == "free":
        arguments.pop("logits_processors")
    llm = LLM(**arguments)
    units = _units(ids, num_units, forbid_repeats=way == "no repeats")
    parameters = [sampling_params(units, number) for number in range(len(units))]
    prompts = [{"prompt_token_ids": prompt} for prompt in units.prompts]
    begin = time.monotonic()
    answers = llm.generate(prompts, parameters, use_tqdm=False)
    seconds = time.monotonic() - begin
    tokens = [list(answer.outputs[0].token_ids) for answer in answers]
    items = [ids.read(row) for row in tokens]
    histories = units.also_seen
    return {
        "tokens_per_s": round(sum(map(len, tokens)) / seconds, 1),
        "events": sum(map(len, items)),
        "invalid": sum(row.count(-1) for row in items),
        "repeated": sum(
            len(row) - len(set(row) - set(seen or ()))
            for row, seen in zip(items, histories, strict=True)
        ),
    }


def _units(ids: SemanticIds, num_units: int, forbid_repeats: bool) -> Units:
    rng = np.random.default_rng(2)
    histories = rng.integers(len(ids.codes), size=(num_units, HISTORY_LEN)) + NUM_SPECIAL
    sampling = {
        "temperature": 1.0, "top_p": 1.0, "top_k": -1,
        "max_tokens": NUM_EVENTS * ids.word_len, "forbid_repeats": forbid_repeats,
    }  # fmt: skip
    rows = [
        {
            "unit_id": f"{number:032x}",
            "strategy": "continue",
            "sample": 0,
            "prompt": [BOS, *ids.spell(history).tolist()],
            "sampling": sampling,
            "seed": number,
            "places": [HISTORY_LEN],
            "also_seen": history.tolist(),
        }
        for number, history in enumerate(histories)
    ]
    return Units(pa.Table.from_pylist(rows, schema=UNIT))


if __name__ == "__main__":
    if "--child" in sys.argv:
        root, way, num_units = sys.argv[2:]
        print(json.dumps(_child(root, way, int(num_units))))
    else:
        typer.run(main)
