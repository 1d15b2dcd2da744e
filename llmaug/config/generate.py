"""Sections `generate` and its budget."""

from __future__ import annotations

from datetime import datetime, time
from typing import Any, Literal

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


Quantization = Literal[
    "fp8", "fp8_per_tensor", "fp8_per_block", "fp8_per_channel", "int8_per_channel_weight_only",
    "mxfp8",
]  # fmt: skip
"""vLLM's names of what needs no folder that was quantised for it."""

_FOLDER = "models are folders that the run has read and checked: see section lm"
_CODE = "nothing is loaded that brings code"
_PLACE = "an engine lies on one machine: set generate.num_actors for more engines"
_TOKENS = "prompts and answers are tokens of the model"

OWNED: dict[str, str] = {
    "dtype": "set generate.dtype",
    "gpu_memory_utilization": "set generate.gpu_memory_utilization",
    "max_model_len": "set lm.context_len",
    "max_num_seqs": "set generate.max_num_seqs",
    "pipeline_parallel_size": "set generate.pipeline_parallel_size",
    "quantization": "set generate.quantization",
    "tensor_parallel_size": "set generate.tensor_parallel_size",
    "seed": "each unit has its own, of the config's seed",
    "logits_processors": "which items may come is decided by one of ours (filters.repeats)",
    "disable_log_stats": "the report has figures of its own",
    "enable_chunked_prefill": "it goes by the device",
    **dict.fromkeys(
        ("model", "model_weights", "load_format", "config_format", "hf_config_path", "hf_overrides",
         "revision", "download_dir", "hf_token", "ignore_patterns"), _FOLDER),
    **dict.fromkeys(
        ("trust_remote_code", "code_revision", "worker_cls", "worker_extension_cls",
         "scheduler_cls", "model_class_overrides", "io_processor_plugin",
         "reasoning_parser_plugin", "model_loader_extra_config"), _CODE),
    **dict.fromkeys(
        ("data_parallel_size", "distributed_executor_backend", "nnodes", "node_rank",
         "master_addr", "master_port"), _PLACE),
    **dict.fromkeys(
        ("tokenizer", "tokenizer_mode", "tokenizer_revision", "skip_tokenizer_init"), _TOKENS),
}  # fmt: skip
"""Arguments of vLLM's engine that `engine_args` may not have: what to do instead."""


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
    """GPUs of each engine. None: none where `ray.gpus` asks for none; else one, or as many as
    `tensor_parallel_size` x `pipeline_parallel_size`. Below 1 several engines share a GPU: with
    0.25 there are four on each."""
    gpu_memory_utilization: float | None = Field(default=None, gt=0, le=1)
    """Share of the memory of each of its GPUs that an engine takes, weights and key-value cache
    together. None: 0.9 of its share of the GPU, such as 0.225 with `num_gpus: 0.25`."""
    tensor_parallel_size: int = Field(default=1, ge=1)
    """GPUs that share each layer of a model that is too large, or too slow, for one. They are of
    one machine."""
    pipeline_parallel_size: int = Field(default=1, ge=1)
    """Groups of such GPUs, each with some of the layers; all of one machine."""
    max_num_seqs: int = Field(default=256, ge=1)
    """Units in flight in one engine."""
    kv_cache_gib: float = Field(default=1.0, gt=0)
    """CPU only: key-value cache of each engine in GiB."""
    dtype: Literal["float32", "bfloat16", "float16", "auto"] | None = None
    """Weights and activations in vLLM. None: bfloat16 on GPUs, float32 on CPUs. The outcomes cache
    does not know it, nor `quantization` and `engine_args`."""
    quantization: Quantization | None = None
    """How vLLM quantises the weights while it loads them. None: as they are. A folder that is
    quantised already says so itself."""
    engine_args: dict[str, bool | int | float | str | list[Any] | dict[str, Any] | None] = {}
    """Further arguments of vLLM's engine by its own names, such as `max_num_batched_tokens: 8192`
    or `kv_cache_dtype: fp8`. Those that a field of ours decides are refused with its name."""
    parts_in_flight: int = Field(default=3, ge=1)
    """Parts in one engine at a time: the next runs while one drains and one is written."""
    use_cache: bool = True
    """Take answers that the same generator gave to the same units on an earlier night."""

    @property
    def num_devices(self) -> int:
        """GPUs over which vLLM spreads a model."""
        return self.tensor_parallel_size * self.pipeline_parallel_size

    @property
    def memory_share(self) -> float:
        """Of each of its GPUs' memory, that an engine takes."""
        if self.gpu_memory_utilization is not None:
            return self.gpu_memory_utilization
        return round(0.9 * min(1.0, self.num_gpus or 1.0), 4)

    @model_validator(mode="after")
    def _gpus_can_be_shared_so(self) -> GenerateConfig:
        own = self.num_gpus
        if own is not None and own > 1 and own != int(own):
            raise ValueError(
                f"generate.num_gpus {own:g}: an engine has whole GPUs, or a share of one below 1"
            )
        if self.num_devices > 1 and own not in (None, self.num_devices):
            raise ValueError(
                f"generate.num_gpus {own:g}: tensor_parallel_size x pipeline_parallel_size is "
                f"{self.num_devices}; leave num_gpus out"
            )
        together = int(1 / own + 1e-9) if own and own < 1 else 1
        if together * self.memory_share > 1 + 1e-9:
            raise ValueError(
                f"generate.gpu_memory_utilization {self.memory_share:g}: with num_gpus {own:g} "
                f"there are {together} engines on a GPU; at most {1 / together:.4g} for each"
            )
        return self

    @model_validator(mode="after")
    def _engine_args_are_not_ours(self) -> GenerateConfig:
        for name in self.engine_args:
            if name in OWNED:
                raise ValueError(f"generate.engine_args: {name} is not taken: {OWNED[name]}")
        return self
