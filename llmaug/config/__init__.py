"""The YAML config as pydantic models: one file a section, every field described, unknown keys
refused.

A preset is a YAML file; a variant names its `base` and changes fields of it. Relative paths are
those from the file that they stand in (`paths`). Secrets never stand in a config: they come from
the environment or the standard AWS files.
"""

from __future__ import annotations

from llmaug.config.base import Name, Section
from llmaug.config.endpoint import EndpointConfig
from llmaug.config.evaluate import DriftLimits, EvaluateConfig, FidelityLimits, GateConfig
from llmaug.config.filters import (
    FILTERS,
    CopiedConfig,
    FilterConfig,
    FiltersConfig,
    IdentifyingConfig,
    MergeConfig,
    RepeatedConfig,
    TooShortConfig,
)
from llmaug.config.generate import BudgetConfig, GenerateConfig
from llmaug.config.ingest import NULL_WORDS, FilesConfig, Format, IngestConfig, TableConfig
from llmaug.config.kinds import Kinds, imported, modules_of, name_of
from llmaug.config.lm import (
    BEHAVIOUR_MODELS,
    Ability,
    CausalConfig,
    InstructConfig,
    LmConfig,
    MaskedConfig,
    NeuralConfig,
    NgramConfig,
    PrivateConfig,
)
from llmaug.config.optimiser import OptimiserConfig
from llmaug.config.plan import (
    STRATEGIES,
    ChooseConfig,
    ContinueConfig,
    InfillConfig,
    NewUsersConfig,
    OfUsersConfig,
    PlanConfig,
    PrefixConfig,
    SamplingConfig,
    SoftEventsConfig,
    Strategy,
    StrategyConfig,
    SubstituteConfig,
)
from llmaug.config.privacy import PrivacyConfig, PseudonymsConfig
from llmaug.config.publish import PublishConfig, RecommendConfig
from llmaug.config.split import SplitConfig, VocabularyConfig
from llmaug.config.storage import RayConfig, StorageConfig
from llmaug.config.text import (
    TEXT_TASKS,
    CaptionItemsConfig,
    ColdItemsConfig,
    ColdUsersConfig,
    DescribeItemsConfig,
    ExplainConfig,
    RerankConfig,
    TextConfig,
    TextTaskConfig,
    WriteReviewsConfig,
)
from llmaug.config.text_custom import CustomConfig, JudgeConfig
from llmaug.config.train import (
    RECOMMENDERS,
    ArmName,
    ByDescentConfig,
    ClosedFormConfig,
    EaseConfig,
    LinearConfig,
    LinearRatingConfig,
    OfHistoriesConfig,
    OfPairsConfig,
    OfRatingsConfig,
    PopularityConfig,
    SasrecConfig,
    TrainConfig,
    TwoTowerConfig,
    YardsticksConfig,
)
from llmaug.config.whole import Config, load_config, parse_config

__all__ = [
    "ArmName",
    "BEHAVIOUR_MODELS",
    "BudgetConfig",
    "ByDescentConfig",
    "CaptionItemsConfig",
    "CausalConfig",
    "ChooseConfig",
    "ClosedFormConfig",
    "Config",
    "ColdItemsConfig",
    "ColdUsersConfig",
    "ContinueConfig",
    "CopiedConfig",
    "CustomConfig",
    "DescribeItemsConfig",
    "DriftLimits",
    "EaseConfig",
    "EndpointConfig",
    "EvaluateConfig",
    "ExplainConfig",
    "FILTERS",
    "FilesConfig",
    "FidelityLimits",
    "FilterConfig",
    "FiltersConfig",
    "Format",
    "GateConfig",
    "GenerateConfig",
    "IdentifyingConfig",
    "InfillConfig",
    "IngestConfig",
    "InstructConfig",
    "JudgeConfig",
    "Kinds",
    "LinearConfig",
    "LinearRatingConfig",
    "LmConfig",
    "MaskedConfig",
    "MergeConfig",
    "NULL_WORDS",
    "Name",
    "NeuralConfig",
    "NewUsersConfig",
    "NgramConfig",
    "OfHistoriesConfig",
    "OfPairsConfig",
    "OfRatingsConfig",
    "OfUsersConfig",
    "OptimiserConfig",
    "PlanConfig",
    "PopularityConfig",
    "PrefixConfig",
    "PrivacyConfig",
    "PrivateConfig",
    "PseudonymsConfig",
    "PublishConfig",
    "Ability",
    "RECOMMENDERS",
    "RayConfig",
    "RecommendConfig",
    "RepeatedConfig",
    "STRATEGIES",
    "RepeatedConfig",
    "SamplingConfig",
    "SasrecConfig",
    "Section",
    "SoftEventsConfig",
    "SplitConfig",
    "StorageConfig",
    "Strategy",
    "StrategyConfig",
    "SubstituteConfig",
    "TEXT_TASKS",
    "TableConfig",
    "TextConfig",
    "TextTaskConfig",
    "RerankConfig",
    "WriteReviewsConfig",
    "TooShortConfig",
    "TrainConfig",
    "TwoTowerConfig",
    "VocabularyConfig",
    "YardsticksConfig",
    "imported",
    "load_config",
    "modules_of",
    "name_of",
    "parse_config",
]
