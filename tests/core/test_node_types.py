"""Which machines may come: from the files of clusters, from the autoscaler of one that runs."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from llmaug.config import RayConfig
from llmaug.core import node_types
from llmaug.core.node_types import (
    Machines,
    NodeType,
    autoscaler_config,
    machines,
    of_launcher,
    read_cluster_file,
)
from llmaug.errors import UserError

ROOT = Path(__file__).parents[2]
RAYJOB = ROOT / "infra" / "k8s" / "rayjob.yaml"


def test_the_launchers_file_has_a_head_and_gpus_that_may_come() -> None:
    found = read_cluster_file(ROOT / "cluster.yaml")
    assert found.types == (
        NodeType("head", {"CPU": 0, "GPU": 0}, 1),
        NodeType("cpu", {"CPU": 16, "GPU": 0}, 8),
        NodeType("gpu", {"CPU": 8, "GPU": 1}, 8),
    )
    assert found.most("GPU") == 1 and not found.unseen
    assert str(found) == (
        "head (up to 1 of 0 CPU, 0 GPU), cpu (up to 8 of 16 CPU, 0 GPU), "
        "gpu (up to 8 of 8 CPU, 1 GPU)"
    )


def test_kuberays_file_has_the_same() -> None:
    found = read_cluster_file(RAYJOB)
    head, cpu, gpu = found.types
    assert (head.resources["CPU"], head.resources["GPU"], head.max_nodes) == (0, 0, 1)
    assert (cpu.resources["CPU"], cpu.resources.get("GPU", 0), cpu.max_nodes) == (8, 0, 8)
    assert (gpu.resources["CPU"], gpu.resources["GPU"], gpu.max_nodes) == (6, 1, 8)
    assert gpu.resources["memory"] > 20 * 2**30
    assert read_cluster_file(RAYJOB.with_name("raycronjob.yaml")) == found


def test_without_an_autoscaler_pods_are_as_many_as_they_are(tmp_path: Path) -> None:
    job = yaml.safe_load(RAYJOB.read_text())
    job["spec"]["rayClusterSpec"]["enableInTreeAutoscaling"] = False
    job["spec"]["rayClusterSpec"]["workerGroupSpecs"][0]["replicas"] = 3
    path = tmp_path / "job.yaml"
    path.write_text(yaml.safe_dump(job))
    assert [each.max_nodes for each in read_cluster_file(path).types] == [1, 3, 0]


def test_what_a_type_leaves_out_is_what_ray_takes() -> None:
    types = {"head": {"resources": {"CPU": 4}}, "cpu": {}, "gpu": {"max_workers": 50}}
    config = {"max_workers": 6, "head_node_type": "head", "available_node_types": types}
    assert {each.name: each.max_nodes for each in of_launcher(config)} == {
        "head": 1, "cpu": 6, "gpu": 6,  # no more than all workers together
    }  # fmt: skip


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("available_node_types: {gpu: {max_workers: 2}}", "available_node_types.gpu does not say"),
        ("available_node_types: [gpu]", "its node types cannot be read"),
        ("spec: {headGroupSpec: {}}", "its node types cannot be read"),
        ("name: llmaug", "has neither available_node_types"),
        ("{", "cannot be read as YAML"),
    ],
)
def test_a_file_of_no_cluster_is_named(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "cluster.yaml"
    path.write_text(text)
    with pytest.raises(UserError, match=said) as error:
        read_cluster_file(path)
    assert str(path) in str(error.value)


# -- of a cluster that runs -----------------------------------------------------------------

UP = [
    {"Alive": True, "Resources": {"CPU": 8.0, "node:__internal_head__": 1.0}},
    {"Alive": False, "Resources": {"CPU": 8.0, "GPU": 4.0}},
]
GPUS = {
    "max_workers": 8,
    "head_node_type": "head",
    "available_node_types": {
        "head": {"resources": {"CPU": 8, "GPU": 0}},
        "gpu": {"resources": {"CPU": 8, "GPU": 1}},
    },
}
Told = dict[str, Any] | Exception | None


@pytest.fixture
def on(monkeypatch: pytest.MonkeyPatch) -> Callable[[Told], RayConfig]:
    """A cluster with a head alone, whose autoscaler was told so (or there is none)."""
    import ray

    def on(told: Told) -> RayConfig:
        def answer(*_: Any, **__: Any) -> Any:
            if isinstance(told, Exception):
                raise told
            return told

        monkeypatch.setattr(node_types, "connect", lambda config: None)
        monkeypatch.setattr(ray, "nodes", lambda: UP)
        monkeypatch.setattr(ray, "get_runtime_context", lambda: _Here)
        monkeypatch.setattr(ray, "remote", lambda **_: lambda function: _Remote)
        monkeypatch.setattr(ray, "get", answer)
        monkeypatch.setattr(ray._private.state.state, "get_cluster_config", lambda: None)
        node_types._told.cache_clear()
        return RayConfig(address="auto")

    return on


class _Here:
    gcs_address = "head:6379"


class _Remote:
    @staticmethod
    def remote(*_: Any) -> None:
        return None


def test_gpus_that_are_not_up_yet_are_seen(on: Callable[[Told], RayConfig]) -> None:
    found = machines(on(GPUS))
    assert found.most("GPU") == 1
    # The head is there once, as the type that it is of; a dead node is not.
    assert [(each.name, each.max_nodes) for each in found.types] == [("head", 1), ("gpu", 8)]


def test_without_an_autoscaler_there_is_what_is_up(on: Callable[[Told], RayConfig]) -> None:
    assert machines(on(None)) == Machines((NodeType("machine 1", {"CPU": 8.0}, 1),))


def test_a_head_that_cannot_say_is_no_head_without_gpus(on: Callable[[Told], RayConfig]) -> None:
    found = machines(on(PermissionError("403 Forbidden")))
    assert found.most("GPU") == 0 and "403 Forbidden" in found.unseen


def test_a_platform_that_reports_its_types_is_believed(
    on: Callable[[Told], RayConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    import ray
    from ray.core.generated.autoscaler_pb2 import ClusterConfig, NodeGroupConfig

    config = on(AssertionError("nobody needs to be asked"))
    group = NodeGroupConfig(name="a100", resources={"CPU": 12, "GPU": 8}, max_count=-1)
    reported = ClusterConfig(node_group_configs=[group])
    monkeypatch.setattr(ray._private.state.state, "get_cluster_config", lambda: reported)
    assert NodeType("a100", {"CPU": 12, "GPU": 8}, math.inf) in machines(config).types


def test_the_head_reads_the_file_that_its_autoscaler_was_started_with(tmp_path: Path) -> None:
    path = tmp_path / "bootstrap.yaml"
    path.write_text(json.dumps(GPUS))
    others = ["--gcs-address=head:1", f"--autoscaling-config={tmp_path / 'of another cluster'}"]
    mine = ["--gcs-address=head:6379", f"--autoscaling-config={path}"]
    wait = tmp_path / "monitor.py"
    wait.write_text("import time; print('up', flush=True); time.sleep(60)")
    running = [
        subprocess.Popen([sys.executable, str(wait), *line], stdout=subprocess.PIPE)
        for line in (others, mine)
    ]
    try:
        for process in running:
            assert process.stdout and process.stdout.readline()
        assert autoscaler_config("head:6379") == GPUS
        assert autoscaler_config("head:7") is None
    finally:
        for process in running:
            process.kill()
            process.wait()


def test_the_head_of_kuberay_reads_its_raycluster(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ray.autoscaler._private.kuberay import node_provider

    job = yaml.safe_load(RAYJOB.read_text())
    asked = []

    class Kubernetes:
        def __init__(self, namespace: str) -> None:
            asked.append(namespace)

        def get(self, path: str) -> dict[str, Any]:
            asked.append(path)
            return {"spec": job["spec"]["rayClusterSpec"]}

    (tmp_path / "namespace").write_text("nights")
    monkeypatch.setattr(node_types, "_NAMESPACE", tmp_path / "namespace")
    monkeypatch.setattr(node_provider, "KubernetesHttpApiClient", Kubernetes)
    monkeypatch.setenv("RAY_CLUSTER_NAME", "llmaug-raycluster")
    config = autoscaler_config("head:6379")
    assert asked == ["nights", "rayclusters/llmaug-raycluster"] and config
    assert {each.name: each.max_nodes for each in of_launcher(config)} == {
        "headgroup": 1, "cpu": 8, "gpu": 8,
    }  # fmt: skip
