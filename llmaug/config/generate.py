"""Sections `generate` and its budget."""

from __future__ import annotations

from datetime import datetime, time
from typing import Literal

from pydantic import Field, model_validator

from llmaug.config.base import Section


class BudgetConfig(Section):
    """What generation may cost. Reaching a limit ends it in a valid, smaller data set."""

    max_units: int | None = Field(default=None, ge=1)
    """Units at most, all strategies together, each cut by the same share."""
    max_tokens: int | None = Field(default=None, ge=1)
    """Generated tokens at most."""
    max_gpu_hours: float | None = Field(default=None, gt=0)
    """Hours of all engines together (on a CPU: of its engines), start-up included."""
    deadline: datetime | time | None = None
    """When generation has to end: a date and time with zone, or a time of day in UTC
    (`06:30`), the next one after generation starts."""
    price_per_hour: float = Field(default=0.0, ge=0)
    """Price of one engine for an hour, in any currency: for the cost that is shown."""

    @model_validator(mode="after")
    def _deadline_has_a_zone(self) -> BudgetConfig:
        if isinstance(self.deadline, datetime) and self.deadline.tzinfo is None:
            raise ValueError("budget.deadline needs a zone: 2026-02-01T06:30:00Z")
        return self


class GenerateConfig(Section):
    """The generation actors."""

    engine: Literal["vllm", "uniform"] = "vllm"
    """vllm, or uniform: items drawn at random, a control that the gate must refuse."""
    simulated_tokens_per_s: float | None = Field(default=None, gt=0)
    """engine uniform: take the time of a GPU with this rate, to try a cluster's set-up."""
    num_actors: int = Field(default=1, ge=1)
    """Fixed number of engines."""
    num_cpus: float = Field(default=1, ge=0)
    """Ray CPUs of each engine."""
    num_gpus: float | None = Field(default=None, ge=0)
    """GPUs of each engine. None: one where the cluster has GPUs, else none."""
    max_num_seqs: int = Field(default=256, ge=1)
    """Units in flight in one engine."""
    kv_cache_gib: float = Field(default=1.0, gt=0)
    """CPU only: key-value cache of each engine in GiB."""
    dtype: Literal["float32", "bfloat16", "float16", "auto"] = "float32"
    """Weights and activations in the engine."""
    parts_in_flight: int = Field(default=3, ge=1)
    """Parts in one engine at a time: the next runs while one drains and one is written."""
    use_cache: bool = True
    """Take answers that the same generator gave to the same units on an earlier night."""
