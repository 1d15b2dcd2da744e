"""The engine that serves behaviour models and chat models by vLLM."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import pyarrow as pa

from llmaug.config import STRATEGIES, GenerateConfig
from llmaug.core.gpus import vllm_build
from llmaug.errors import UserError
from llmaug.generate.engines import TOKENS, Finished
from llmaug.generate.units import Units
from llmaug.generate.vllm_arguments import vllm_arguments
from llmaug.items.vocabulary import EOS
from llmaug.schema import SAID


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
        schema: dict[str, Any] | None = None,
        images: bool = False,
    ) -> None:
        """num_tokens: of the model, control tokens included. letters: of a chat model, the
        tokens of the letters by which it chooses. schema: of a chat model that is asked for
        texts, the JSON schema that its answers are limited to. images: whether one goes with
        each question (`add_one`)."""
        _check_build(on_gpu)
        os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")  # one process an engine
        os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
        os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", str(max(1, round(config.kv_cache_gib))))
        # Co-located engines would all be bound to the same cores.
        os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", "nobind")
        os.environ.setdefault("OMP_NUM_THREADS", str(max(1, int(config.num_cpus))))
        from vllm import EngineArgs, LLMEngine

        self._num_tokens, self._context_len = num_tokens, context_len
        self._letters, self._schema = letters, schema
        arguments = vllm_arguments(model_folder, config, context_len, on_gpu, images)
        if letters or schema:
            arguments.pop("logits_processors")
        if schema:  # a grammar is over the tokenizer's texts
            arguments |= {"skip_tokenizer_init": False, "structured_outputs_config": _STRUCTURED}
        try:
            self._engine = LLMEngine.from_engine_args(EngineArgs(**arguments))
        except (TypeError, ValueError, NotImplementedError) as error:
            raise UserError(
                "vLLM does not start; of the settings of generate it looks at quantization, "
                f"engine_args, dtype, the parallel sizes and the memory of GPUs: {error}"
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
        refused = []
        for key, number in enumerate(numbers.tolist(), first_key):
            if why := self.add_one(key, units, number):
                refused.append((number, why))
        return refused

    def add_one(self, key: int, units: Units, number: int, image: Any = None) -> str:
        """Queue a row, with the image (of Pillow) that goes with it; returns why it is refused, or
        ''."""
        from vllm.v1.engine.exceptions import EngineDeadError

        try:
            self._add(str(key), units, number, image)
        except EngineDeadError:  # no fault of the unit
            raise
        except Exception as error:
            return str(error) or repr(error)
        self._running.add(str(key))
        return ""

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
            said=_said(done) if self._schema else None,
        )

    def abort(self) -> None:
        self._engine.abort_request(list(self._running))
        self._running.clear()

    def _add(self, key: str, units: Units, number: int, image: Any) -> None:
        prompt, sampling = units.prompts[number], units.sampling(number)
        if not prompt:
            raise ValueError("empty prompt")
        self._check_room(len(prompt), sampling["max_tokens"])
        if not 0 <= min(prompt) <= max(prompt) < self._num_tokens:
            raise ValueError(f"prompt has token ids outside 0..{self._num_tokens - 1}")
        if self._schema:
            parameters = text_params(units, number, self._schema)
        else:
            parameters = sampling_params(units, number, self._letters)
        asked: Any = {"prompt_token_ids": prompt}
        if image is not None:
            asked["multi_modal_data"] = {"image": image}
            [asked] = self._engine.renderer.render_cmpl([asked])  # its tokens in the prompt
            self._check_room(len(asked["prompt_token_ids"]), sampling["max_tokens"])
        self._engine.add_request(key, asked, parameters)

    def _check_room(self, num_asked: int, num_new: int) -> None:
        if num_asked + num_new > self._context_len:
            raise ValueError(
                f"{num_asked} prompt and {num_new} new tokens are more than the context of "
                f"{self._context_len}"
            )


# Without it a small model may go on with blanks until the answer has to end.
_STRUCTURED = {"backend": "xgrammar", "disable_any_whitespace": True}


def _said(done: list[Any]) -> pa.Table:
    """The tokens of a question are counted with those that stand for its image."""
    rows = [
        {"text": output.outputs[0].text, "asked_tokens": len(output.prompt_token_ids or ())}
        for output in done
    ]
    return pa.Table.from_pylist(rows, schema=SAID)


def text_params(units: Units, number: int, schema: dict[str, Any]) -> Any:
    """vLLM's SamplingParams for a row of `units` of a text task."""
    from vllm import SamplingParams
    from vllm.sampling_params import RequestOutputKind, StructuredOutputsParams

    sampling = units.sampling(number)
    sampling.pop("forbid_repeats")
    return SamplingParams(
        **sampling,
        seed=int(units.seeds[number]),
        structured_outputs=StructuredOutputsParams(json=schema),
        output_kind=RequestOutputKind.FINAL_ONLY,
    )


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
    needs = STRATEGIES.find(units.strategies[number]).needs
    may_end = needs == "infill"
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
            "in_order": needs in ("forward", "new_user"),
            "forbid_repeats": forbid_repeats,
            "also_seen": units.also_seen[number],
            "may_repeat": units.may_repeat[number],
        },
    )
