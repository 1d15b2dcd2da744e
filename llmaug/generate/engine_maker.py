"""Which engine answers the units of a run, and on how many GPUs."""

from __future__ import annotations

from llmaug.core.cluster import has_gpus
from llmaug.core.model_files import fetch_model
from llmaug.core.stage import Context
from llmaug.generate.engines import AnswerEngine, EngineMaker, UniformEngine, VllmEngine
from llmaug.items.vocabulary import load
from llmaug.lm.folder import CONFIG, read_notes
from llmaug.lm.generator import Generator
from llmaug.lm.models import check_model, load_answers


def engine_maker(context: Context, generator: Generator) -> EngineMaker:
    """What an actor calls to start its engine; picklable and small."""
    storage, config = context.storage, context.config
    vocabulary = load(storage, generator.vocabulary)
    if generator.model is None:
        num_items, rate = vocabulary.num_items, config.generate.simulated_tokens_per_s
        return lambda: UniformEngine(num_items, rate)
    folder, version = generator.model, generator.model_digest
    if generator.kind == "instruct":
        return _chat_model(context, generator)
    found = check_model(storage, folder, generator.kind, vocabulary)
    if generator.kind != "causal":
        kind = generator.kind
        return lambda: AnswerEngine(load_answers(storage, folder, kind, vocabulary, version))
    num_tokens, on_gpu = found.num_tokens, num_gpus(context) > 0
    return lambda: VllmEngine(
        fetch_model(storage, folder, version), config.generate, config.lm.context_len,
        num_tokens, on_gpu,
    )  # fmt: skip


def _chat_model(context: Context, generator: Generator) -> EngineMaker:
    storage, config = context.storage, context.config
    assert generator.model is not None and generator.side is not None
    folder, notes = generator.model, read_notes(storage, generator.side, "instruct")
    num_tokens = storage.read_json(folder, CONFIG)["vocab_size"]
    version, letters, on_gpu = notes["model_digest"], notes["letters"], num_gpus(context) > 0
    return lambda: VllmEngine(
        fetch_model(storage, folder, version), config.generate, config.lm.context_len,
        num_tokens, on_gpu, letters,
    )  # fmt: skip


def num_gpus(context: Context) -> float:
    """GPUs of each engine: as configured, or one where the cluster has any and the model is
    a neural one."""
    config = context.config.generate
    if config.num_gpus is not None:
        return config.num_gpus
    if config.engine != "vllm" or context.config.lm.model == "ngram":
        return 0
    return 1 if has_gpus(context.config.ray) else 0
