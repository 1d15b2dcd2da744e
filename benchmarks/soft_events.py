"""What a behaviour model says of every position of a history: vLLM against our own forward pass.

For each position of many histories the k likeliest next items and the logarithms of their
probabilities. vLLM is asked once a user (BOS + history, one new token, `prompt_logprobs` and
`logprobs` of k); the other ways are transformers' Llama in batches of like lengths. All of it in
float32 on one core, in CPU seconds of the process: other load does not count. Random weights.

    python benchmarks/soft_events.py --num-users 1500 --k 50
"""

from __future__ import annotations

import cProfile
import json
import os
import pstats
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pyarrow as pa
import typer

from llmaug.config import GenerateConfig, LmConfig
from llmaug.core.storage import Storage
from llmaug.items.vocabulary import BOS, NUM_SPECIAL, of_items
from llmaug.schema import ITEM

NUM_ITEMS, CONTEXT_LEN = 2000, 64
TOKENS_AT_ONCE = 4096
"""Of a batch, padding included."""


def main(
    num_users: Annotated[int, typer.Option(help="Histories.")] = 1500,
    k: Annotated[int, typer.Option(help="Items of each position.")] = 50,
) -> None:
    with tempfile.TemporaryDirectory() as root:
        folder = f"{root}/model"
        _make_model(folder)
        found = {way: _apart(folder, way, num_users, k) for way in ("forward", "vllm")}
        print(json.dumps({"benchmark": "soft_events", "k": k, **found}))
        for way, figures in found.items():
            for name, figure in figures.items():
                print(f"{way:8} {name:28} {figure}")
        print(json.dumps(_agreement(folder)))


def _make_model(folder: str) -> None:
    import torch

    from llmaug.lm.causal.model import CausalLm, save

    torch.manual_seed(0)
    rows = [{"item_id": f"{n:05d}", "origin": "real"} for n in range(NUM_ITEMS)]
    vocabulary = of_items(pa.Table.from_pylist(rows, schema=ITEM))
    model = CausalLm(LmConfig(context_len=CONTEXT_LEN), vocabulary, 1)
    with torch.no_grad():  # as far from uniform as a trained model
        model.llama.model.embed_tokens.weight.mul_(15)
    save(Storage(str(Path(folder).parent)), Path(folder).name, model, vocabulary, {})


def _prompts(num_users: int) -> list[list[int]]:
    """BOS and histories of 4 to 62 items, 17 on average."""
    rng = np.random.default_rng(0)
    lengths = np.clip(3 + rng.geometric(1 / 15, num_users), 4, CONTEXT_LEN - 2)
    return [[BOS, *(NUM_SPECIAL + rng.integers(NUM_ITEMS, size=n)).tolist()] for n in lengths]


def _apart(folder: str, way: str, num_users: int, k: int) -> dict[str, Any]:
    """In a process of its own: vLLM sets state of the whole process."""
    command = [sys.executable, __file__, "--child", folder, way, str(num_users), str(k)]
    done = subprocess.run(
        command, text=True, stdout=subprocess.PIPE, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    assert done.returncode == 0, f"{way} failed"
    return json.loads(done.stdout.splitlines()[-1])


# -- our own forward pass ----------------------------------------------------------------------


def _forward(folder: str, prompts: list[list[int]], k: int) -> dict[str, Any]:
    import torch
    from transformers import AutoModelForCausalLM

    torch.set_num_threads(1)
    model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    table, num = model.get_input_embeddings().weight, sum(map(len, prompts))

    def hidden() -> Iterator[tuple[list[int], Any]]:
        for rows, tokens, real in _batches(prompts):
            out = model.model(input_ids=torch.from_numpy(tokens), use_cache=False)
            yield rows, out.last_hidden_state[torch.from_numpy(real)]

    def blocks_only() -> None:
        for _ in hidden():
            pass

    def log_softmax() -> None:
        for _, states in hidden():
            for some in states.split(256):
                (some @ table.T).log_softmax(1)

    def top_k(forbid_repeats: bool, fast: bool = True) -> list[Any]:
        found = []
        for rows, states in hidden():
            seen, place = _seen([prompts[row] for row in rows]), 0
            for some in states.split(256):
                logits = some @ table.T
                if forbid_repeats:
                    logits[:, :NUM_SPECIAL] = -torch.inf
                    inside = (seen[:, 0] >= place) & (seen[:, 0] < place + len(some))
                    own = torch.from_numpy(seen[inside])
                    logits[own[:, 0] - place, own[:, 1]] = -torch.inf
                total = logits.logsumexp(1, keepdim=True).numpy()
                if fast:
                    columns, values = _top_k(logits.numpy(), k)
                else:
                    values, columns = (x.numpy() for x in logits.topk(k, 1))
                found.append((rows, columns, values - total))
                place += len(some)
        return found

    figures: dict[str, Any] = {"positions": num}
    with torch.inference_mode():
        for name, run in {
            "blocks_only": blocks_only,
            "forward_to_log_softmax": log_softmax,
            "top_k_by_torch": lambda: top_k(False, fast=False),
            "top_k": lambda: top_k(False),
            "top_k_of_allowed": lambda: top_k(True),
        }.items():
            run()
            figures[name] = _figure(run, num, 5)
        # For the comparison: in the order of the prompts, of all tokens.
        by_prompt: dict[int, Any] = {}
        for rows, _, _ in _batches(prompts):
            for row in rows:
                logits = model(input_ids=torch.tensor([prompts[row]])).logits[0]
                top = logits.log_softmax(1).topk(k, 1)
                by_prompt[row] = (top.indices.numpy(), top.values.numpy())
            if len(by_prompt) > 300:
                break
    _save(folder, "forward", by_prompt)
    return figures


def _top_k(logits: np.ndarray, k: int, group: int = 8) -> tuple[np.ndarray, np.ndarray]:
    """The same as torch's `topk`, (N, V) to (N, k) columns and logits, a quarter of its time at
    2,000 columns: the k-th highest of the highest of groups is no more than the k-th highest of
    all, and few are above it. At least k x group columns.
    """
    num_rows, num_columns = logits.shape
    num_groups = num_columns // group
    highest = logits[:, : num_groups * group].reshape(num_rows, group, num_groups).max(1)
    least = np.partition(highest, num_groups - k, 1)[:, num_groups - k]
    found = np.flatnonzero(logits >= least[:, None])
    row, column = np.divmod(found, num_columns)
    num_found = np.bincount(row, minlength=num_rows)
    place = np.arange(len(found)) - (np.cumsum(num_found) - num_found)[row]
    values = np.full((num_rows, num_found.max()), -np.inf, np.float32)
    columns = np.zeros(values.shape, np.int32)
    values[row, place], columns[row, place] = logits.ravel()[found], column
    order = np.argsort(-values, 1)[:, :k]
    return np.take_along_axis(columns, order, 1), np.take_along_axis(values, order, 1)


def _batches(prompts: list[list[int]]) -> Iterator[tuple[list[int], np.ndarray, np.ndarray]]:
    """(rows, (B, T) tokens, (B, T) whether they are real) of prompts of about the same length."""
    order = sorted(range(len(prompts)), key=lambda row: len(prompts[row]))
    start = 0
    while start < len(order):
        end = start + 1
        while end < len(order) and (end + 1 - start) * len(prompts[order[end]]) <= TOKENS_AT_ONCE:
            end += 1
        rows = order[start:end]
        lengths = np.array([len(prompts[row]) for row in rows])
        real = np.arange(lengths[-1]) < lengths[:, None]
        tokens = np.zeros(real.shape, np.int64)
        tokens[real] = np.concatenate([prompts[row] for row in rows])
        yield rows, tokens, real
        start = end


def _seen(prompts: list[list[int]]) -> np.ndarray:
    """(N, 2) pairs of a position, counted over all prompts, and a token at or before it."""
    found, first = [], 0
    for prompt in prompts:
        after, token = np.tril_indices(len(prompt))
        found.append(np.c_[first + after, np.array(prompt)[token]])
        first += len(prompt)
    return np.concatenate(found)


# -- vLLM --------------------------------------------------------------------------------------


def _vllm(folder: str, prompts: list[list[int]], k: int) -> dict[str, Any]:
    for name, value in {
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0", "VLLM_LOGGING_LEVEL": "ERROR",
        "VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    }.items():  # fmt: skip
        os.environ.setdefault(name, value)
    from vllm import EngineArgs, LLMEngine, SamplingParams
    from vllm.sampling_params import RequestOutputKind

    from llmaug.generate.engines import vllm_arguments

    config = GenerateConfig(dtype="float32")
    started = time.process_time()
    engine = LLMEngine.from_engine_args(
        EngineArgs(**vllm_arguments(folder, config, CONTEXT_LEN, False), max_logprobs=k)
    )
    num = sum(map(len, prompts))
    figures: dict[str, Any] = {
        "positions": num,
        "start_cpu_s": round(time.process_time() - started, 1),
    }
    figures["max_num_batched_tokens"] = engine.vllm_config.scheduler_config.max_num_batched_tokens
    figures["max_num_seqs"] = engine.vllm_config.scheduler_config.max_num_seqs

    def ask(flat: bool, num_prompt: int | None) -> list[Any]:
        parameters = SamplingParams(
            max_tokens=1, temperature=0.0, detokenize=False, ignore_eos=True,
            prompt_logprobs=num_prompt, logprobs=num_prompt, flat_logprobs=flat,
            output_kind=RequestOutputKind.FINAL_ONLY,
        )  # fmt: skip
        for number, prompt in enumerate(prompts):
            engine.add_request(str(number), {"prompt_token_ids": prompt}, parameters)
        found = []
        while engine.has_unfinished_requests():
            found += [output for output in engine.step() if output.finished]
        return found

    def arrays() -> dict[int, Any]:
        """What soft events need: flat lists as (T, k) arrays."""
        by_prompt = {}
        for output in ask(True, k):
            prompt, last = output.prompt_logprobs, output.outputs[0].logprobs
            tokens = np.array([*prompt.token_ids, *last.token_ids], np.int32).reshape(-1, k + 1)
            values = np.array([*prompt.logprobs, *last.logprobs], np.float32).reshape(-1, k + 1)
            by_prompt[int(output.request_id.split("-")[0])] = (tokens[:, 1:], values[:, 1:])
        return by_prompt

    by_prompt = arrays()  # warm
    engine.reset_prefix_cache()
    for name, run in {
        "flat_to_arrays": arrays,
        "flat": lambda: ask(True, k),
        "not_flat": lambda: ask(False, k),
        "flat_k_1": lambda: ask(True, 1),
        "no_logprobs": lambda: (engine.reset_prefix_cache(), ask(True, None)),
    }.items():
        figures[name] = _figure(run, num, 3)
    profile = cProfile.Profile()
    profile.runcall(arrays)
    with open("/tmp/soft_events_profile.txt", "w") as out:
        pstats.Stats(profile, stream=out).sort_stats("tottime").print_stats(45)
        pstats.Stats(profile, stream=out).sort_stats("cumtime").print_stats(70)
    _save(folder, "vllm", by_prompt)
    return figures


# -- common ------------------------------------------------------------------------------------


def _figure(run: Any, num_positions: int, times: int) -> dict[str, Any]:
    """The median of CPU seconds."""
    seconds = []
    for _ in range(times):
        started = time.process_time()
        run()
        seconds.append(time.process_time() - started)
    median = statistics.median(seconds)
    return {"cpu_s": round(median, 3), "positions_per_s": round(num_positions / median)}


def _save(folder: str, way: str, by_prompt: dict[int, Any]) -> None:
    flat = {}
    for row, (tokens, values) in by_prompt.items():
        flat |= {f"t{row}": tokens, f"v{row}": values}
    np.savez(Path(folder, way), **flat)


def _agreement(folder: str) -> dict[str, Any]:
    """Of the prompts that both ways answered: the same items, and the largest difference of a
    logarithm."""
    mine, theirs = (np.load(Path(folder, f"{way}.npz")) for way in ("forward", "vllm"))
    shared, total, worst, in_order = 0, 0, 0.0, 0
    for name in (name for name in mine.files if name[0] == "t"):
        for a, b, x, y in zip(
            mine[name], theirs[name], mine["v" + name[1:]], theirs["v" + name[1:]], strict=True
        ):
            shared += len(np.intersect1d(a, b))
            in_order += int((a == b).sum())
            total += len(a)
            worst = max(worst, float(np.abs(x - y).max()))
    return {
        "agreement": round(shared / total, 6),
        "same_rank": round(in_order / total, 6),
        "largest_difference_of_a_log": worst,
        "compared": total,
    }


if __name__ == "__main__":
    if "--child" in sys.argv:
        folder, way, num_users, k = sys.argv[2:]
        ways = {"forward": _forward, "vllm": _vllm}
        print(json.dumps(ways[way](folder, _prompts(int(num_users)), int(k))))
    else:
        typer.run(main)
