"""The YAML config as pydantic models: one file a section, every field described, unknown keys
refused.

A preset is a YAML file; a variant names its `base` and changes fields of it. Relative paths are
those from the file that they stand in (`paths`). Secrets never stand in a config: they come from
the environment or the standard AWS files.
"""

from __future__ import annotations

from llmaug.config.base import Name
from llmaug.config.evaluate import EvaluateConfig, GateConfig
from llmaug.config.filters import FiltersConfig, MergeConfig
from llmaug.config.generate import BudgetConfig, GenerateConfig
from llmaug.config.ingest import NULL_WORDS, FilesConfig, Format, IngestConfig, TableConfig
from llmaug.config.lm import LmConfig
from llmaug.config.optimiser import OptimiserConfig
from llmaug.config.plan import (
    DIRECTION_OF,
    ChooseConfig,
    ContinueConfig,
    InfillConfig,
    NewUsersConfig,
    OfUsersConfig,
    PlanConfig,
    PrefixConfig,
    SamplingConfig,
    SubstituteConfig,
)
from llmaug.config.publish import PublishConfig, RecommendConfig
from llmaug.config.split import SplitConfig, VocabularyConfig
from llmaug.config.storage import RayConfig, StorageConfig
from llmaug.config.train import LOSSES, ArmName, TrainConfig
from llmaug.config.whole import Config, load_config, parse_config

__all__ = [
    "ArmName",
    "BudgetConfig",
    "ChooseConfig",
    "Config",
    "ContinueConfig",
    "DIRECTION_OF",
    "EvaluateConfig",
    "FilesConfig",
    "FiltersConfig",
    "Format",
    "GateConfig",
    "GenerateConfig",
    "InfillConfig",
    "IngestConfig",
    "LOSSES",
    "LmConfig",
    "MergeConfig",
    "NULL_WORDS",
    "Name",
    "NewUsersConfig",
    "OfUsersConfig",
    "OptimiserConfig",
    "PlanConfig",
    "PrefixConfig",
    "PublishConfig",
    "RayConfig",
    "RecommendConfig",
    "SamplingConfig",
    "SplitConfig",
    "StorageConfig",
    "SubstituteConfig",
    "TableConfig",
    "TrainConfig",
    "VocabularyConfig",
    "load_config",
    "parse_config",
]
