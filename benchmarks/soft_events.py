"""What a behaviour model says of every position of a history: our own forward pass against vLLM.

For each event of many histories the k likeliest items and their probabilities: by the product
(`llmaug/lm/causal/chances.py`), by its parts, and by vLLM, which is asked once a user (BOS +
history, one new token, `prompt_logprobs` and `logprobs` of k). All of it in float32 on one core, in
CPU seconds of the process: other load does not count. Random weights. With `--losses`: what it
costs to learn from them, against the same loss without.

    python benchmarks/soft_events.py --num-users 500 --k 50
    python benchmarks/soft_events.py --losses --num-items 17000

2026-11-28, on a busy machine: vLLM took 2.4 and 4.9 times the CPU of our own pass. Losses: see
notes/train.md.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pyarrow as pa
import typer

from llmaug.config import CausalConfig, GenerateConfig
from llmaug.core.cluster import WORKER_ENV
from llmaug.core.storage import Storage
from llmaug.items.vocabulary import BOS, NUM_SPECIAL, of_items
from llmaug.schema import ITEM

CONTEXT_LEN = 64


def main(
    num_users: Annotated[int, typer.Option(help="Histories.")] = 500,
    k: Annotated[int, typer.Option(help="Items of each event.")] = 50,
    num_items: Annotated[int, typer.Option(help="Items in the catalogue.")] = 2000,
    vllm: Annotated[bool, typer.Option(help="Ask vLLM, too.")] = True,
    losses: Annotated[bool, typer.Option("--losses", help="Only the losses.")] = False,
) -> None:
    if losses:
        print(json.dumps(_apart("", "losses", num_users, k, num_items)))
        return
    with tempfile.TemporaryDirectory() as root:
        folder = f"{root}/model"
        _make_model(folder, num_items)
        ways = ("forward", "vllm") if vllm else ("forward",)
        found = {way: _apart(folder, way, num_users, k, num_items) for way in ways}
        print(json.dumps({"benchmark": "soft_events", "k": k, **found}))
        for way, figures in found.items():
            for name, figure in figures.items():
                print(f"{way:8} {name:28} {figure}")
        if vllm:
            print(json.dumps(_agreement(folder)))


def _make_model(folder: str, num_items: int) -> None:
    import torch

    from llmaug.lm.causal.model import CausalLm, save

    torch.manual_seed(0)
    vocabulary = of_items(_catalogue(num_items))
    model = CausalLm(CausalConfig(context_len=CONTEXT_LEN), vocabulary, 1)
    with torch.no_grad():  # as far from uniform as a trained model
        model.llama.model.embed_tokens.weight.mul_(15)
    save(Storage(str(Path(folder).parent)), Path(folder).name, model, vocabulary, {})


def _catalogue(num_items: int) -> pa.Table:
    rows = [{"item_id": f"{n:05d}", "origin": "real"} for n in range(num_items)]
    return pa.Table.from_pylist(rows, schema=ITEM)


def _prompts(num_users: int, num_items: int) -> list[list[int]]:
    """BOS and histories of 4 to 62 items, 17 on average."""
    rng = np.random.default_rng(0)
    lengths = np.clip(3 + rng.geometric(1 / 15, num_users), 4, CONTEXT_LEN - 2)
    return [[BOS, *(NUM_SPECIAL + rng.integers(num_items, size=n)).tolist()] for n in lengths]


def _apart(folder: str, way: str, *numbers: int) -> dict[str, Any]:
    """In a process of its own: vLLM sets state of the whole process."""
    command = [sys.executable, __file__, "--child", folder, way, *map(str, numbers)]
    own = {**os.environ, **WORKER_ENV, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, text=True, stdout=subprocess.PIPE, env=own)
    assert done.returncode == 0, f"{way} failed"
    return json.loads(done.stdout.splitlines()[-1])


# -- our own forward pass ----------------------------------------------------------------------


def _forward(folder: str, prompts: list[list[int]], k: int) -> dict[str, Any]:
    import torch
    from transformers import LlamaForCausalLM

    from llmaug.lm.causal.chances import CausalChances, _batches, top_k

    torch.set_num_threads(1)
    llama: Any = LlamaForCausalLM.from_pretrained(
        folder, dtype=torch.float32, use_safetensors=True, trust_remote_code=False
    )
    num_words, num = llama.config.vocab_size, sum(len(prompt) - 1 for prompt in prompts)
    product = CausalChances([llama], num_words)

    def units(forbid_repeats: bool) -> list[dict[str, Any]]:
        sampling = {"top_k": k, "forbid_repeats": forbid_repeats}
        return [{"prompt": prompt, "also_seen": None, "sampling": sampling} for prompt in prompts]

    def parts_of_it(softmax: bool) -> None:
        """The generator's own pass over the events; `softmax`: to the logarithms of all chances."""
        for rows in _batches([len(prompt) for prompt in prompts]):
            states = product._states([np.array(prompts[row], np.int32) for row in rows])
            for some in states.split(256) if softmax else ():
                (some @ product._table.T).log_softmax(1)

    noise = torch.randn(256, -(-num_words // 8) * 8)

    def top_k_by_torch() -> None:
        for _ in range(0, num, 256):
            noise.topk(k, 1)

    def our_top_k() -> None:
        for _ in range(0, num, 256):
            top_k(noise.numpy(), k)

    forbid, allow = units(True), units(False)
    figures: dict[str, Any] = {"events": num}
    with torch.inference_mode():
        for name, run in {
            "blocks_only": lambda: parts_of_it(False),
            "forward_to_log_softmax": lambda: parts_of_it(True),
            "soft_events": lambda: product.chances(allow),
            "soft_events_without_repeats": lambda: product.chances(forbid),
            "top_k_of_noise": our_top_k,
            "top_k_of_noise_by_torch": top_k_by_torch,
        }.items():
            run()
            figures[name] = _figure(run, num, 3)
    found = {row: each for row, each in enumerate(product.chances(allow[:300]))}
    _save(folder, "forward", {row: (each.tokens, each.chances) for row, each in found.items()})
    return figures


# -- vLLM --------------------------------------------------------------------------------------


def _vllm(folder: str, prompts: list[list[int]], k: int) -> dict[str, Any]:
    for name, value in {
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0", "VLLM_LOGGING_LEVEL": "ERROR",
        "VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    }.items():  # fmt: skip
        os.environ.setdefault(name, value)
    from vllm import EngineArgs, LLMEngine, SamplingParams
    from vllm.sampling_params import RequestOutputKind

    from llmaug.generate.vllm_arguments import vllm_arguments

    config = GenerateConfig(dtype="float32")
    started = time.process_time()
    engine = LLMEngine.from_engine_args(
        EngineArgs(**vllm_arguments(folder, config, CONTEXT_LEN, False), max_logprobs=k)
    )
    num = sum(len(prompt) - 1 for prompt in prompts)
    figures: dict[str, Any] = {"start_cpu_s": round(time.process_time() - started, 1)}
    parameters = SamplingParams(
        max_tokens=1, temperature=0.0, detokenize=False, ignore_eos=True, prompt_logprobs=k,
        logprobs=k, flat_logprobs=True, output_kind=RequestOutputKind.FINAL_ONLY,
    )  # fmt: skip

    def ask() -> dict[int, Any]:
        """Flat lists as (T, k) arrays."""
        for number, prompt in enumerate(prompts):
            engine.add_request(str(number), {"prompt_token_ids": prompt}, parameters)
        by_prompt = {}
        while engine.has_unfinished_requests():
            for output in engine.step():
                if output.finished:
                    found = output.prompt_logprobs
                    tokens = np.array(found.token_ids, np.int32).reshape(-1, k + 1)[:, 1:]
                    values = np.array(found.logprobs, np.float32).reshape(-1, k + 1)[:, 1:]
                    row = int(output.request_id.split("-")[0])
                    by_prompt[row] = (tokens, np.exp(values))
        return by_prompt

    by_prompt = ask()  # warm
    figures["soft_events"] = _figure(ask, num, 3)
    _save(folder, "vllm", {row: by_prompt[row] for row in range(min(300, len(prompts)))})
    return figures


# -- losses ------------------------------------------------------------------------------------


def _losses(prompts: list[list[int]], k: int, num_items: int) -> dict[str, Any]:
    """CPU milliseconds of a loss and its gradients, and of a training step of SASRec, at 3,000
    events: plain and with soft targets, in turn. Popular items come more often."""
    import torch
    from torch import Tensor

    from llmaug import recommenders
    from llmaug.config import SasrecConfig
    from llmaug.training import losses
    from llmaug.training.soft import Soft, sampled_soft_softmax

    torch.set_num_threads(1)
    torch.manual_seed(0)
    popularity = 1 / torch.arange(1, num_items + 1) ** 0.8
    vocabulary = of_items(_catalogue(num_items))
    rows = torch.randperm(len(prompts))[: max(1, 3000 * len(prompts) // sum(map(len, prompts)))]
    lengths = torch.tensor([len(prompts[row]) for row in rows])
    width = int(lengths.max())
    tokens = NUM_SPECIAL + torch.multinomial(popularity, len(rows) * width, True).view(-1, width)
    tokens[:, 0] = BOS
    tokens[torch.arange(width) >= lengths[:, None]] = 0
    weights = (tokens >= NUM_SPECIAL).float()
    top = torch.stack([torch.multinomial(popularity, k) for _ in range(tokens.numel())])
    soft = (NUM_SPECIAL + top).view(*tokens.shape, k), torch.rand(*tokens.shape, k).softmax(2) * 0.8
    counts = np.bincount(tokens[weights > 0], minlength=num_items + NUM_SPECIAL)
    config = SasrecConfig(loss="sampled_softmax")
    model = recommenders.build(config, recommenders.DataFacts(vocabulary, target_counts=counts))
    table, real = model.table(), weights[:, 1:] > 0
    users = torch.randn(int(real.sum()), config.embedding_dim, requires_grad=True)
    targets = tokens[:, 1:][real]
    of_targets = Soft(*(each[:, 1:][real] for each in soft))
    ones = torch.ones(len(targets))

    def sampled(with_soft: bool) -> Tensor:
        negatives = model._negatives(targets)
        if with_soft:
            return sampled_soft_softmax(users, table, targets, ones, of_targets, 0.5, negatives)
        return losses.sampled_softmax(users, table, targets, negatives).mean()

    found: dict[str, Any] = {"events": len(targets), "items": num_items, "k": k}
    for name, run in {
        "loss": sampled,
        "step": lambda with_soft: model(tokens, weights, *(soft if with_soft else ())),
    }.items():
        times: dict[bool, list[float]] = {False: [], True: []}
        for number in range(2 * 16):
            started = time.process_time()
            run(number % 2 == 1).backward()
            times[number % 2 == 1].append(time.process_time() - started)
        plain, soft_ = (1000 * statistics.median(each[1:]) for each in times.values())
        found |= {f"{name}_ms": round(plain, 1), f"soft_{name}_ms": round(soft_, 1),
                  f"{name}_ratio": round(soft_ / plain, 3)}  # fmt: skip
    return found


# -- common ------------------------------------------------------------------------------------


def _figure(run: Any, num_events: int, times: int) -> dict[str, Any]:
    """The median of CPU seconds."""
    seconds = []
    for _ in range(times):
        started = time.process_time()
        run()
        seconds.append(time.process_time() - started)
    median = statistics.median(seconds)
    return {"cpu_s": round(median, 3), "events_per_s": round(num_events / median)}


def _save(folder: str, way: str, by_prompt: dict[int, Any]) -> None:
    flat = {}
    for row, (tokens, values) in by_prompt.items():
        flat |= {f"t{row}": tokens, f"v{row}": values}
    np.savez(Path(folder, way), **flat)


def _agreement(folder: str) -> dict[str, Any]:
    """Of the first prompts: the share of the same items, and the largest difference of a chance
    among them. vLLM gives special tokens chances, too: these are taken out."""
    mine, theirs = (np.load(Path(folder, f"{way}.npz")) for way in ("forward", "vllm"))
    shared, total, worst = 0, 0, 0.0
    for name in (name for name in mine.files if name[0] == "t"):
        for a, b, x, y in zip(
            mine[name], theirs[name], mine["v" + name[1:]], theirs["v" + name[1:]], strict=True
        ):
            _, own, other = np.intersect1d(a, b, return_indices=True)
            possible = 1 - y[b < NUM_SPECIAL].sum()
            shared, total = shared + len(own), total + (b >= NUM_SPECIAL).sum()
            worst = max(worst, float(np.abs(x[own] - y[other] / possible).max()))
    return {
        "agreement": round(shared / total, 6),
        "largest_difference_of_a_chance": worst,
        "compared": int(total),
    }


if __name__ == "__main__":
    if "--child" in sys.argv:
        folder, way = sys.argv[2:4]
        num_users, k, num_items = map(int, sys.argv[4:])
        prompts = _prompts(num_users, num_items)
        if way == "losses":
            print(json.dumps(_losses(prompts, k, num_items)))
        else:
            ways = {"forward": _forward, "vllm": _vllm}
            print(json.dumps(ways[way](folder, prompts, k)))
    else:
        typer.run(main)
