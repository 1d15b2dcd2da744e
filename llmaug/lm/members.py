"""Several models as one generator (`lm.members`): the same recipe from other random starts.

Each has a stage of its own, `lm/<name>-2` and so on beside `lm/<name>`. What several say of the
next item is on average truer than what one says (deep ensembles, Lakshminarayanan et al. 2017):
strategy soft_events asks all of them. Events are written by the first one alone, whose item vectors
a recommender starts from as well.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import Any

from llmaug.config import Config
from llmaug.core.stage import Context, Stage


def num_models(config: Config) -> int:
    """Models that are trained."""
    return config.lm.num_models if config.plan.soft else 1


def member_config(config: Config, number: int) -> Config:
    """`config` with the model of that number, from 1, as its only one."""
    if config.lm.num_models == 1:
        return config
    name = config.lm.name if number == 1 else f"{config.lm.name}-{number}"
    lm = config.lm.model_copy(update={"name": name, "members": 1})
    return config.model_copy(update={"lm": lm, "seed": config.seed + number - 1})


def member_configs(config: Config) -> Iterator[Config]:
    """One for each model."""
    return (member_config(config, number) for number in range(1, num_models(config) + 1))


def of_member(stage: Stage, number: int) -> Stage:
    """`stage`, which makes the first model, for the one of that number, from 2."""
    return replace(
        stage,
        name=f"{stage.name}-{number}",
        run=partial(_run, stage, number),
        settings=lambda config: stage.settings(member_config(config, number)),
        outside=lambda context: stage.outside(_context(context, number)),
        roots=lambda config: (stage.module, *stage.roots(config)),
    )


def _run(stage: Stage, number: int, context: Context) -> dict[str, Any]:
    return stage.run(_context(context, number))


def _context(context: Context, number: int) -> Context:
    return replace(context, config=member_config(context.config, number))
