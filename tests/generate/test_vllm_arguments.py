"""Settings of vLLM: what it is started with on GPUs and CPUs, and what is refused at once."""

from __future__ import annotations

from typing import Any

import pytest

from llmaug.arms.baseline import baseline_config
from llmaug.config import Config, GenerateConfig, parse_config
from llmaug.config.generate import OWNED
from llmaug.errors import UserError
from llmaug.generate.engine_maker import engines
from llmaug.generate.vllm_arguments import _known_arguments, check_engine_args, vllm_arguments

ASKED = {"strategies": [{"kind": "continue", "num_events": 3}]}


def started(on_gpu: bool, **fields: Any) -> dict[str, Any]:
    return vllm_arguments("folder", GenerateConfig(**fields), 64, on_gpu)


def config(lm: dict[str, Any] | None = None, **fields: Any) -> Config:
    return parse_config({"lm": lm or {}, "plan": ASKED, "generate": fields})


def test_weights_are_bfloat16_on_gpus_and_float32_on_cpus() -> None:
    assert (started(True)["dtype"], started(False)["dtype"]) == ("bfloat16", "float32")
    assert started(True, dtype="float16")["dtype"] == "float16"


@pytest.mark.parametrize(
    ("fields", "share"),
    [
        ({}, 0.9),
        ({"num_gpus": 1}, 0.9),
        ({"num_gpus": 0.25}, 0.225),  # four of them: 0.9 together
        ({"num_gpus": 0.25, "gpu_memory_utilization": 0.2}, 0.2),
        ({"tensor_parallel_size": 2}, 0.9),
    ],
)
def test_engines_that_share_a_gpu_share_its_memory(fields: dict[str, Any], share: float) -> None:
    assert started(True, **fields)["gpu_memory_utilization"] == share
    assert "gpu_memory_utilization" not in started(False, **fields)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"num_gpus": 0.25, "gpu_memory_utilization": 0.3}, "4 engines on a GPU; at most 0.25"),
        ({"num_gpus": 1.5}, "num_gpus 1.5: an engine has whole GPUs, or a share of one"),
        ({"num_gpus": 1, "tensor_parallel_size": 2}, "is 2; leave num_gpus out"),
        ({"tensor_parallel_size": 3}, "tensor_parallel_size 3 does not divide lm.num_heads 2"),
        ({"pipeline_parallel_size": 4}, "pipeline_parallel_size 4 does not divide lm.num_layers 2"),
        ({"quantization": "fp7"}, "generate.quantization"),
    ],
)
def test_shares_and_sizes_that_do_not_go_together_are_refused(
    fields: dict[str, Any], said: str
) -> None:
    with pytest.raises(UserError, match=said):
        config(**fields)


def test_a_model_over_several_gpus_asks_for_them_on_one_machine() -> None:
    own = config(tensor_parallel_size=2, pipeline_parallel_size=2)
    assert engines(own, True).gpus == 4
    told = vllm_arguments("folder", own.generate, 64, True)
    assert (told["tensor_parallel_size"], told["pipeline_parallel_size"]) == (2, 2)
    assert told["distributed_executor_backend"] == "mp"
    assert engines(baseline_config(own), True).gpus == 0  # its counts need none
    with pytest.raises(UserError, match="does not serve lm.model ngram"):
        config({"model": "ngram"}, tensor_parallel_size=2)


def test_quantisation_and_further_arguments_reach_vllm() -> None:
    told = started(True, quantization="fp8", engine_args={"kv_cache_dtype": "fp8"})
    assert (told["quantization"], told["kv_cache_dtype"]) == ("fp8", "fp8")
    # One that llmaug sets and that no field has.
    assert started(False, engine_args={"block_size": 16})["block_size"] == 16


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("max_model_len", "max_model_len is not taken: set lm.context_len"),
        ("tensor_parallel_size", "set generate.tensor_parallel_size"),
        ("trust_remote_code", "nothing is loaded that brings code"),
        ("worker_extension_cls", "nothing is loaded that brings code"),
        ("load_format", "models are folders that the run has read"),
    ],
)
def test_arguments_that_a_field_decides_are_refused_with_its_name(name: str, said: str) -> None:
    with pytest.raises(UserError, match=said):
        config(engine_args={name: "x"})


def test_each_refused_name_is_one_of_vllms_and_each_field_is_ours() -> None:
    assert set(OWNED) <= set(_known_arguments())
    for advice in OWNED.values():
        for word in advice.split():
            if word.startswith("generate."):
                assert word.removeprefix("generate.") in GenerateConfig.model_fields
    # Whatever is set for all is no argument of the user's, but for a few that only tune.
    assert set(started(True)) - set(OWNED) == {
        "block_size", "enable_prefix_caching", "enforce_eager",
    }  # fmt: skip


def test_an_argument_that_vllm_does_not_know_is_refused_before_hours_of_work() -> None:
    check_engine_args(GenerateConfig(engine_args={"max_num_batched_tokens": 8192}))
    with pytest.raises(UserError, match="did you mean 'max_num_batched_tokens'"):
        check_engine_args(GenerateConfig(engine_args={"max_num_batched_token": 8192}))
