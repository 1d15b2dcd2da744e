"""What runs units: vLLM, a model of our own, or a stand-in that draws items at random.

An engine is a queue with a `step`: units go in with a key each, finished ones come out. It is
driven through vLLM's own `add_request`/`step` loop rather than through `ray.data.llm`: a bad
unit must become a failed outcome without touching its neighbours, the model folder may lie on
storage that only we can read, and units of the next part are fed in while this one drains.
"""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import pyarrow as pa

from llmaug.config import STRATEGIES, GenerateConfig
from llmaug.core.gpus import vllm_build
from llmaug.errors import UserError
from llmaug.generate.units import Units
from llmaug.generate.vllm_arguments import vllm_arguments
from llmaug.items.vocabulary import EOS, NUM_SPECIAL
from llmaug.lm import Answers, SaysChances
from llmaug.schema import SOFT

TOKENS = pa.list_(pa.int32())


@dataclass(frozen=True)
class Finished:
    """Units that a step has finished."""

    keys: np.ndarray
    """(N,) int64."""
    tokens: pa.Array
    """(N,) lists of token ids."""
    num_cached: np.ndarray
    """(N,) int32, prompt tokens answered by the prefix cache."""
    failed: Sequence[tuple[int, str, str]] = ()
    """(key, reason, detail) of units that have no answer."""
    soft: pa.Table | None = None
    """(N,) rows of SOFT from an engine that is asked for chances."""


def together(pieces: list[Finished]) -> Finished:
    """What several steps have finished, as if one had."""
    if len(pieces) == 1:
        return pieces[0]
    return Finished(
        np.concatenate([piece.keys for piece in pieces]),
        pa.concat_arrays([piece.tokens for piece in pieces]),
        np.concatenate([piece.num_cached for piece in pieces]),
        [failure for piece in pieces for failure in piece.failed],
        None if pieces[0].soft is None else pa.concat_tables([piece.soft for piece in pieces]),
    )


class Engine(Protocol):
    """What `EngineLoop` drives, always from one thread."""

    @property
    def num_unfinished(self) -> int:
        """Units that were added and are not finished."""

    @property
    def alive(self) -> bool:
        """False when its process is gone; asked from another thread while `step` runs."""

    def add(self, units: Units, numbers: np.ndarray, first_key: int) -> list[tuple[int, str]]:
        """Queue rows `numbers`, row `numbers[i]` with key `first_key + i`; returns (number,
        why) of those refused."""

    def step(self) -> Finished | None:
        """Work for a moment; what has finished, if anything."""

    def abort(self) -> None:
        """Forget all that is unfinished."""


class _InTurn:
    """The queue of an engine that answers units in the order in which they came."""

    alive = True

    def __init__(self) -> None:
        self._queue: deque[tuple[Units, np.ndarray, int]] = deque()
        self.num_unfinished = 0

    def add(self, units: Units, numbers: np.ndarray, first_key: int) -> list[tuple[int, str]]:
        self._queue.append((units, numbers, first_key))
        self.num_unfinished += len(numbers)
        return []

    def abort(self) -> None:
        self._queue.clear()
        self.num_unfinished = 0

    def _next(self, most: int) -> tuple[list[dict[str, Any]], int]:
        """Take rows of UNIT from the queue, at most so many; the key of the first."""
        units, numbers, first_key = self._queue.popleft()
        size = min(len(numbers), most)
        self._put_back(units, numbers, first_key, size)
        return units.table.take(numbers[:size]).to_pylist(), first_key

    def _put_back(self, units: Units, numbers: np.ndarray, first_key: int, size: int) -> None:
        """What was taken from the queue, less its first `size` units, which are done."""
        if size < len(numbers):
            self._queue.appendleft((units, numbers[size:], first_key + size))
        self.num_unfinished -= size


class UniformEngine(_InTurn):
    """Items drawn at random by seed: a control generator that the gate must refuse.

    With a rate it is a stand-in for a GPU: it takes the time of one without its work, so that
    everything around the engines can be tested and measured at the size of a cluster.
    """

    STEP_S = 0.2

    def __init__(self, num_items: int, tokens_per_s: float | None = None) -> None:
        super().__init__()
        self._num_items, self._rate = num_items, tokens_per_s
        self._due = 0.0  # when the units handed out so far would have been finished

    def step(self) -> Finished | None:
        units, numbers, first_key = self._queue.popleft()
        size = len(numbers)
        if self._rate:
            self._due = max(self._due, time.monotonic())
            seconds = np.cumsum(units.max_tokens[numbers]) / self._rate
            size = max(1, int(np.searchsorted(seconds, self.STEP_S)))
            self._due += float(seconds[size - 1])
            time.sleep(max(0.0, self._due - time.monotonic()))
        self._put_back(units, numbers, first_key, size)
        drawn = numbers[:size]
        return Finished(
            first_key + np.arange(size),
            uniform_tokens(units.seeds[drawn], units.max_tokens[drawn], self._num_items),
            np.zeros(size, np.int32),
        )


def uniform_tokens(seeds: np.ndarray, lengths: np.ndarray, num_items: int) -> pa.Array:
    """For each seed a list of that many item tokens: SplitMix64 (Steele et al. 2014)."""
    place = np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    state = np.repeat(seeds.astype(np.uint64), lengths)
    state = state + (place + 1).astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    tokens = (state ^ (state >> np.uint64(31))) % np.uint64(num_items) + np.uint64(NUM_SPECIAL)
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
    return pa.ListArray.from_arrays(offsets, tokens.astype(np.int32))


class AnswerEngine(_InTurn):
    """A model that answers by itself, some units at a time (n-gram, masked)."""

    STEP_SIZE = 256

    def __init__(self, model: Answers) -> None:
        super().__init__()
        self._model = model

    def step(self) -> Finished | None:
        rows, first_key = self._next(self.STEP_SIZE)
        keys, tokens, failed = [], [], []
        for key, answer in enumerate(self._model.answer(self._model.requests(rows)), first_key):
            if isinstance(answer, str):
                reason, detail = answer.split(": ", 1)
                failed.append((key, reason, detail))
            else:
                keys.append(key)
                tokens.append(answer)
        return Finished(
            np.array(keys, np.int64), pa.array(tokens, TOKENS), np.zeros(len(keys), np.int32),
            failed,
        )  # fmt: skip


class ChancesEngine(_InTurn):
    """A model that says, of each event of a history, which items could as well have come."""

    STEP_SIZE = 512

    def __init__(self, model: SaysChances) -> None:
        super().__init__()
        self._model = model

    def step(self) -> Finished | None:
        rows, first_key = self._next(self.STEP_SIZE)
        found = self._model.chances(rows)
        soft = {
            "soft_k": [each.tokens.shape[1] for each in found],
            "soft_tokens": [each.tokens.ravel() for each in found],
            "soft_chances": [each.chances.ravel() for each in found],
        }
        return Finished(
            first_key + np.arange(len(found)),
            pa.array([each.events for each in found], TOKENS),
            np.zeros(len(found), np.int32),
            soft=pa.table(soft, SOFT),
        )


class VllmEngine:
    """A behaviour model in vLLM, token ids in and out. Only items can come out (and the end
    of a gap): `item_logits` sees to it."""

    def __init__(
        self,
        model_folder: str,
        config: GenerateConfig,
        context_len: int,
        num_tokens: int,
        on_gpu: bool,
        letters: list[int] | None = None,
    ) -> None:
        """num_tokens: of the model, control tokens included. letters: of a chat model, the
        tokens of the letters by which it chooses."""
        _check_build(on_gpu)
        os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")  # one process an engine
        os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
        os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", str(max(1, round(config.kv_cache_gib))))
        # Co-located engines would all be bound to the same cores.
        os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", "nobind")
        os.environ.setdefault("OMP_NUM_THREADS", str(max(1, int(config.num_cpus))))
        from vllm import EngineArgs, LLMEngine

        self._num_tokens, self._context_len = num_tokens, context_len
        self._letters = letters
        arguments = vllm_arguments(model_folder, config, context_len, on_gpu)
        if letters:
            arguments.pop("logits_processors")
        try:
            self._engine = LLMEngine.from_engine_args(EngineArgs(**arguments))
        except (TypeError, ValueError, NotImplementedError) as error:
            raise UserError(
                f"vLLM does not start with these settings of generate (quantization, engine_args, "
                f"the parallel sizes, dtype): {error}"
            ) from error
        self._running: set[str] = set()

    @property
    def num_unfinished(self) -> int:
        return len(self._running)

    @property
    def alive(self) -> bool:
        # vLLM 0.32 notes that the process of its engine was killed, but goes on waiting for it.
        resources = getattr(self._engine.engine_core, "resources", None)
        return resources is None or not resources.engine_dead

    def add(self, units: Units, numbers: np.ndarray, first_key: int) -> list[tuple[int, str]]:
        from vllm.v1.engine.exceptions import EngineDeadError

        refused = []
        for place, number in enumerate(numbers.tolist()):
            key = str(first_key + place)
            try:
                self._add(key, units, number)
                self._running.add(key)
            except EngineDeadError:  # no fault of the unit
                raise
            except Exception as error:
                refused.append((number, str(error)))
        return refused

    def step(self) -> Finished | None:
        from vllm import RequestOutput

        done = [
            output
            for output in self._engine.step()
            if output.finished and isinstance(output, RequestOutput)
        ]
        if not done:
            return None
        self._running.difference_update(output.request_id for output in done)
        return Finished(
            np.array([int(output.request_id) for output in done], np.int64),
            pa.array([list(output.outputs[0].token_ids) for output in done], TOKENS),
            np.array([output.num_cached_tokens or 0 for output in done], np.int32),
        )

    def abort(self) -> None:
        self._engine.abort_request(list(self._running))
        self._running.clear()

    def _add(self, key: str, units: Units, number: int) -> None:
        prompt, sampling = units.prompts[number], units.sampling(number)
        if not prompt:
            raise ValueError("empty prompt")
        if len(prompt) + sampling["max_tokens"] > self._context_len:
            raise ValueError(
                f"{len(prompt)} prompt and {sampling['max_tokens']} new tokens are more than "
                f"the context of {self._context_len}"
            )
        if not 0 <= min(prompt) <= max(prompt) < self._num_tokens:
            raise ValueError(f"prompt has token ids outside 0..{self._num_tokens - 1}")
        parameters = sampling_params(units, number, self._letters)
        self._engine.add_request(key, {"prompt_token_ids": prompt}, parameters)


def _check_build(on_gpu: bool) -> None:
    """The driver's vLLM may be another than that of the node on which the engine starts."""
    build = vllm_build()
    if build == "gpu" and not on_gpu:
        raise UserError(
            "the vLLM of this node runs on GPUs alone, and its engine has none: set ray.gpus: "
            "required, or install llmaug[cpu] on the nodes"
        )
    if build == "cpu" and on_gpu:
        raise UserError(
            "the engine was given a GPU, and the vLLM of its node runs on CPUs alone: install "
            "llmaug[gpu] on the nodes that have GPUs, or set ray.gpus: none"
        )


def sampling_params(units: Units, number: int, letters: list[int] | None = None) -> Any:
    """vLLM's SamplingParams for a row of `units`; `letters`: those of a chat model."""
    from vllm import SamplingParams
    from vllm.sampling_params import RequestOutputKind

    sampling = units.sampling(number)
    forbid_repeats = sampling.pop("forbid_repeats")
    if letters:
        offered = letters[: len(units.candidates[number] or ())]
        sampling["allowed_token_ids"] = offered
    may_end = STRATEGIES.find(units.strategies[number]).needs == "infill"
    return SamplingParams(
        **sampling,
        seed=int(units.seeds[number]),
        min_tokens=1 if may_end else sampling["max_tokens"],
        ignore_eos=True,
        stop_token_ids=[EOS] if may_end else [],
        detokenize=False,
        output_kind=RequestOutputKind.FINAL_ONLY,
        extra_args={
            "may_end": may_end,
            "forbid_repeats": forbid_repeats,
            "also_seen": units.also_seen[number],
            "may_repeat": units.may_repeat[number],
        },
    )


EngineMaker = Callable[[], Engine]
