"""Output tokens a second: the generate stage against the bare engine, on the same units.

(a) all units at once through one engine in one process; (b) the stage: units read from
storage, the engine in a Ray Data actor, outcomes written to storage. Both after engine
start. The model is a random Llama of the size of a behaviour model.

    python benchmarks/generate.py --num-units 4000
"""

from __future__ import annotations

import json
import tempfile
import time
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pyarrow as pa
import typer

from llmaug.cluster import connect, disconnect
from llmaug.config import LmConfig, parse_config
from llmaug.generate import Generator, VllmEngine
from llmaug.schema import ITEM, UNIT
from llmaug.stage import Context, map_parts
from llmaug.storage import Storage
from llmaug.vocabulary import NUM_SPECIAL, Vocabulary, of_items

NUM_ITEMS, HISTORY_LEN, NUM_EVENTS = 1400, 30, 20
LM = LmConfig(hidden_size=128, num_layers=4, num_heads=4, context_len=64)


def main(
    num_units: Annotated[int, typer.Option(help="Units to generate.")] = 4000,
    units_per_part: Annotated[int, typer.Option(help="Units in one part.")] = 1000,
) -> None:
    with tempfile.TemporaryDirectory() as root:
        context = Context(Storage(root), parse_config({"lm": LM.model_dump()}), "benchmark")
        _write_inputs(context.storage, num_units, units_per_part)
        bare = _in_worker(context, num_units)
        stage = _through_stage(context, num_units)
        disconnect()
    figures = {
        "benchmark": "generate",
        "num_units": num_units,
        "bare_tokens_per_s": round(bare, 1),
        "stage_tokens_per_s": round(stage, 1),
        "ratio": round(stage / bare, 3),
    }
    for name, value in figures.items():
        print(f"{name:20} {value}")
    print(json.dumps(figures))


def _vocabulary() -> Vocabulary:
    rows = [{"item_id": f"{n:05d}", "origin": "real"} for n in range(NUM_ITEMS)]
    return of_items(pa.Table.from_pylist(rows, schema=ITEM))


def _write_inputs(storage: Storage, num_units: int, units_per_part: int) -> None:
    import torch

    from llmaug.lm.causal import CausalLm, save

    torch.manual_seed(0)
    vocabulary = _vocabulary()
    save(storage, "lm", CausalLm(LM, vocabulary, 1), vocabulary, {})
    rng = np.random.default_rng(0)
    sampling = {"temperature": 1.0, "top_p": 1.0, "top_k": -1, "max_tokens": NUM_EVENTS}
    for start in range(0, num_units, units_per_part):
        units = [
            {
                "unit_id": str(number),
                "strategy": "continue",
                "sample": 0,
                "prompt": (rng.integers(NUM_ITEMS, size=HISTORY_LEN) + NUM_SPECIAL).tolist(),
                "sampling": sampling,
                "seed": number,
            }
            for number in range(start, min(start + units_per_part, num_units))
        ]
        table = pa.Table.from_pylist(units, schema=UNIT)
        storage.write_part(table, {}, "plan", f"part-{start:07d}")


def _in_worker(context: Context, num_units: int) -> float:
    """Tokens a second of the bare engine, in a Ray worker as the stage's engine is."""
    import ray

    connect(context.config.ray)
    storage, config = context.storage, context.config

    def run() -> float:
        tables = [storage.read_part("plan", part) for part in storage.parts("plan")]
        units = pa.concat_tables(tables).to_pylist()
        engine = _engine(storage, config)
        begin = time.monotonic()
        answers = engine.answer(units)
        return sum(map(len, answers)) / (time.monotonic() - begin)

    return float(ray.get(ray.remote(run).remote()))


def _through_stage(context: Context, num_units: int) -> float:
    """Tokens a second between the first unit's start and the last outcome's write."""
    storage, config = context.storage, context.config
    map_parts(
        context, "outcomes", storage.parts("plan"), Generator,
        fn_constructor_kwargs={"storage": storage, "plan": "plan", "folder": "outcomes",
                               "engine": lambda: _engine(storage, config)},
        concurrency=(1, 1),
    )  # fmt: skip
    notes = [Path(storage.path("outcomes", f"{p}.json")) for p in storage.parts("outcomes")]
    ends = {note: note.stat().st_mtime for note in notes}
    first = min(notes, key=ends.__getitem__)
    begin = ends[first] - json.loads(first.read_text())["counts"]["engine_ms"] / 1000
    return num_units * NUM_EVENTS / (max(ends.values()) - begin)


def _engine(storage: Storage, config: Any) -> VllmEngine:
    tokens = NUM_SPECIAL + NUM_ITEMS
    return VllmEngine(storage.fetch_folder("lm", "benchmark"), config.generate, LM, tokens, False)


if __name__ == "__main__":
    typer.run(main)
