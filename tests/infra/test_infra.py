"""Cluster files: they parse, validate offline, and agree with the package and each other."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml

from llmaug import __version__
from llmaug.config.names import WRITTEN
from scripts.s3_policy import policy

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def cluster() -> dict[str, Any]:
    return yaml.safe_load((ROOT / "cluster.yaml").read_text())


@pytest.fixture(scope="module")
def rayjob() -> dict[str, Any]:
    documents = list(yaml.safe_load_all((ROOT / "infra" / "rayjob.yaml").read_text()))
    assert [document["kind"] for document in documents] == ["ServiceAccount", "RayJob"]
    return documents[1]


def test_cluster_validates_against_rays_schema(cluster: dict[str, Any]) -> None:
    from ray.autoscaler._private.util import prepare_config, validate_config

    validate_config(prepare_config(cluster))


def test_head_has_no_gpu_and_gpu_workers_are_spot_from_zero(cluster: dict[str, Any]) -> None:
    types = cluster["available_node_types"]
    assert types[cluster["head_node_type"]]["resources"]["GPU"] == 0
    assert types["gpu"]["min_workers"] == 0 and types["gpu"]["resources"]["GPU"] >= 1
    assert types["gpu"]["node_config"]["InstanceMarketOptions"] == {"MarketType": "spot"}
    assert any("llmaug[gpu]" in command for command in cluster["setup_commands"])


def test_rights_come_from_instance_profiles_not_keys(cluster: dict[str, Any]) -> None:
    for node_type in cluster["available_node_types"].values():
        assert node_type["node_config"]["IamInstanceProfile"]
    assert "aws_access_key" not in json.dumps(cluster).lower()
    assert "ssh_private_key" not in cluster["auth"]


def test_one_ray_version_everywhere(cluster: dict[str, Any], rayjob: dict[str, Any]) -> None:
    pinned = "2.60.0"
    assert f"ray[data,default,train]=={pinned}" in (ROOT / "pyproject.toml").read_text()
    for image in ("image", "head_image", "worker_image"):
        assert cluster["docker"][image].startswith(f"rayproject/ray:{pinned}-")
    dockerfile = (ROOT / "infra" / "Dockerfile").read_text()
    assert f"RAY_IMAGE=rayproject/ray:{pinned}-" in dockerfile
    assert rayjob["spec"]["rayClusterSpec"]["rayVersion"] == pinned


def test_rayjob_ends_retries_and_cleans_up(rayjob: dict[str, Any]) -> None:
    spec = rayjob["spec"]
    assert spec["backoffLimit"] >= 1
    assert spec["activeDeadlineSeconds"] > 0
    assert spec["shutdownAfterJobFinishes"] is True
    assert spec["ttlSecondsAfterFinished"] > 0  # KubeRay ignores it without the shutdown


def test_rayjob_retries_resume_the_same_run(rayjob: dict[str, Any]) -> None:
    arguments = shlex.split(rayjob["spec"]["entrypoint"])
    assert arguments[:2] == ["python", "/home/ray/llmaug/jobs/nightly.py"]
    given = dict(zip(arguments[2::2], arguments[3::2], strict=True))
    assert set(given) == {"--config", "--root", "--run-id"}
    assert rayjob["metadata"]["name"].endswith(given["--run-id"])


def test_pods_are_not_root_and_use_the_service_account(rayjob: dict[str, Any]) -> None:
    cluster_spec = rayjob["spec"]["rayClusterSpec"]
    groups = [cluster_spec["headGroupSpec"], *cluster_spec["workerGroupSpecs"]]
    for pod in (group["template"]["spec"] for group in groups):
        assert pod["serviceAccountName"] == "llmaug"
        assert pod["securityContext"]["runAsNonRoot"] is True
        (container,) = pod["containers"]
        assert container["image"].endswith(f":{__version__}")
        assert container["resources"]["limits"] == container["resources"]["requests"]
        assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    (submitter,) = rayjob["spec"]["submitterPodTemplate"]["spec"]["containers"]
    assert submitter["image"] == container["image"] and "command" not in submitter
    worker = cluster_spec["workerGroupSpecs"][0]
    assert worker["minReplicas"] == 0
    limits = worker["template"]["spec"]["containers"][0]["resources"]["limits"]
    assert limits["nvidia.com/gpu"] == "1"


def test_policy_writes_only_what_runs_make() -> None:
    """tests/whole/test_end_to_end.py compares the same list with what a night leaves on S3."""
    stored = json.loads((ROOT / "infra" / "s3-policy.json").read_text())
    assert stored == policy("example-bucket/llmaug"), "python scripts/s3_policy.py renews it"
    *reading, writing = stored["Statement"]
    assert {each["Action"] for each in reading} == {"s3:ListBucket", "s3:GetObject"}
    assert not any("*" in action for action in writing["Action"])
    assert {place.split("/")[-2] for place in writing["Resource"]} == set(WRITTEN)


def test_every_call_to_a_cluster_of_machines_needs_a_token(cluster: dict[str, Any]) -> None:
    assert "--env RAY_AUTH_MODE=token" in cluster["docker"]["run_options"]
    assert cluster["file_mounts"]["/home/ray/.ray/auth_token"] == "~/.ray/auth_token"
    (head,) = [line for line in cluster["head_start_ray_commands"] if "ray start" in line]
    assert "--dashboard-host=127.0.0.1" in shlex.split(head)


def test_every_call_to_a_cluster_of_pods_needs_a_token(rayjob: dict[str, Any]) -> None:
    """KubeRay makes it: the operator refuses the field in versions that cannot."""
    assert rayjob["spec"]["rayClusterSpec"]["authOptions"] == {"mode": "token"}
    (head,) = _pods(rayjob)["head"]["spec"]["containers"]
    # The port of Ray Client: nothing here uses it.
    assert [port["containerPort"] for port in head["ports"]] == [6379, 8265]


def test_the_network_policy_lets_in_the_pods_of_a_night_and_the_operator(
    rayjob: dict[str, Any],
) -> None:
    policy = yaml.safe_load((ROOT / "infra" / "networkpolicy.yaml").read_text())
    spec = policy["spec"]
    assert policy["kind"] == "NetworkPolicy" and spec["policyTypes"] == ["Ingress"]
    chosen = spec["podSelector"]["matchLabels"]
    among, operator = spec["ingress"]
    assert among == {"from": [{"podSelector": {"matchLabels": chosen}}]}  # this namespace alone
    assert [port["port"] for port in operator["ports"]] == [8265]
    (asking,) = operator["from"]
    assert asking["podSelector"]["matchLabels"] == {"app.kubernetes.io/name": "kuberay-operator"}
    for name, pod in _pods(rayjob).items():
        assert pod["metadata"]["labels"].items() >= chosen.items(), name


def test_no_secret_stands_in_the_files() -> None:
    files = [ROOT / "cluster.yaml", *(ROOT / "infra").iterdir()]
    for path in files:
        text = path.read_text()
        assert not re.search(r"RAY_AUTH_TOKEN\s*[=:]\s*\S", text), path
        assert not re.search(r"\b[0-9a-f]{32,}\b|AKIA[0-9A-Z]{16}", text), path
        assert "0.0.0.0" not in text, path


def _pods(rayjob: dict[str, Any]) -> dict[str, Any]:
    spec = rayjob["spec"]
    groups = spec["rayClusterSpec"]
    workers = {group["groupName"]: group["template"] for group in groups["workerGroupSpecs"]}
    head = groups["headGroupSpec"]["template"]
    return {"submitter": spec["submitterPodTemplate"], "head": head, **workers}


def test_image_runs_as_an_ordinary_user() -> None:
    lines = (ROOT / "infra" / "Dockerfile").read_text().splitlines()
    users = [line.split()[1] for line in lines if line.startswith("USER ")]
    assert users == ["ray"]
