"""The whole config: its sections together, read from a file or a mapping.

A mistake is an error that names file and field, with the likely key.
"""

from __future__ import annotations

from datetime import date
from pathlib import Path
from typing import Annotated, Any, get_args

from pydantic import BaseModel, Field, ValidationError, model_validator

from llmaug.config.base import Name, Section
from llmaug.config.dates import dated
from llmaug.config.evaluate import EvaluateConfig, GateConfig
from llmaug.config.file import read_config_file, unusable_texts
from llmaug.config.filters import FiltersConfig, MergeConfig
from llmaug.config.generate import BudgetConfig, GenerateConfig
from llmaug.config.ingest import IngestConfig
from llmaug.config.kinds import name_of, unknown_key
from llmaug.config.lm import BEHAVIOUR_MODELS, CausalConfig, LmConfig
from llmaug.config.notify import NotifyConfig
from llmaug.config.plan import (
    STRATEGIES,
    ChooseConfig,
    NewUsersConfig,
    PlanConfig,
    StrategyConfig,
)
from llmaug.config.privacy import PrivacyConfig
from llmaug.config.publish import PublishConfig, RecommendConfig
from llmaug.config.split import SplitConfig, VocabularyConfig
from llmaug.config.storage import RayConfig, StorageConfig
from llmaug.config.text import ExplainConfig, RerankConfig, TextConfig
from llmaug.config.tracking import TrackingConfig
from llmaug.config.train import RECOMMENDERS, SasrecConfig, TrainConfig
from llmaug.errors import UserError


class Config(Section):
    """One nightly job."""

    name: Name = "llmaug"
    """Name of the job; also the run id when none is given."""
    seed: int = Field(default=7, ge=0, lt=2**32)
    """Of everything random."""
    storage: StorageConfig = StorageConfig()
    ingest: IngestConfig = IngestConfig()
    split: SplitConfig = SplitConfig()
    text: TextConfig = TextConfig()
    vocabulary: VocabularyConfig = VocabularyConfig()
    lm: Annotated[LmConfig, BEHAVIOUR_MODELS] = CausalConfig()
    plan: PlanConfig = PlanConfig()
    budget: BudgetConfig = BudgetConfig()
    generate: GenerateConfig = GenerateConfig()
    privacy: PrivacyConfig = PrivacyConfig()
    filters: FiltersConfig = FiltersConfig()
    merge: MergeConfig = MergeConfig()
    train: Annotated[TrainConfig, RECOMMENDERS] = SasrecConfig()
    evaluate: EvaluateConfig = EvaluateConfig()
    gate: GateConfig = GateConfig()
    publish: PublishConfig = PublishConfig()
    recommend: RecommendConfig = RecommendConfig()
    notify: NotifyConfig = NotifyConfig()
    tracking: TrackingConfig = TrackingConfig()
    ray: RayConfig = RayConfig()

    @model_validator(mode="before")
    @classmethod
    def _texts_can_be_used(cls, raw: Any) -> Any:
        for field, wrong in unusable_texts(raw):
            raise ValueError(f"{field}: {wrong}")
        return raw

    @model_validator(mode="after")
    def _fits_together(self) -> Config:
        if self.lm.user_attributes_read and self.ingest.users is None:
            raise ValueError("lm.user_attributes needs a users table: set ingest.users")
        for task in self.text.tasks:
            for table in task.asks_about:
                if getattr(self.ingest, table) is None:
                    raise ValueError(
                        f"text.tasks: {task.name} asks about {table}, and there is no such table: "
                        f"set ingest.{table}"
                    )
            if isinstance(task, RerankConfig):
                self._check_rerank(task)
            if isinstance(task, ExplainConfig):
                self._check_explain(task)
            if task.names_people and self.privacy.new_users_only:
                raise ValueError(
                    f"text.tasks: {task.name} writes in the name of real people, which "
                    "privacy.new_users_only forbids: leave it out"
                )
        if "reviewed" in self.train.arms and not any(t.labels_events for t in self.text.tasks):
            raise ValueError(
                "train.arms: reviewed learns what the text task write_reviews says: add it to "
                "text.tasks, or leave the arm out"
            )
        if "warmed" in self.train.arms and not any(t.adds_events for t in self.text.tasks):
            raise ValueError(
                "train.arms: warmed learns what the text tasks cold_items and cold_users say: add "
                "one of them to text.tasks, or leave the arm out"
            )
        if unknown := set(self.merge.strategy_weights) - {s.kind for s in self.plan.strategies}:
            raise ValueError(
                f"merge.strategy_weights: no strategy {min(unknown)} in plan.strategies"
            )
        for strategy in self.plan.strategies:
            self._check_strategy(strategy)
            if self.privacy.new_users_only and not (
                isinstance(strategy, NewUsersConfig) or strategy.soft
            ):
                raise ValueError(
                    f"plan.strategies: {strategy.kind} adds to the histories of real people, which "
                    "privacy.new_users_only forbids: take new_users"
                )
        if self.ingest.order == "line" and self.vocabulary.item_life_h is not None:
            raise ValueError(
                "vocabulary.item_life_h needs times, and ingest.order: line says there are none"
            )
        if self.plan.soft:
            self._check_soft()
        self._check_start()
        self._check_gpus()
        self._check_parallel()
        if self.gate.arm == "real":
            raise ValueError(
                "gate.arm: real is what goes out where the gate refuses another arm: name that "
                "arm, or leave gate.arm out"
            )
        untrained = set(self.gate.against or ()) - set(self.train.arms)
        if untrained or self.gate.arm in (self.gate.against or ()):
            raise ValueError(f"gate.against: arms of train.arms other than `{self.gate.arm}`")
        if self.split.num_test_events > 1 and self.evaluate.targets == "first":
            raise ValueError(
                f"evaluate.targets first measures one of the {self.split.num_test_events} test "
                "events of split.num_test_events: set evaluate.targets: all"
            )
        return self

    def _check_rerank(self, task: RerankConfig) -> None:
        field, most = "evaluate.cutoffs", max(self.evaluate.cutoffs)
        if task.of == "recommendations":
            field, most = "recommend.k", self.recommend.k
        if task.top_n > most:
            raise ValueError(
                f"text.tasks: {task.name} reorders the first {task.top_n} (top_n), and lists have "
                f"{most}: raise {field}"
            )

    def _check_explain(self, task: ExplainConfig) -> None:
        if task.what == "recommendations" and task.top_n > self.recommend.k:
            raise ValueError(
                f"text.tasks: {task.name} explains the first {task.top_n} (top_n), and lists have "
                f"{self.recommend.k}: raise recommend.k"
            )
        made = self.plan.strategies and any(a.startswith("augmented") for a in self.train.arms)
        if task.what == "synthetic_events" and not made:
            raise ValueError(
                f"text.tasks: {task.name} explains synthetic events, and none are made: it needs "
                "plan.strategies and the arm augmented"
            )

    @property
    def starts_from_generator(self) -> bool:
        """Whether a recommender begins with the generator's item vectors."""
        own = getattr(self.train, "start_from", None)
        return own is not None or bool({"started", "augmented_started"} & set(self.train.arms))

    def _check_start(self) -> None:
        if getattr(self.train, "start_from", None) == "real":
            raise ValueError("train.start_from: real is what the arm `restarted` does")
        if self.starts_from_generator and self.lm.item_table is None:
            raise ValueError(
                f"train.arms: lm.model {self.lm.model} has no item vectors to start from: leave "
                "`started` out, or take another model"
            )

    def _check_gpus(self) -> None:
        asking = {
            "lm.use_gpu": self.lm.optimiser and self.lm.optimiser.use_gpu,
            "train.use_gpu": getattr(self.train, "use_gpu", False),
            "generate.num_gpus": self.generate.num_gpus,
            "recommend.num_gpus": self.recommend.num_gpus,
        }
        for field, asks in asking.items():
            if asks and self.ray.gpus == "none":
                raise ValueError(f"{field} asks for GPUs, and ray.gpus is none: leave one of them "
                                 "out")  # fmt: skip

    def _check_parallel(self) -> None:
        own = self.generate
        if own.num_devices == 1:
            return
        if not self.lm.in_vllm:
            raise ValueError(
                f"generate.tensor_parallel_size and pipeline_parallel_size are vLLM's, which does "
                f"not serve lm.model {self.lm.model}: leave them out"
            )
        # Of a chat model vLLM says so itself.
        for field, size, of, num in (
            ("tensor", own.tensor_parallel_size, "num_heads", getattr(self.lm, "num_heads", None)),
            ("pipeline", own.pipeline_parallel_size, "num_layers",
             getattr(self.lm, "num_layers", None)),
        ):  # fmt: skip
            if num and num % size:
                raise ValueError(
                    f"generate.{field}_parallel_size {size} does not divide lm.{of} {num}"
                )

    def _check_soft(self) -> None:
        if self.generate.engine == "uniform":
            raise ValueError("plan.strategies: generate.engine uniform knows no chances of items: "
                             "leave soft_events out")  # fmt: skip
        if "ngram" in self.train.arms and not self.plan.has_events:
            raise ValueError(
                "train.arms: ngram is as many synthetic events as augmented has, and soft_events "
                "has none: leave ngram out"
            )
        if getattr(self.train, "soft_share", None) is None:
            having = [
                name_of(each, "model") for each in RECOMMENDERS if "soft_share" in each.model_fields
            ]
            raise ValueError(
                f"plan.strategies: train.model {self.train.model} cannot learn from soft_events; "
                f"{' or '.join(having)} can"
            )

    def _check_strategy(self, strategy: StrategyConfig) -> None:
        room = self.lm.room()
        if strategy.num_events > room:
            raise ValueError(
                f"plan.strategies: num_events {strategy.num_events} does not fit into "
                f"lm.context_len {self.lm.context_len}; at most {room}"
            )
        if self.generate.engine == "uniform" and strategy.needs != "choice":
            return
        if strategy.needs == "choice" and not isinstance(strategy, ChooseConfig):
            raise ValueError(f"plan.strategies: {strategy.kind}: one that needs a choice inherits "
                             "ChooseConfig")  # fmt: skip
        if strategy.needs not in self.lm.abilities:
            fits = [name_of(each, "kind") for each in STRATEGIES if each.needs in self.lm.abilities]
            raise ValueError(
                f"plan.strategies: {strategy.kind} is nothing that lm.model {self.lm.model} can "
                f"do; it can do {', '.join(fits)}"
            )
        lacking = self.lm.lacks(strategy.needs)
        if lacking:
            raise ValueError(f"plan.strategies: {strategy.kind} {lacking}")


_MAX_MISTAKES = 20  # are told at once


def load_config(path: str | Path, day: date | None = None) -> Config:
    """Read a YAML config, its `base` first, and `{date}` in it as `day`. One with days is for many
    nights, which have `ingest.keep_clean` unless it says otherwise.

    Raises UserError naming the file, the field and, for an unknown key, the likely one.
    """
    raw = read_config_file(Path(path))
    filled = dated(raw, day, str(path))
    if filled != raw and isinstance(filled.setdefault("ingest", {}), dict):
        filled["ingest"].setdefault("keep_clean", True)
    return parse_config(filled, str(path))


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
    return f"{where}: {unknown_key(str(problem['loc'][-1]), _fields_at(problem['loc'][:-1]))}"


def _fields_at(path: tuple[Any, ...]) -> list[str]:
    """Field names of the section that `path` leads to."""
    model: type[BaseModel] = Config
    for step in path:
        annotation = model.model_fields[step].annotation
        sections = [annotation, *get_args(annotation)]  # X, and X | None
        model = next(s for s in sections if isinstance(s, type) and issubclass(s, BaseModel))
    return list(model.model_fields)
