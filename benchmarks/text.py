"""The texts of a run: how diverse, how grounded, in which language; and what they cost.

Asks SmolLM2 for descriptions of `--num-items` films of MovieLens through the whole pipeline, and
the same questions with the same seeds in `vllm.LLM.chat`, in turn, for the ratio of output tokens
a second after engine start, on the same number of threads each. With `--root` and `--run` it
measures the texts of a run that there is, and asks nobody.

    python benchmarks/text.py --num-items 512
    python benchmarks/text.py --root data --run nightly --task describe_items

`said` are all answers by the schema, `kept` those that the filters let through. distinct-n: runs of
n words that differ, of all. Self-BLEU: of each text against the others; 1 is alike.
Near-duplicates: texts with another one whose Jaccard similarity of runs of three words is 0.8 or
more (MinHash). Grounded: content words that stand in the fields that the model was shown. Needs
nltk and datasketch (extra `bench`).
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from typing import Annotated, Any

import numpy as np
import typer
from answers import rows_of
from inputs import SAME_PRIORITY, described_films, smollm2

from llmaug import pipeline
from llmaug.commands.datasets import write_ml_100k
from llmaug.config import Config
from llmaug.core.cluster import WORKER_ENV, disconnect
from llmaug.core.stage import Context
from llmaug.core.storage import Storage
from llmaug.core.stored import read_config
from llmaug.schema import ACCEPTED
from llmaug.text.answers import table_rows
from llmaug.text.filters import is_in_language, words_of
from llmaug.text.model import chat_model
from llmaug.text.prompts import Asking
from llmaug.text.safety import unsafe
from llmaug.text.task import Task, task_of

_BLEU_TEXTS, _MIN_WORD = 200, 4
RUN = "texts"


def main(
    num_items: Annotated[int, typer.Option(help="Films to describe.")] = 512,
    rounds: Annotated[int, typer.Option(help="Take turns so often; the best counts.")] = 1,
    threads: Annotated[int, typer.Option(help="Of each of both ways.")] = 1,
    root: Annotated[str, typer.Option(help="Of a run that there is.")] = "",
    run: Annotated[str, typer.Option(help="Its id.")] = RUN,
    task: Annotated[str, typer.Option(help="The text task in question.")] = "describe_items",
) -> None:
    figures: dict[str, Any] = {"benchmark": "text", "task": task}
    with tempfile.TemporaryDirectory() as own_root:
        if not root:
            root = own_root
            figures |= throughput(root, num_items, rounds, threads)
        storage = Storage(root)
        figures |= measure(Context(storage, read_config(storage, run), run), task)
    for name, value in figures.items():
        print(f"{name:24} {value}")
    print(json.dumps(figures, ensure_ascii=False))


# -- what it costs ------------------------------------------------------------------------


def throughput(root: str, num_items: int, rounds: int, threads: int) -> dict[str, Any]:
    """Both ways in processes of their own, so that none inherits another's warm state."""
    write_ml_100k(f"{root}/logs")
    found: dict[str, list[float]] = {"pipeline": [], "chat": []}
    # OpenMP reads it once, when torch is imported: later it would change nothing, and the one way
    # would have all cores and the other as many as the config says.
    environment = {**os.environ, **WORKER_ENV, **SAME_PRIORITY, "OMP_NUM_THREADS": str(threads)}
    for _ in range(rounds):
        for way, rates in found.items():
            done = subprocess.run(
                [sys.executable, __file__, "--child", way, root, str(num_items), str(threads)],
                text=True, stdout=subprocess.PIPE, env=environment,
            )  # fmt: skip
            assert done.returncode == 0, f"{way} failed"
            rates.append(json.loads(done.stdout.splitlines()[-1]))
    best = {way: max(rates) for way, rates in found.items()}
    return {
        "num_items": num_items,
        "threads": threads,
        "pipeline_tokens_per_s": best["pipeline"],
        "chat_tokens_per_s": best["chat"],
        "ratio": round(best["pipeline"] / best["chat"], 3),
        "all_rounds": found,
    }


def _config(root: str, num_items: int, threads: int) -> Config:
    generate = {"dtype": "bfloat16", "max_num_seqs": 64, "kv_cache_gib": 2.0, "num_cpus": threads}
    return described_films(root, num_items, {}, generate)


def _child(way: str, root: str, num_items: int, threads: int) -> None:
    storage, config = Storage(root), _config(root, num_items, threads)
    if way == "chat":
        print(json.dumps(_chat(Context(storage, config, RUN))))
        return
    storage.delete(f"runs/{RUN}/text/describe_items")
    done = pipeline.run(config, storage, RUN, until="text")
    disconnect()
    print(json.dumps(done["text/describe_items/outcomes"]["counts"]["span_tokens_per_s"]))


def _chat(context: Context) -> float:
    """Output tokens a second of `LLM.chat` with the questions and the seeds of the plan, in its
    order: other seeds are other answers, and a few long ones at the end run almost alone."""
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
    os.environ["VLLM_LOGGING_LEVEL"] = "ERROR"
    os.environ["VLLM_CPU_KVCACHE_SPACE"] = str(round(context.config.generate.kv_cache_gib))
    os.environ["VLLM_CPU_OMP_THREADS_BIND"] = "nobind"
    from vllm import LLM, SamplingParams
    from vllm.sampling_params import StructuredOutputsParams

    from llmaug.generate.vllm_arguments import vllm_arguments

    text = context.config.text
    task = task_of(text, text.tasks[0])
    arguments = vllm_arguments(smollm2(), context.config.generate, text.context_len, on_gpu=False)
    arguments.pop("logits_processors")
    arguments |= {
        "skip_tokenizer_init": False,
        "structured_outputs_config": {"backend": "xgrammar", "disable_any_whitespace": True},
    }
    llm = LLM(**arguments)
    texts = _questions(context, task)
    units = list(rows_of(context, f"{task.track}/plan"))
    questions = [texts[unit["item_id"]] for unit in units]
    own = task.sampling
    parameters = [
        SamplingParams(
            temperature=own.temperature, top_p=own.top_p, top_k=own.top_k, seed=unit["seed"],
            max_tokens=task.max_new_tokens,
            structured_outputs=StructuredOutputsParams(json=task.schema),
        )
        for unit in units
    ]  # fmt: skip
    begin = time.monotonic()
    messages: Any = [[{"role": "user", "content": question}] for question in questions]
    answers = llm.chat(messages, parameters, use_tqdm=False)
    seconds = time.monotonic() - begin
    return round(sum(len(answer.outputs[0].token_ids) for answer in answers) / seconds, 1)


def _questions(context: Context, task: Task) -> dict[str | None, str]:
    """By item."""
    asking = Asking(context.storage, chat_model(context), task, context.config.text.context_len)
    return {
        row.item_id: asking.question(row).text
        for part in context.storage.parts(context.folder(task.table))
        for row in table_rows(context.storage, task, f"runs/{context.run_id}", part)
    }


# -- what was said ------------------------------------------------------------------------


def measure(context: Context, name: str) -> dict[str, Any]:
    storage, text = context.storage, context.config.text
    task = task_of(text, next(own for own in text.tasks if own.name == name))
    fields = {
        row.key: row.fields
        for part in storage.parts(context.folder(task.table))
        for row in table_rows(storage, task, f"runs/{context.run_id}", part)
    }
    said: list[tuple[str, set[str]]] = []
    kept: list[tuple[str, set[str]]] = []
    verdicts = list(rows_of(context, f"{task.track}/filtered"))
    for row in verdicts:
        if row["answer"] is None:
            continue
        shown = fields[row["item_id"], row["user_id"]]
        words = set(words_of(json.dumps(dict(shown), ensure_ascii=False, default=str)))
        texts = [(each, words) for each in task.texts(json.loads(row["answer"]))]
        said += texts
        kept += texts if row["status"] == ACCEPTED else []
    prompts = [len(row["prompt"] or ()) for row in rows_of(context, f"{task.track}/plan")]
    outputs = [row["num_generated_tokens"] for row in rows_of(context, f"{task.track}/outcomes")]
    return {
        "units": len(verdicts),
        "parsed_share": round(
            sum(row["answer"] is not None for row in verdicts) / len(verdicts), 4
        ),
        "accepted": sum(row["status"] == ACCEPTED for row in verdicts),
        "said": of_texts(said, task.language),
        "kept": of_texts(kept, task.language),
        "prompt_tokens": histogram(prompts),
        "output_tokens": histogram(outputs),
    }


def of_texts(texts: Sequence[tuple[str, set[str]]], language: str) -> dict[str, float]:
    """texts: with the words that the model was shown."""
    if not texts:
        return {"texts": 0}
    words = [words_of(text) for text, _ in texts]
    in_language = sum(is_in_language(text, language) for text, _ in texts)
    grounded = [share for (_, shown), own in zip(texts, words, strict=True)
                if (share := _grounded(own, shown)) is not None]  # fmt: skip
    return {
        "texts": len(texts),
        "distinct_1": distinct(words, 1),
        "distinct_2": distinct(words, 2),
        "distinct_3": distinct(words, 3),
        "self_bleu": self_bleu(words[:_BLEU_TEXTS]),
        "near_duplicates": near_duplicates(words),
        "in_language": round(in_language / len(texts), 4),
        "grounded": round(float(np.mean(grounded)), 4) if grounded else 0.0,
        "unsafe": sum(unsafe(text) is not None for text, _ in texts),
    }


def distinct(texts: Sequence[Sequence[str]], n: int) -> float:
    runs = [tuple(own[k : k + n]) for own in texts for k in range(len(own) - n + 1)]
    return round(len(set(runs)) / len(runs), 4) if runs else 0.0


def self_bleu(texts: Sequence[Sequence[str]]) -> float:
    """Mean BLEU-4 of each text against all others (Zhu et al. 2018), smoothed."""
    from nltk.translate.bleu_score import SmoothingFunction, sentence_bleu

    smooth = SmoothingFunction().method1
    found = [
        sentence_bleu([*texts[:n], *texts[n + 1 :]], own, smoothing_function=smooth)
        for n, own in enumerate(texts)
    ]
    return round(float(np.mean(found)), 4)


def near_duplicates(texts: Sequence[Sequence[str]], threshold: float = 0.8) -> float:
    """Share of the texts that are like another one."""
    from datasketch import MinHash, MinHashLSH

    index, hashes = MinHashLSH(threshold=threshold, num_perm=128), []
    for number, own in enumerate(texts):
        hashed = MinHash(num_perm=128)
        for start in range(max(1, len(own) - 2)):
            hashed.update(" ".join(own[start : start + 3]).encode())
        index.insert(str(number), hashed)
        hashes.append(hashed)
    return round(sum(len(index.query(hashed)) > 1 for hashed in hashes) / len(texts), 4)


def _grounded(words: Sequence[str], shown: set[str]) -> float | None:
    from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS

    content = [word for word in words if word not in ENGLISH_STOP_WORDS
               and (len(word) >= _MIN_WORD or not word.isascii())]  # fmt: skip
    return sum(word in shown for word in content) / len(content) if content else None


def histogram(values: Sequence[int]) -> dict[str, Any]:
    counts, edges = np.histogram(values, bins=8)
    bins = {f"{low:.0f}-{high:.0f}": int(n)
            for low, high, n in zip(edges, edges[1:], counts, strict=False)}  # fmt: skip
    return {"mean": round(float(np.mean(values)), 1), "max": int(max(values)), "bins": bins}


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        _child(sys.argv[2], sys.argv[3], int(sys.argv[4]), int(sys.argv[5]))
    else:
        typer.run(main)
