"""The whole config: its sections together, read from a file or a mapping.

A mistake is an error that names file and field, with the likely key.
"""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel, ValidationError, model_validator

from llmaug.config.base import Name, Section
from llmaug.config.evaluate import EvaluateConfig, GateConfig
from llmaug.config.file import read_config_file, unusable_texts
from llmaug.config.filters import FiltersConfig, MergeConfig
from llmaug.config.generate import BudgetConfig, GenerateConfig
from llmaug.config.ingest import IngestConfig, TableConfig
from llmaug.config.lm import LmConfig
from llmaug.config.plan import (
    DIRECTION_OF,
    STRATEGIES_OF,
    NewUsersConfig,
    OfUsersConfig,
    PlanConfig,
)
from llmaug.config.publish import PublishConfig, RecommendConfig
from llmaug.config.split import SplitConfig, VocabularyConfig
from llmaug.config.storage import RayConfig, StorageConfig
from llmaug.config.train import TrainConfig
from llmaug.errors import UserError


class Config(Section):
    """One nightly job."""

    name: Name = "llmaug"
    """Name of the job; also the run id when none is given."""
    seed: int = 7
    """Of everything random."""
    storage: StorageConfig = StorageConfig()
    ingest: IngestConfig = IngestConfig()
    split: SplitConfig = SplitConfig()
    vocabulary: VocabularyConfig = VocabularyConfig()
    lm: LmConfig = LmConfig()
    plan: PlanConfig = PlanConfig()
    budget: BudgetConfig = BudgetConfig()
    generate: GenerateConfig = GenerateConfig()
    filters: FiltersConfig = FiltersConfig()
    merge: MergeConfig = MergeConfig()
    train: TrainConfig = TrainConfig()
    evaluate: EvaluateConfig = EvaluateConfig()
    gate: GateConfig = GateConfig()
    publish: PublishConfig = PublishConfig()
    recommend: RecommendConfig = RecommendConfig()
    ray: RayConfig = RayConfig()

    @model_validator(mode="before")
    @classmethod
    def _texts_can_be_used(cls, raw: Any) -> Any:
        for field, wrong in unusable_texts(raw):
            raise ValueError(f"{field}: {wrong}")
        return raw

    @model_validator(mode="after")
    def _fits_together(self) -> Config:
        if self.lm.user_attributes and self.ingest.users is None:
            raise ValueError("lm.user_attributes needs a users table: set ingest.users")
        for strategy in self.plan.strategies:
            self._check_strategy(strategy)
        untrained = set(self.gate.against or ()) - set(self.train.arms)
        if untrained or "augmented" in (self.gate.against or ()):
            raise ValueError("gate.against: arms of train.arms other than `augmented`")
        if self.split.num_test_events > 1 and self.evaluate.targets == "first":
            raise ValueError(
                f"evaluate.targets first measures one of the {self.split.num_test_events} test "
                "events of split.num_test_events: set evaluate.targets: all"
            )
        return self

    def _check_strategy(self, strategy: OfUsersConfig | NewUsersConfig) -> None:
        room = self.lm.context_len - 2
        if self.lm.model == "causal":  # room for user attributes and the marks of a gap
            room -= len(self.lm.user_attributes) + 2 * (len(self.lm.directions) > 1)
        if strategy.num_events > room:
            raise ValueError(
                f"plan.strategies: num_events {strategy.num_events} does not fit into "
                f"lm.context_len {self.lm.context_len}; at most {room}"
            )
        if self.generate.engine == "uniform" and strategy.kind != "choose":
            return
        fits = STRATEGIES_OF[self.lm.model]
        if strategy.kind not in fits:
            raise ValueError(
                f"plan.strategies: {strategy.kind} is nothing that lm.model {self.lm.model} can "
                f"do; it can do {', '.join(fits)}"
            )
        needed = DIRECTION_OF[strategy.kind]
        if self.lm.model == "causal" and needed not in self.lm.directions:
            raise ValueError(
                f"plan.strategies: {strategy.kind} needs a model that reads {needed}: give "
                f"lm.directions a share of {needed}, such as {{forward: 2, {needed}: 1}}"
            )


_MAX_MISTAKES = 20  # are told at once


def load_config(path: str | Path) -> Config:
    """Read a YAML config, its `base` first.

    Raises UserError naming the file, the field and, for an unknown key, the likely one.
    """
    return parse_config(read_config_file(Path(path)), str(path))


def parse_config(raw: dict[str, Any], where: str = "config") -> Config:
    """Check a config that was read already; `where` names it in messages."""
    try:
        return Config.model_validate(raw)
    except ValidationError as error:
        problems = error.errors(include_url=False, include_context=False, include_input=False)
        lines = [_explain(problem) for problem in problems[:_MAX_MISTAKES]]
        if len(problems) > len(lines):
            lines.append(f"and {len(problems) - len(lines)} more")
        raise UserError("\n".join(f"{where}: {line}" for line in lines)) from error


def _explain(problem: Any) -> str:
    where = ".".join(str(step) for step in problem["loc"]) or "(top level)"
    if problem["type"] == "value_error" and not problem["loc"]:  # of fields that it names
        return str(problem["msg"].removeprefix("Value error, "))
    if problem["type"] != "extra_forbidden":
        return f"{where}: {problem['msg'].removeprefix('Value error, ')}"
    known = _fields_at(problem["loc"][:-1])
    close = difflib.get_close_matches(str(problem["loc"][-1]), known, n=1)
    hint = f"did you mean '{close[0]}'?" if close else f"known: {', '.join(sorted(known))}"
    return f"{where}: unknown key; {hint}"


def _fields_at(path: tuple[Any, ...]) -> list[str]:
    """Field names of the model that `path` leads to (list items and unions by their tag)."""
    models: list[type[BaseModel]] = [Config]
    for step in path:
        if step == "strategies":
            models = [*get_args(OfUsersConfig), NewUsersConfig]
        elif any(step in model.model_fields for model in models):
            annotations = [
                m.model_fields[step].annotation for m in models if step in m.model_fields
            ]
            found = [a for a in annotations if isinstance(a, type) and issubclass(a, BaseModel)]
            models = found or [TableConfig]
        else:  # an index or a union tag
            tagged = [m for m in models if f"'{step}'" in str(m.model_fields.get("kind"))]
            models = tagged or models
    return [name for model in models for name in model.model_fields]
