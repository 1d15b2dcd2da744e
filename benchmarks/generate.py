"""Output tokens a second: the generate stage against vLLM alone and against `ray.data.llm`.

The same units, model and engine arguments
(a) straight through `vllm.LLM.generate` in one process;
(b) through our stage: units read from storage, engines in Ray Data actors, outcomes written to
    storage, ledger checked; from the first unit in the engine to the last outcome written;
(c) with `--ray-data-llm`: through `ray.data.llm`, token ids in and out, without any storage.
All after engine start. Without `--model` the model is a random Llama of the size of a behaviour
model, and every token is one event; with `--model` (a Hugging Face folder, such as SmolLM2) the
same number of units asks for `--num-tokens` tokens of text.

    python benchmarks/generate.py --num-units 20000
    python benchmarks/generate.py --smollm2 --num-units 512 --num-tokens 48 --dtype bfloat16
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from typing import Annotated, Any

import pyarrow as pa
import typer
from inputs import SAME_PRIORITY, fake_run, smollm2

from llmaug.config import Config, parse_config
from llmaug.core.cluster import WORKER_ENV, connect, disconnect
from llmaug.core.stage import Context
from llmaug.core.storage import Storage
from llmaug.generate.stage import run
from llmaug.generate.units import Units
from llmaug.generate.vllm_arguments import vllm_arguments
from llmaug.generate.vllm_engine import sampling_params


def main(
    num_units: Annotated[int, typer.Option(help="Units to generate.")] = 4000,
    num_tokens: Annotated[int, typer.Option(help="Tokens of each answer.")] = 20,
    units_per_part: Annotated[int, typer.Option(help="Units in one part.")] = 512,
    use_smollm2: Annotated[bool, typer.Option("--smollm2", help="SmolLM2-135M, prose.")] = False,
    dtype: Annotated[str, typer.Option(help="Of weights and activations.")] = "float32",
    max_num_seqs: Annotated[int, typer.Option(help="Units in flight in the engine.")] = 256,
    ray_data_llm: Annotated[bool, typer.Option(help="Measure ray.data.llm, too.")] = False,
    rounds: Annotated[int, typer.Option(help="Take turns so often; the best counts.")] = 1,
) -> None:
    generate = {"dtype": dtype, "max_num_seqs": max_num_seqs, "use_cache": False}
    lm = {"hidden_size": 128, "num_layers": 4, "num_heads": 4, "context_len": 64}
    if use_smollm2:
        generate["kv_cache_gib"] = 2.0
        lm = {"context_len": 512}
    config = parse_config({"lm": lm, "generate": generate})
    with tempfile.TemporaryDirectory() as root:
        folder = smollm2() if use_smollm2 else None
        context = Context(Storage(root), config, "benchmark")
        model = fake_run(context, num_units, num_tokens, units_per_part, folder)
        found: dict[str, list[dict[str, float]]] = {"bare": [], "stage": [], "ray": []}
        for _ in range(rounds):
            found["bare"].append(_apart("bare", context, model))
            found["stage"].append(_apart("stage", context, model))
            if ray_data_llm:
                found["ray"].append(_apart("ray", context, model))
    best = {
        name: max(runs, key=lambda run: run["tokens_per_s"]) for name, runs in found.items() if runs
    }
    bare, stage = best["bare"]["tokens_per_s"], best["stage"]["tokens_per_s"]
    figures = {
        "benchmark": "generate",
        "model": "SmolLM2-135M" if use_smollm2 else "behaviour model",
        "num_units": num_units,
        "num_tokens": num_tokens,
        "bare_tokens_per_s": bare,
        "stage_tokens_per_s": stage,
        "ratio": round(stage / bare, 3),
        "idle_share": best["stage"]["idle_share"],
        "start_up_s": {name: run["start_up_s"] for name, run in best.items()},
        "events_per_s": round(stage if not use_smollm2 else stage / TOKENS_OF_A_TITLE, 1),
    }
    if ray_data_llm:
        figures["ray_data_llm_tokens_per_s"] = best["ray"]["tokens_per_s"]
        figures["ray_data_llm_ratio"] = round(best["ray"]["tokens_per_s"] / bare, 3)
    figures["all_rounds"] = {
        name: [run["tokens_per_s"] for run in runs] for name, runs in found.items() if runs
    }
    for name, value in figures.items():
        print(f"{name:26} {value}")
    print(json.dumps(figures))


TOKENS_OF_A_TITLE = 10
"""Tokens of one event written as prose (a film's title and year, one a line) in SmolLM2."""


def _apart(way: str, context: Context, model: str) -> dict[str, float]:
    """Run one way in a process of its own, so that none inherits another's warm state."""
    task = {"root": context.storage.root, "config": context.config.model_dump(mode="json"),
            "model": model, "way": way}  # fmt: skip
    done = subprocess.run(
        [sys.executable, __file__, "--child"], input=json.dumps(task), text=True,
        stdout=subprocess.PIPE, env={**os.environ, **WORKER_ENV, **SAME_PRIORITY},
    )  # fmt: skip
    assert done.returncode == 0, f"{way} failed"
    return json.loads(done.stdout.splitlines()[-1])


def _child() -> None:
    task = json.loads(sys.stdin.read())
    context = Context(Storage(task["root"]), Config(**task["config"]), "benchmark")
    ways = {"bare": _bare, "stage": _stage, "ray": _ray_data_llm}
    print(json.dumps(ways[task["way"]](context, task["model"])))


def _bare(context: Context, model: str) -> dict[str, float]:
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
    os.environ["VLLM_LOGGING_LEVEL"] = "ERROR"
    os.environ["VLLM_CPU_KVCACHE_SPACE"] = str(round(context.config.generate.kv_cache_gib))
    os.environ["VLLM_CPU_OMP_THREADS_BIND"] = "nobind"
    os.environ["OMP_NUM_THREADS"] = "1"
    from vllm import LLM

    config = context.config
    begin = time.monotonic()
    llm = LLM(**vllm_arguments(model, config.generate, config.lm.context_len, on_gpu=False))
    start_up_s = time.monotonic() - begin
    units = _units(context)
    begin = time.monotonic()
    parameters = [sampling_params(units, n) for n in range(len(units))]
    prompts = [{"prompt_token_ids": prompt} for prompt in units.prompts]
    answers = llm.generate(prompts, parameters, use_tqdm=False)
    seconds = time.monotonic() - begin
    tokens = sum(len(answer.outputs[0].token_ids) for answer in answers)
    return {"tokens_per_s": round(tokens / seconds, 1), "start_up_s": round(start_up_s, 1)}


def _stage(context: Context, model: str) -> dict[str, float]:
    context.storage.delete(context.folder("outcomes"))
    begin = time.time()
    counts = run(context)
    disconnect()
    start_up_s = time.time() - begin - counts["span_s"]
    return {
        "tokens_per_s": counts["span_tokens_per_s"],
        "idle_share": counts["idle_share"],
        "start_up_s": round(start_up_s, 1),
    }


def _ray_data_llm(context: Context, model: str) -> dict[str, float]:
    import ray
    from ray.data.llm import build_processor, vLLMEngineProcessorConfig

    connect(context.config.ray)
    config = context.config
    arguments = vllm_arguments(model, config.generate, config.lm.context_len, on_gpu=False)
    arguments.pop("model")
    units = _units(context)
    rows = [
        {"ids": ids, "number": n, "sampling": _as_dict(sampling_params(units, n))}
        for n, ids in enumerate(units.prompts)
    ]
    environment = {
        "VLLM_CPU_KVCACHE_SPACE": str(round(config.generate.kv_cache_gib)),
        "VLLM_CPU_OMP_THREADS_BIND": "nobind", "OMP_NUM_THREADS": "1",
    }  # fmt: skip
    processor = build_processor(
        vLLMEngineProcessorConfig(
            model_source=model, engine_kwargs=arguments, concurrency=(1, 1), batch_size=256,
            accelerator_type=None, log_engine_metrics=False,
            placement_group_config={"bundles": [{"CPU": 1}]},
            chat_template_stage=False, tokenize_stage=False, detokenize_stage=False,
            runtime_env={"env_vars": environment},
        ),
        preprocess=lambda row: {
            # The ids are the prompt; its text is asked for all the same.
            "tokenized_prompt": row["ids"], "prompt": "", "number": row["number"],
            "sampling_params": row["sampling"],
        },
        postprocess=lambda row: {"num_tokens": len(row["generated_tokens"])},
    )  # fmt: skip

    def measured(rows: list[dict[str, Any]]) -> tuple[float, int]:
        begin = time.monotonic()
        answers = processor(ray.data.from_items(rows)).iter_rows()
        num_tokens = sum(row["num_tokens"] for row in answers)
        return time.monotonic() - begin, num_tokens

    # It does not say when its engine is ready: what a few units take is its start-up.
    start_up_s, few = measured(rows[:8])
    seconds, tokens = measured(rows)
    disconnect()
    return {
        "tokens_per_s": round((tokens - few) / (seconds - start_up_s), 1),
        "start_up_s": round(start_up_s, 1),
    }


def _as_dict(parameters: Any) -> dict[str, Any]:
    """As `ray.data.llm` takes them."""
    names = ("temperature", "top_p", "top_k", "max_tokens", "seed", "min_tokens", "ignore_eos",
             "detokenize", "extra_args")  # fmt: skip
    return {name: getattr(parameters, name) for name in names}


def _units(context: Context) -> Units:
    plan = context.folder("plan")
    tables = [context.storage.read_part(plan, part) for part in context.storage.parts(plan)]
    return Units(pa.concat_tables(tables))


if __name__ == "__main__":
    if "--child" in sys.argv:
        _child()
    else:
        typer.run(main)
