"""The arm `ngram`: the stages from model to filters once more, with counts as the generator.

What a generator is worth shows against the cheapest one. It is asked for as much as the
generator of the config, by the same code: its stages lie below `ngram/` in the run, and read
a config that differs in `lm` and in strategies that counts cannot do.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from llmaug.arms.arms import AUGMENTED, NGRAM, REAL
from llmaug.config import (
    Config,
    ContinueConfig,
    NewUsersConfig,
    OfUsersConfig,
    StrategyConfig,
)
from llmaug.core.stage import Context, Stage, on_track


def baseline_config(config: Config) -> Config:
    """`config` with a trigram model as its generator.

    Without soft_events, which are no events. Strategies that counts cannot do ask for as many
    events behind the history of users instead; what is asked about the same users with the same
    sampling is one strategy, since equal questions are equal units.
    """
    raw = config.model_dump(mode="json")
    raw["lm"] = {"model": "ngram", "context_len": config.lm.context_len}
    raw["plan"]["strategies"] = _known(config.plan.strategies)
    # What its stages do not read, and what would not fit counts.
    raw["merge"]["strategy_weights"] = {}
    raw["train"]["arms"] = [REAL, AUGMENTED]
    if "start_from" in raw["train"]:
        raw["train"]["start_from"] = None
    raw["gate"]["against"] = None
    # Counts have no use for GPUs, nor vLLM for counts.
    raw["generate"] |= {"engine": "vllm", "num_gpus": None, "gpu_memory_utilization": None,
                        "tensor_parallel_size": 1, "pipeline_parallel_size": 1}  # fmt: skip
    return Config.model_validate(raw)


def _known(strategies: Sequence[StrategyConfig]) -> list[StrategyConfig]:
    found = [strategy for strategy in strategies if isinstance(strategy, NewUsersConfig)]
    behind: dict[tuple[Any, ...], dict[str, Any]] = {}
    for strategy in strategies:
        if not isinstance(strategy, OfUsersConfig) or strategy.soft:
            continue
        wanted = {n: getattr(strategy, n) for n in OfUsersConfig.model_fields if n != "kind"}
        question = tuple(wanted[n] for n in ("num_events", "temperature", "top_p", "top_k"))
        earlier = behind.setdefault(question, {**wanted, "samples_per_user": 0})
        earlier["samples_per_user"] += wanted["samples_per_user"]
        lengths = earlier["max_history_len"], wanted["max_history_len"]
        earlier["max_history_len"] = None if None in lengths else max(lengths)
        if earlier["accepted_per_user"] != wanted["accepted_per_user"]:
            earlier["accepted_per_user"] = None
    return [*found, *(ContinueConfig(**wanted) for wanted in behind.values())]


def of_baseline(stage: Stage) -> Stage:
    """`stage`, one of those from model to filters, for the baseline's generator."""
    return replace(
        stage,
        name=on_track(NGRAM, stage.name),
        run=partial(_run, stage),
        inputs=tuple(on_track(NGRAM, name) for name in stage.inputs),
        settings=lambda config: stage.settings(baseline_config(config)),
        asks=lambda config, on_gpus: stage.asks(baseline_config(config), on_gpus),
        roots=lambda config: (stage.module, *stage.roots(baseline_config(config))),
    )


def _run(stage: Stage, context: Context) -> dict[str, Any]:
    return stage.run(replace(context, track=NGRAM, config=baseline_config(context.config)))
