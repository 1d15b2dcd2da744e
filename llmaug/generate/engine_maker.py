"""Which engine answers the units of a run, and on how many GPUs."""

from __future__ import annotations

from llmaug.config import imported
from llmaug.core.cluster import has_gpus
from llmaug.core.model_files import fetch_model
from llmaug.core.stage import Context
from llmaug.generate.engines import (
    AnswerEngine,
    ChancesEngine,
    EngineMaker,
    UniformEngine,
    VllmEngine,
)
from llmaug.items.vocabulary import load_vocabulary
from llmaug.lm import ByItself
from llmaug.lm.generator import Generator


def engine_maker(context: Context, generator: Generator) -> EngineMaker:
    """What an actor calls to start its engine; picklable and small."""
    storage, config = context.storage, context.config
    vocabulary = load_vocabulary(storage, generator.vocabulary)
    if generator.model is None:
        num_items, rate = vocabulary.num_items, config.generate.simulated_tokens_per_s
        return lambda: UniformEngine(num_items, rate)
    on_gpu = num_gpus(context) > 0
    if config.plan.soft:
        assert config.lm.chances is not None, config.lm.model
        load = imported(config.lm.chances)(storage, generator, vocabulary)
        num_threads = max(1, int(config.generate.num_cpus))
        return lambda: ChancesEngine(load(num_threads, on_gpu))
    served = imported(config.lm.answering)(storage, generator, vocabulary)
    if isinstance(served, ByItself):
        return lambda: AnswerEngine(served.load())
    return lambda: VllmEngine(
        fetch_model(storage, served.folder, served.version), config.generate,
        generator.context_len, served.num_tokens, on_gpu, served.letters,
    )  # fmt: skip


def num_gpus(context: Context) -> float:
    """GPUs of each engine: as configured, or one where the cluster has any and the model is
    a neural one."""
    config = context.config.generate
    if config.num_gpus is not None:
        return config.num_gpus
    if config.engine != "vllm" or not context.config.lm.is_neural:
        return 0
    return 1 if has_gpus(context.config.ray) else 0
