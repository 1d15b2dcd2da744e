"""Units in, Outcomes out: a fixed pool of engines, spread by Ray Data.

One part of the plan is one Ray Data row. An actor reads the part's units, runs them all
through its engine, and writes the part's outcomes: exactly one outcome a unit, failures
with their reason. A part that is written is never generated again, so a killed run
repeats at most the parts that were in flight.

The engine is driven through vLLM's own `add_request`/`step` loop rather than through
`ray.data.llm`: a bad unit must become a failed outcome without touching its neighbours,
the model folder may lie on storage that only we can read, and one process an engine keeps
sampling reproducible.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
import pyarrow as pa

from llmaug.cluster import connect
from llmaug.config import GenerateConfig, LmConfig
from llmaug.errors import UserError
from llmaug.schema import FAILED, GENERATED, OUTCOME, validate
from llmaug.stage import Context, Stage, map_parts
from llmaug.storage import Storage
from llmaug.vocabulary import NUM_SPECIAL, Vocabulary, load


def run(context: Context) -> dict[str, Any]:
    config, storage = context.config, context.storage
    plan, folder = context.folder("plan"), context.folder("outcomes")
    vocabulary = load(storage, context.folder("vocabulary"))
    num_gpus = _num_gpus(context)
    if config.generate.engine == "vllm":
        from llmaug.lm.causal import check_vocabulary

        lm_folder = context.folder(f"lm/{config.lm.name}")
        check_vocabulary(storage, lm_folder, vocabulary)
        engine: Callable[[], Engine] = VllmEngine.spec(
            storage, lm_folder, context, vocabulary, num_gpus
        )
    else:
        engine = UniformEngine.spec(vocabulary)
    counts = map_parts(
        context,
        folder,
        storage.parts(plan),
        Generator,
        fn_constructor_kwargs={
            "storage": storage,
            "plan": plan,
            "folder": folder,
            "engine": engine,
        },
        concurrency=(config.generate.num_actors, config.generate.num_actors),
        num_cpus=config.generate.num_cpus,
        num_gpus=num_gpus,
    )
    num_units = context.manifest("plan")["counts"]["units"]
    assert counts["units"] == num_units == counts[GENERATED] + counts[FAILED], counts
    if num_units and counts[FAILED] == num_units:
        raise UserError(f"all {num_units} units failed: {_first_failure(storage, folder)}")
    seconds = counts.pop("engine_ms") / 1000
    rate = round(counts["output_tokens"] / seconds, 1) if seconds else 0.0
    return {**counts, "engine_seconds": seconds, "output_tokens_per_s": rate}


class Engine(Protocol):
    """What runs units."""

    def answer(self, units: list[dict[str, Any]]) -> list[list[int] | str]:
        """Token ids for each unit, or `reason: detail` where it failed."""


class Generator:
    """A Ray Data actor: one engine, loaded once."""

    def __init__(self, storage: Storage, plan: str, folder: str, engine: Callable[[], Any]) -> None:
        self._storage, self._plan, self._folder = storage, plan, folder
        self._engine = engine()

    def __call__(self, part: str) -> dict[str, Any]:
        units = self._storage.read_part(self._plan, part).to_pylist()
        begin = time.monotonic()
        answers = self._engine.answer(units)
        seconds = time.monotonic() - begin
        outcomes = [
            _outcome(unit, answer, seconds / len(units))
            for unit, answer in zip(units, answers, strict=True)
        ]
        table = validate(pa.Table.from_pylist(outcomes, schema=OUTCOME), OUTCOME, part)
        num_failed = sum(outcome["status"] == FAILED for outcome in outcomes)
        counts = {
            "units": len(units),
            GENERATED: len(units) - num_failed,
            FAILED: num_failed,
            "output_tokens": sum(outcome["num_generated_tokens"] for outcome in outcomes),
            "engine_ms": int(seconds * 1000),
        }
        self._storage.write_part(table, counts, self._folder, part)
        return counts


def _outcome(unit: dict[str, Any], answer: list[int] | str, seconds: float) -> dict[str, Any]:
    failed = isinstance(answer, str)
    reason, _, detail = answer.partition(": ") if isinstance(answer, str) else (None, "", None)
    return {
        "unit_id": unit["unit_id"],
        "user_id": unit["user_id"],
        "strategy": unit["strategy"],
        "sample": unit["sample"],
        "status": FAILED if failed else GENERATED,
        "reason": reason,
        "detail": detail,
        "tokens": [] if failed else answer,
        "num_prompt_tokens": len(unit["prompt"] or []),
        "num_generated_tokens": 0 if failed else len(answer),
        "engine_seconds": seconds,
        "attempts": 1,
    }


class UniformEngine:
    """Items drawn at random: a control generator that the gate must refuse."""

    def __init__(self, num_items: int) -> None:
        self._num_items = num_items

    @staticmethod
    def spec(vocabulary: Vocabulary) -> Callable[[], UniformEngine]:
        num_items = vocabulary.num_items
        return lambda: UniformEngine(num_items)

    def answer(self, units: list[dict[str, Any]]) -> list[list[int] | str]:
        """Token ids for each unit, or `reason: detail` where it failed."""
        return [
            (
                np.random.default_rng(unit["seed"]).integers(
                    self._num_items, size=unit["sampling"]["max_tokens"]
                )
                + NUM_SPECIAL
            ).tolist()
            for unit in units
        ]


class VllmEngine:
    """A behaviour model in vLLM, token ids in and out."""

    def __init__(
        self, model_folder: str, config: GenerateConfig, lm: LmConfig, num_tokens: int, on_gpu: bool
    ) -> None:
        os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")  # one process an engine
        os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
        os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", str(max(1, round(config.kv_cache_gib))))
        # Co-located engines would all be bound to the same cores.
        os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", "nobind")
        os.environ.setdefault("OMP_NUM_THREADS", str(max(1, int(config.num_cpus))))
        from vllm import EngineArgs, LLMEngine

        self._num_tokens = num_tokens
        self._context_len = lm.context_len
        self._engine = LLMEngine.from_engine_args(
            EngineArgs(
                model=model_folder,
                skip_tokenizer_init=True,
                dtype=config.dtype,
                max_model_len=lm.context_len,
                max_num_seqs=config.max_num_seqs,
                enable_prefix_caching=True,
                # vLLM rewinds a seeded generator after a prompt that was cut into chunks, and
                # dies of it on CPUs ("CPU Generator does not use offset", vLLM 0.32): prompts
                # of behaviour models are short, there they go in whole.
                enable_chunked_prefill=on_gpu,
                enforce_eager=not on_gpu,
                disable_log_stats=True,
                seed=0,
            )
        )

    @staticmethod
    def spec(
        storage: Storage,
        folder: str,
        context: Context,
        vocabulary: Vocabulary,
        num_gpus: float,
    ) -> Callable[[], VllmEngine]:
        config, lm = context.config.generate, context.config.lm
        version = context.manifest(f"lm/{lm.name}")["counts"]["model_digest"]
        num_tokens = vocabulary.num_tokens
        on_gpu = num_gpus > 0
        return lambda: VllmEngine(
            storage.fetch_folder(folder, version), config, lm, num_tokens, on_gpu
        )

    def answer(self, units: list[dict[str, Any]]) -> list[list[int] | str]:
        """Token ids for each unit, or `reason: detail` where it failed."""
        from vllm import RequestOutput
        from vllm.v1.engine.exceptions import EngineDeadError

        answers: dict[str, list[int] | str] = {}
        for number, unit in enumerate(units):
            try:
                self._add(str(number), unit)
            except EngineDeadError:  # no fault of the unit: the run stops and can resume
                raise
            except Exception as error:
                answers[str(number)] = f"refused_by_engine: {error}"
        while self._engine.has_unfinished_requests():
            for output in self._engine.step():
                if output.finished and isinstance(output, RequestOutput):
                    answers[output.request_id] = list(output.outputs[0].token_ids)
        return [answers.get(str(n), "no_answer: the engine lost it") for n in range(len(units))]

    def _add(self, request_id: str, unit: dict[str, Any]) -> None:
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        prompt, sampling = unit["prompt"], unit["sampling"]
        if not prompt:
            raise ValueError("empty prompt")
        if len(prompt) + sampling["max_tokens"] > self._context_len:
            raise ValueError(
                f"{len(prompt)} prompt and {sampling['max_tokens']} new tokens are more than "
                f"the context of {self._context_len}"
            )
        if not 0 <= min(prompt) <= max(prompt) < self._num_tokens:
            raise ValueError(f"prompt has token ids outside 0..{self._num_tokens - 1}")
        params = SamplingParams(
            **sampling,
            seed=unit["seed"],
            min_tokens=sampling["max_tokens"],
            ignore_eos=True,
            # Only items can come out; what slips through a bias the filter rejects.
            logit_bias={token: -100.0 for token in range(NUM_SPECIAL)},
            detokenize=False,
            output_kind=RequestOutputKind.FINAL_ONLY,
        )
        self._engine.add_request(request_id, {"prompt_token_ids": prompt}, params)


def _num_gpus(context: Context) -> float:
    """GPUs of each engine: as configured, or one where the cluster has any."""
    config = context.config.generate
    if config.num_gpus is not None or config.engine != "vllm":
        return config.num_gpus or 0
    import ray

    connect(context.config.ray)
    return 1 if ray.cluster_resources().get("GPU") else 0


def _first_failure(storage: Storage, folder: str) -> str:
    first = storage.read_part(folder, storage.parts(folder)[0]).slice(0, 1).to_pylist()[0]
    return f"{first['reason']}: {first['detail']}"


STAGE = Stage(
    name="outcomes",
    run=run,
    inputs=("plan", "vocabulary"),
    settings=lambda config: config.generate,
)
