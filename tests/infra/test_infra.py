"""Cluster files: they parse, validate offline, and agree with the package and each other."""

from __future__ import annotations

import json
import re
import shlex
from importlib.metadata import requires, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from packaging.requirements import Requirement
from packaging.version import Version

from llmaug.config.names import WRITTEN
from scripts.s3_policy import policy

ROOT = Path(__file__).parents[2]


FILES = {"aws": ROOT / "cluster.yaml", "gcp": ROOT / "infra" / "gcp" / "cluster.yaml"}
IMAGE = "/aws/service/deeplearning/ami/x86_64/base-oss-nvidia-driver-gpu-ubuntu-24.04/latest/ami-id"


@pytest.fixture(scope="module", params=FILES)
def cluster(request: pytest.FixtureRequest) -> dict[str, Any]:
    return yaml.safe_load(FILES[request.param].read_text())


@pytest.fixture(scope="module")
def aws() -> dict[str, Any]:
    return yaml.safe_load(FILES["aws"].read_text())


def test_cluster_validates_against_rays_schema(cluster: dict[str, Any]) -> None:
    from ray.autoscaler._private.util import prepare_config, validate_config

    validate_config(prepare_config(cluster))
    cluster["available_node_types"]["gpu"]["spot"] = True
    with pytest.raises(jsonschema.ValidationError, match="'spot' was unexpected"):
        validate_config(cluster)
    del cluster["available_node_types"]["gpu"]["spot"]


def test_the_head_does_no_work_and_workers_come_from_zero(cluster: dict[str, Any]) -> None:
    types = cluster["available_node_types"]
    assert types[cluster["head_node_type"]]["resources"] == {"CPU": 0, "GPU": 0}
    assert types["cpu"]["resources"]["CPU"] > 0 == types["cpu"]["resources"]["GPU"]
    assert types["gpu"]["resources"]["GPU"] >= 1
    for name in ("cpu", "gpu"):
        assert types[name]["min_workers"] == 0
    assert types["cpu"]["max_workers"] + types["gpu"]["max_workers"] == cluster["max_workers"]
    # An ingest that is broken off starts over; units that are lost are given out again.
    spot = {name: "spot" in json.dumps(each["node_config"]).lower() for name, each in types.items()}
    assert spot == {"head": False, "cpu": False, "gpu": True}


def test_the_twins_differ_in_their_cloud_alone() -> None:
    """In names, sizes of groups, tokens and commands they are the same."""
    aws, gcp = (yaml.safe_load(path.read_text()) for path in FILES.values())
    for each in (aws, gcp):
        del each["provider"], each["file_mounts"]
        for node_type in each["available_node_types"].values():
            del node_type["node_config"]
        each["setup_commands"] = [
            command.replace("aws", "CLOUD").replace("gcp", "CLOUD")
            for command in each["setup_commands"]
        ]
    assert aws == gcp


def test_no_machine_starts_from_an_image_that_is_out_of_support(aws: dict[str, Any]) -> None:
    """EC2 takes `resolve:ssm:` names as they are, and Ray hands them on: it puts its own image, of
    Ubuntu 18.04, in the place of these words alone."""
    images = {each["node_config"]["ImageId"] for _, each in _types(aws)}
    assert images == {f"resolve:ssm:{IMAGE}"}
    provider = find_spec("ray.autoscaler._private.aws.config")  # importing it takes boto3
    assert provider and provider.origin
    assert 'if node_ami in ["", "latest_dlami"]:' in Path(provider.origin).read_text()


def test_rights_come_from_instance_profiles_not_keys(aws: dict[str, Any]) -> None:
    for _, node_type in _types(aws):
        assert node_type["node_config"]["IamInstanceProfile"]
        assert node_type["node_config"]["MetadataOptions"] == {"HttpTokens": "required"}
    assert "aws_access_key" not in json.dumps(aws).lower()
    assert "ssh_private_key" not in aws["auth"]


@pytest.mark.parametrize("python", ["3.11", "3.12", "3.13"])
def test_boto3_and_s3fs_agree_on_one_botocore(python: str, aws: dict[str, Any]) -> None:
    """What the head installs. boto3 x.y.z takes the botocores of x.y from z on; aiobotocore, which
    s3fs stands on, takes a handful of them: as installed here it takes the one that is locked."""
    (command,) = aws["setup_commands"]
    assert "llmaug[gpu,aws]" in command and "--constraint" in command
    assert not aws["head_setup_commands"]  # a boto3 by itself would bring another botocore
    lines = (ROOT / f"requirements/constraints-gpu-{python}.txt").read_text().splitlines()[1:]
    pins = {name: Version(version) for name, version in (line.split("==") for line in lines)}
    boto3, botocore = pins["boto3"], pins["botocore"]
    assert boto3.release[:2] == botocore.release[:2] and boto3 <= botocore
    if pins["aiobotocore"] == Version(version("aiobotocore")):
        needs = [Requirement(each) for each in requires("aiobotocore") or []]
        (wanted,) = [each for each in needs if each.name == "botocore" and not each.marker]
        assert wanted.specifier.contains(str(botocore))


def test_one_ray_version_everywhere(cluster: dict[str, Any]) -> None:
    pinned = "2.60.0"
    assert f"ray[data,default,train]=={pinned}" in (ROOT / "pyproject.toml").read_text()
    images = re.findall(r"rayproject/ray:[\w.-]+", json.dumps(cluster))
    assert len(images) == 4 and all(f"ray:{pinned}-" in image for image in images)
    for dockerfile in (ROOT / "infra" / "docker").glob("*.Dockerfile"):
        assert f"RAY_IMAGE=rayproject/ray:{pinned}-" in dockerfile.read_text()
    for name in ("rayjob", "raycronjob"):
        text = (ROOT / "infra" / "k8s" / f"{name}.yaml").read_text()
        assert re.findall(r"rayVersion: (\S+)", text) == [pinned]


def test_policy_writes_only_what_runs_make() -> None:
    """tests/whole/test_end_to_end.py compares the same list with what a night leaves on S3."""
    stored = json.loads((ROOT / "infra" / "s3-policy.json").read_text())
    assert stored == policy("example-bucket/llmaug"), "python scripts/s3_policy.py renews it"
    assert policy("s3://example-bucket/llmaug/") == stored
    whole = policy("example-bucket")["Statement"][0]["Condition"]
    assert whole == {"StringLike": {"s3:prefix": ["*"]}}  # keys below a bucket begin with no slash
    *reading, writing = stored["Statement"]
    assert {each["Action"] for each in reading} == {"s3:ListBucket", "s3:GetObject"}
    assert not any("*" in action for action in writing["Action"])
    assert {place.split("/")[-2] for place in writing["Resource"]} == set(WRITTEN)


def _types(cluster: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    return list(cluster["available_node_types"].items())


def test_every_call_to_a_cluster_of_machines_needs_a_token(cluster: dict[str, Any]) -> None:
    assert "--env RAY_AUTH_MODE=token" in cluster["docker"]["run_options"]
    assert cluster["file_mounts"]["/home/ray/.ray/auth_token"] == "~/.ray/auth_token"
    (head,) = [line for line in cluster["head_start_ray_commands"] if "ray start" in line]
    assert "--dashboard-host=127.0.0.1" in shlex.split(head)


def test_no_secret_stands_in_the_files() -> None:
    files = [ROOT / "cluster.yaml", *(ROOT / "infra").rglob("*")]
    for path in (path for path in files if path.is_file()):
        text = path.read_text()
        assert not re.search(r"RAY_AUTH_TOKEN\s*[=:]\s*\S", text), path
        assert not re.search(r"\b[0-9a-f]{32,}\b|AKIA[0-9A-Z]{16}", text), path
        assert not re.search(r"0\.0\.0\.0(?!/0)", text), path
