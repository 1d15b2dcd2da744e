"""Which machines a cluster has, and which its autoscaler can launch.

On a cluster that scales from zero nothing is up when a job begins. Ray tells a driver what is up;
what may come GCS knows only on platforms that report it (`ClusterConfig`). The autoscalers of
Ray's own launcher and of KubeRay do not (Ray 2.60), so theirs is read where they read it: on the
head, the file that the autoscaler was started with, or the RayCluster.
"""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from llmaug.config import RayConfig
from llmaug.core.cluster import address_of, connect
from llmaug.errors import UserError

_HEAD = "node:__internal_head__"  # a resource of the head alone
_ASK_TIMEOUT_S = 120.0  # a worker of the head has to start
_NAMESPACE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")


@dataclass(frozen=True)
class NodeType:
    """Machines of one kind."""

    name: str
    resources: Mapping[str, float]
    """Of each, in Ray's words: CPU, GPU, memory in bytes."""
    max_nodes: float
    """That are up or may come; infinity where nothing limits them."""


@dataclass(frozen=True)
class Machines:
    """All that a cluster may have at a time."""

    types: tuple[NodeType, ...]
    unseen: str = ""
    """Why more may come than could be seen; '' where these are all."""

    def most(self, resource: str) -> float:
        """The most that one machine has of `resource`."""
        having = (each for each in self.types if each.max_nodes)
        return max((each.resources.get(resource, 0) for each in having), default=0)

    def __str__(self) -> str:
        return ", ".join(
            f"{each.name} ({_said(each)})" for each in self.types if each.max_nodes
        )  # fmt: skip


def _said(each: NodeType) -> str:
    own = [f"{each.resources.get(name, 0):g} {name}" for name in ("CPU", "GPU")]
    return f"up to {each.max_nodes:g} of {', '.join(own)}"


# -- of a connected cluster -----------------------------------------------------------------


def machines(config: RayConfig) -> Machines:
    """Those of the cluster that `config` names, up or not. Starts a local Ray where it names
    none: that has this machine alone."""
    import ray

    connect(config)
    up = _up(ray.nodes())
    if not address_of(config):
        return Machines(up)
    told = _told(ray.get_runtime_context().gcs_address)
    if told is None:
        return Machines(up)
    if isinstance(told, str):
        return Machines(up, unseen=told)
    # A machine that is up and of no type that may come was added by hand.
    known = {_shape(each.resources) for each in told}
    by_hand = (each for each in up if _shape(each.resources) not in known)
    return Machines((*told, *by_hand))


def _up(nodes: Iterable[dict[str, Any]]) -> tuple[NodeType, ...]:
    """The machines that are up, those that are alike together."""
    shapes = Counter(_shape(node["Resources"]) for node in nodes if node["Alive"])
    return tuple(
        NodeType(f"machine {number}", dict(shape), count)
        for number, (shape, count) in enumerate(sorted(shapes.items()), start=1)
    )


def _shape(resources: Mapping[str, float]) -> tuple[tuple[str, float], ...]:
    return tuple((name, resources[name]) for name in ("CPU", "GPU") if resources.get(name))


@cache
def _told(gcs_address: str) -> tuple[NodeType, ...] | str | None:
    """Of a cluster's autoscaler: its node types, or why they cannot be seen; None where there is
    no autoscaler. Asked once: a worker of the head has to start for it."""
    import ray
    from ray._private.state import state  # what Ray Data itself asks; no public call tells it

    reported = state.get_cluster_config()
    if reported and reported.node_group_configs:
        return tuple(
            NodeType(
                each.name or f"group {number}",
                dict(each.resources),
                math.inf if each.max_count < 0 else each.max_count,
            )
            for number, each in enumerate(reported.node_group_configs, start=1)
        )
    ask = ray.remote(num_cpus=0, resources={_HEAD: 0.001}, max_retries=0)(autoscaler_config)
    try:
        config = ray.get(ask.remote(gcs_address), timeout=_ASK_TIMEOUT_S)
        return None if config is None else of_launcher(config)
    except Exception as error:  # of Kubernetes, of the file, of a head that lets no task in
        return f"the head could not say what its autoscaler launches ({_last_line(error)})"


def _last_line(error: Exception) -> str:
    return next(reversed(str(error).strip().splitlines()), type(error).__name__)


def autoscaler_config(gcs_address: str) -> dict[str, Any] | None:
    """Runs on the head: what its autoscaler was told, in the words of Ray's launcher; None where
    no autoscaler runs. Raises whatever the file or Kubernetes raises."""
    import psutil

    port = gcs_address.rpartition(":")[2]  # a host has several names
    for process in psutil.process_iter(["cmdline"]):
        line = process.info["cmdline"] or []
        given = dict(part.split("=", 1) for part in line if part.startswith("--") and "=" in part)
        file = given.get("--autoscaling-config")
        of_this = given.get("--gcs-address", "").endswith(f":{port}")
        if of_this and file and any(part.endswith("monitor.py") for part in line):
            return yaml.safe_load(Path(file).expanduser().read_text(encoding="utf-8"))
    name = os.environ.get("RAY_CLUSTER_NAME")  # KubeRay: the autoscaler is another container
    if not name or not _NAMESPACE.is_file():
        return None
    from ray.autoscaler._private.kuberay.node_provider import KubernetesHttpApiClient

    cluster = KubernetesHttpApiClient(_NAMESPACE.read_text().strip()).get(f"rayclusters/{name}")
    return _of_kuberay(cluster["spec"])


# -- of files -------------------------------------------------------------------------------


def read_cluster_file(path: Path) -> Machines:
    """Of a file of Ray's launcher (cluster.yaml), or one with a RayCluster, RayJob or RayCronJob of
    KubeRay.

    Raises UserError naming the file when it is none of these, or a type does not say what it has.
    """
    try:
        documents = list(yaml.safe_load_all(path.read_text(encoding="utf-8")))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UserError(f"{path}: cannot be read as YAML: {error}") from error
    for document in (each for each in documents if isinstance(each, dict)):
        spec = document.get("spec") or {}
        spec = spec.get("jobTemplate") or spec
        cluster: dict[str, Any] = spec.get("rayClusterSpec") or spec
        try:
            if "available_node_types" in document:
                return Machines(_with_resources(of_launcher(document), path))
            if "headGroupSpec" in cluster:
                return Machines(of_launcher(_of_kuberay(cluster)))
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise UserError(f"{path}: its node types cannot be read: {error!r}") from error
    raise UserError(
        f"{path}: has neither available_node_types (a file for `ray up`) nor a RayCluster or "
        "RayJob of KubeRay"
    )


def of_launcher(config: dict[str, Any]) -> tuple[NodeType, ...]:
    """Node types in the words of Ray's launcher, with its defaults; the head is one machine."""
    workers, head = config.get("max_workers", 2), config.get("head_node_type")
    types = []
    for name, each in config["available_node_types"].items():
        most = each.get("max_workers", 0 if name == head else workers)
        count = min(most, workers) + (name == head)
        types.append(NodeType(name, each.get("resources") or {}, count))
    return tuple(types)


def _of_kuberay(spec: dict[str, Any]) -> dict[str, Any]:
    """Spec of a RayCluster in the words of Ray's launcher, by Ray's own reading of it."""
    from ray.autoscaler._private.kuberay.autoscaling_config import (
        _derive_autoscaling_config_from_ray_cr,
    )

    groups = [{**group} for group in spec.get("workerGroupSpecs") or []]
    if not spec.get("enableInTreeAutoscaling"):
        for group in groups:
            group["minReplicas"] = group["maxReplicas"] = group.get("replicas", 1)
    cluster = {
        "metadata": {"name": "cluster", "namespace": "default"},
        "spec": {**spec, "workerGroupSpecs": groups},
    }
    return _derive_autoscaling_config_from_ray_cr(cluster)


def _with_resources(types: tuple[NodeType, ...], path: Path) -> tuple[NodeType, ...]:
    for each in types:
        if not each.resources:
            raise UserError(
                f"{path}: available_node_types.{each.name} does not say what it has; give it "
                'resources, such as {"CPU": 8, "GPU": 1}'
            )
    return types
