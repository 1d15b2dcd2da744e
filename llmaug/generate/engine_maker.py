"""Which engine answers the units of a run, and on how many GPUs."""

from __future__ import annotations

from collections.abc import Iterable

from llmaug.config import Config, GenerateConfig, StrategyConfig, imported
from llmaug.core.gpus import uses_gpus
from llmaug.core.model_files import fetch_model
from llmaug.core.placing import Ask
from llmaug.core.stage import Context
from llmaug.generate.engines import (
    AnswerEngine,
    BothEngines,
    ChancesEngine,
    EngineMaker,
    UniformEngine,
)
from llmaug.generate.vllm_engine import VllmEngine
from llmaug.items.vocabulary import load_vocabulary
from llmaug.lm import ByItself
from llmaug.lm.generator import Generator


def engine_maker(
    context: Context, generator: Generator, strategies: Iterable[StrategyConfig]
) -> EngineMaker:
    """What an actor calls to start its engine, for units of these strategies; picklable and
    small."""
    kinds = {strategy.soft for strategy in strategies}
    if kinds == {True}:
        return _of_chances(context, generator)
    of_events = _of_events(context, generator)
    if kinds == {False}:
        return of_events
    of_chances = _of_chances(context, generator)
    # That of events last: vLLM takes what is left of a GPU's memory.
    return lambda: BothEngines(of_chances(), of_events())


def _of_chances(context: Context, generator: Generator) -> EngineMaker:
    storage, config = context.storage, context.config
    assert config.lm.chances is not None, config.lm.model
    vocabulary = load_vocabulary(storage, generator.vocabulary)
    load = imported(config.lm.chances)(storage, generator, vocabulary)
    num_threads, on_gpu = max(1, int(config.generate.num_cpus)), num_gpus(context) > 0
    return lambda: ChancesEngine(load(num_threads, on_gpu))


def _of_events(context: Context, generator: Generator) -> EngineMaker:
    storage, config = context.storage, context.config
    vocabulary = load_vocabulary(storage, generator.vocabulary)
    if generator.model is None:
        num_items, rate = vocabulary.num_items, config.generate.simulated_tokens_per_s
        return lambda: UniformEngine(num_items, rate)
    on_gpu = num_gpus(context) > 0
    served = imported(config.lm.answering)(storage, generator, vocabulary)
    if isinstance(served, ByItself):
        return lambda: AnswerEngine(served.load())
    return lambda: VllmEngine(
        fetch_model(storage, served.folder, served.version), config.generate,
        generator.context_len, served.num_tokens, on_gpu, served.letters,
    )  # fmt: skip


def engines(config: Config, on_gpus: bool) -> Ask:
    """What the pool asks Ray for, when what can use GPUs shall ask for them or not."""
    own, gpus = config.generate, _num_gpus(config, on_gpus)
    size = "" if own.num_devices == 1 else ", generate.tensor_parallel_size"
    return Ask(
        "engine", own.num_cpus, gpus, own.num_actors,
        fields=f"generate.num_actors, generate.num_cpus, generate.num_gpus{size}",
        memory=_memory(config, gpus),
    )  # fmt: skip


def idle_cores(own: GenerateConfig, cores: int) -> str:
    """What to say where engines on CPUs leave more than half of a machine's cores idle; else ''."""
    used = own.num_actors * own.num_cpus
    if 2 * used >= cores:
        return ""
    return (
        f"generation uses {used:g} of {cores} cores: generate.num_actors starts more engines, "
        "generate.num_cpus gives each more threads"
    )


def _memory(config: Config, gpus: float) -> str:
    own = config.generate
    if not runs_vllm(config):
        return ""
    return f"{own.memory_share:.4g} of a GPU's" if gpus else f"{own.kv_cache_gib:g} GiB and weights"


def num_gpus(context: Context) -> float:
    """GPUs of each engine. Raises UserError where `ray.gpus` requires some and none can come."""
    config = context.config
    # Whoever uses none anyway need not know what the cluster could launch.
    return _num_gpus(config, bool(_num_gpus(config, True)) and uses_gpus(config.ray))


def _num_gpus(config: Config, on_gpus: bool) -> float:
    own = config.generate
    if own.num_gpus is not None:
        return own.num_gpus
    if not (on_gpus and own.engine == "vllm" and config.lm.is_neural):
        return 0
    return vllm_gpus(own, on_gpus) if runs_vllm(config) else 1


def vllm_gpus(own: GenerateConfig, on_gpus: bool) -> float:
    """GPUs of an engine of vLLM."""
    return own.num_gpus if own.num_gpus is not None else own.num_devices * on_gpus


def runs_vllm(config: Config) -> bool:
    """Whether vLLM is among the engines."""
    return config.generate.engine == "vllm" and config.lm.in_vllm and config.plan.has_events
