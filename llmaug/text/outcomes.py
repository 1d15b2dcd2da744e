"""Stage `text/<task>/outcomes`: the answers, by the machinery of behaviour units: exactly one
outcome a unit, the outcomes cache, limits of the budget, retries, kills."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from llmaug.config import Config, EndpointConfig
from llmaug.core.gpus import uses_gpus
from llmaug.core.model_files import fetch_model
from llmaug.core.placing import Ask
from llmaug.core.stage import Context
from llmaug.generate.engine_maker import vllm_gpus
from llmaug.generate.engines import EngineMaker
from llmaug.generate.stage import Asked, answer_plan
from llmaug.generate.units import Units
from llmaug.generate.vllm_engine import VllmEngine
from llmaug.schema import GENERATED
from llmaug.text.endpoint import EndpointEngine
from llmaug.text.image_engine import ImageEngine
from llmaug.text.images import images_of
from llmaug.text.model import ChatModel, chat_model
from llmaug.text.task import Task


def run(task: Task, context: Context) -> dict[str, Any]:
    context = replace(context, track=task.track)
    counts = answer_plan(context, asked(task, context))
    endpoint = context.config.text.endpoint
    if context.config.text.engine != "openai" or endpoint is None:
        return counts
    if priced := cost_note(endpoint, counts):
        context.progress.note(f"{task.name}: {priced}")
    return counts


def cost_note(endpoint: EndpointConfig, counts: dict[str, Any]) -> str:
    """What the answers cost, for people to read; empty without prices. Tokens are counted of
    answers from the cache, too, which were paid for on an earlier night."""
    cost = endpoint.cost(counts["prompt_tokens"], counts["output_tokens"])
    if not cost:
        return ""
    hits = counts["cache_hits"]
    free = f", {hits:,} of which came from the outcomes cache and cost nothing now" if hits else ""
    return f"{cost:,.4f} by the price list of text.endpoint for {counts[GENERATED]:,} answers{free}"


def asked(task: Task, context: Context) -> Asked:
    model, config = chat_model(context, bool(task.images)), context.config
    on_gpus = bool(_num_gpus(config, True)) and uses_gpus(config.ray)
    num_gpus = _num_gpus(config, on_gpus)
    return Asked(
        model.name,
        lambda parts: _engine_maker(task, context, model, num_gpus > 0),
        lambda num_units: lambda: TextLook(task),
        lambda: num_gpus,
    )


def engines(config: Config, on_gpus: bool) -> Ask:
    """What the pool asks Ray for."""
    own = config.generate
    fields = "generate.num_actors, generate.num_cpus, generate.num_gpus"
    return Ask("engine of texts", own.num_cpus, _num_gpus(config, on_gpus), own.num_actors,
               fields=fields)  # fmt: skip


def _num_gpus(config: Config, on_gpus: bool) -> float:
    return vllm_gpus(config.generate, on_gpus) if config.text.engine == "vllm" else 0


def _engine_maker(task: Task, context: Context, model: ChatModel, on_gpu: bool) -> EngineMaker:
    storage, config = context.storage, context.config
    images = images_of(task.images, context)
    if config.text.engine == "openai":
        endpoint = config.text.endpoint
        assert endpoint is not None
        return lambda: EndpointEngine(endpoint, task.schema, images)
    generate, context_len, schema = config.generate, config.text.context_len, task.schema

    def in_vllm() -> VllmEngine:
        return VllmEngine(
            fetch_model(storage, model.folder, model.digest), generate, context_len,
            model.num_tokens, on_gpu, schema=schema, images=images is not None,
        )  # fmt: skip

    if images is None:
        return in_vllm
    return lambda: ImageEngine(in_vllm(), images, generate.max_num_seqs)


class TextLook:
    """Shows which share of the answers is by the schema, while they come."""

    def __init__(self, task: Task) -> None:
        self._task = task

    def at(self, units: Units, kind: int, answers: pa.Table) -> dict[str, int]:
        said = answers.filter(pc.is_null(answers["reason"]))["text"].to_pylist()
        accepted = sum(self._parses(text or "") for text in said)
        return {"accepted": accepted, "rejected": len(said) - accepted}

    def quota(self, kind: int) -> int | None:
        return None

    def judge(self, units: Units, kind: int, train_part: str) -> Any:
        raise NotImplementedError("text tasks have no quotas")

    def _parses(self, text: str) -> bool:
        try:
            self._task.parse(text)
        except ValueError:
            return False
        return True
