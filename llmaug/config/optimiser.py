"""Fields that every model trained by steps has."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from llmaug.config.base import Section


class OptimiserConfig(Section):
    """AdamW with linear warm-up, early stop on a validation metric (NDCG@10)."""

    num_steps: int = Field(default=1000, ge=1)
    """Optimiser steps at most: the same for every arm."""
    batch_size: int = Field(default=128, ge=1)
    """Sequences (or pairs) in one step, over all workers."""
    learning_rate: float = Field(default=1e-3, gt=0)
    """Peak learning rate."""
    weight_decay: float = Field(default=0.01, ge=0)
    """AdamW's decoupled weight decay."""
    warmup_steps: int = Field(default=100, ge=0)
    """Steps of linear warm-up."""
    schedule: Literal["constant", "cosine"] = "constant"
    """Learning rate after the warm-up: constant, or half a cosine to 0 at `num_steps`."""
    num_accumulations: int = Field(default=1, ge=1)
    """Pieces that each worker's share of a batch is run in, one after another: a large batch in
    little memory."""
    precision: Literal["float32", "bfloat16"] | None = "float32"
    """Of forward and backward passes; weights stay float32. None: bfloat16 on GPUs that have
    it."""
    validate_every: int = Field(default=50, ge=1)
    """Steps between validations; each one also writes a checkpoint."""
    patience: int = Field(default=8, ge=1)
    """Stop after this many validations without a better one; the best weights are kept."""
    num_workers: int = Field(default=1, ge=1)
    """Ray Train workers (DDP)."""
    use_gpu: bool = False
    """One GPU for each worker."""
    threads_per_worker: int = Field(default=1, ge=1)
    """CPU threads of each worker."""
