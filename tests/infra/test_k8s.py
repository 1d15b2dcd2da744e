"""The files of infra/k8s: Kubernetes and KubeRay take them, and pods may do what they must."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from kubernetes_validate import validate

from llmaug import __version__

FOLDER = Path(__file__).parents[2] / "infra" / "k8s"
SCHEMA = json.loads(Path(__file__).with_name("kuberay.schema.json").read_text())
KUBERNETES = "1.34"

Object = dict[str, Any]


def objects(name: str = "*") -> list[Object]:
    files = sorted(FOLDER.glob(f"{name}.yaml"))
    return [each for file in files for each in yaml.safe_load_all(file.read_text())]


def of_kind(kind: str) -> Object:
    (found,) = [each for each in objects() if each["kind"] == kind]
    return found


@pytest.fixture
def rayjob() -> Object:
    return of_kind("RayJob")


def pods_of(job: Object) -> Iterator[tuple[str, Object]]:
    """(whose, pod template) of the spec of a RayJob."""
    yield "submitter", job["submitterPodTemplate"]
    cluster = job["rayClusterSpec"]
    yield "head", cluster["headGroupSpec"]["template"]
    for group in cluster["workerGroupSpecs"]:
        yield group["groupName"], group["template"]


def all_pods() -> list[tuple[str, Object]]:
    nightly = of_kind("RayCronJob")["spec"]["jobTemplate"]
    return [
        *pods_of(of_kind("RayJob")["spec"]),
        *((f"nightly {name}", pod) for name, pod in pods_of(nightly)),
        ("apply", of_kind("CronJob")["spec"]["jobTemplate"]["spec"]["template"]),
    ]


# -- what Kubernetes and KubeRay take ---------------------------------------------------------


def test_kubernetes_takes_its_own_kinds_and_every_pod() -> None:
    own = [each for each in objects() if not each["apiVersion"].startswith("ray.io/")]
    assert {each["kind"] for each in own} == {
        "Namespace", "ServiceAccount", "NetworkPolicy", "Role", "RoleBinding", "CronJob",
    }  # fmt: skip
    pods = [
        {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x"}, "spec": pod["spec"]}
        for _, pod in all_pods()
    ]
    for each in own + pods:
        validate(each, KUBERNETES, strict=True)
    pods[0]["spec"]["containers"][0]["readOnly"] = True
    with pytest.raises(jsonschema.ValidationError, match="readOnly"):
        validate(pods[0], KUBERNETES, strict=True)


@pytest.mark.parametrize("kind", ["RayJob", "RayCronJob"])
def test_kuberay_takes_its_kinds(kind: str) -> None:
    found = of_kind(kind)
    jsonschema.validate(found, SCHEMA)
    found["spec"]["concurrencyPolicy"] = "Forbid"  # of a CronJob, not of these
    with pytest.raises(jsonschema.ValidationError, match="concurrencyPolicy"):
        jsonschema.validate(found, SCHEMA)


@pytest.mark.skipif("KUBERAY_CRDS" not in os.environ, reason="KUBERAY_CRDS: a folder with the CRDs")
@pytest.mark.parametrize("kind", ["RayJob", "RayCronJob"])
def test_the_crds_of_kuberay_take_them(kind: str) -> None:
    """KUBERAY_CRDS: `helm-chart/kuberay-operator/crds` of KubeRay's repository or chart."""
    file = Path(os.environ["KUBERAY_CRDS"], f"ray.io_{kind.lower()}s.yaml")
    crd = yaml.load(file.read_text(), yaml.CSafeLoader)
    (schema,) = [
        version["schema"]["openAPIV3Schema"]
        for version in crd["spec"]["versions"]
        if version["name"] == "v1"
    ]
    schema = _strict(schema)
    schema["properties"]["metadata"] = {"type": "object"}
    jsonschema.validate(of_kind(kind), schema)


def _strict(node: Any) -> Any:
    """A CRD's schema that refuses fields which it does not know: the API server drops them."""
    if isinstance(node, list):
        return [_strict(each) for each in node]
    if not isinstance(node, dict):
        return node
    found = {key: _strict(value) for key, value in node.items()}
    if found.pop("x-kubernetes-int-or-string", None):
        found.pop("type", None)
    if "properties" in found and not found.get("x-kubernetes-preserve-unknown-fields"):
        found.setdefault("additionalProperties", False)
    return found


# -- a night ----------------------------------------------------------------------------------


def test_a_night_ends_retries_and_cleans_up(rayjob: Object) -> None:
    spec = rayjob["spec"]
    assert spec["backoffLimit"] >= 1
    assert spec["activeDeadlineSeconds"] > 0
    assert spec["shutdownAfterJobFinishes"] is True
    assert spec["ttlSecondsAfterFinished"] > 0  # KubeRay ignores it without the shutdown


def test_retries_resume_the_same_run(rayjob: Object) -> None:
    arguments = shlex.split(rayjob["spec"]["entrypoint"])
    assert arguments[:2] == ["python", "/home/ray/llmaug/jobs/nightly.py"]
    given = dict(zip(arguments[2::2], arguments[3::2], strict=True))
    assert set(given) == {"--config", "--root", "--date"}
    assert rayjob["metadata"]["name"].endswith(given["--date"])


def test_every_night_is_the_same_job_of_another_day(rayjob: Object) -> None:
    """RayCronJob: a copy of the job, for yesterday. CronJob: the job's own file, in which the day
    is replaced wherever it stands."""
    nightly = of_kind("RayCronJob")["spec"]["jobTemplate"]
    date = rayjob["spec"]["entrypoint"].split()[-1]
    assert nightly["entrypoint"].split("--date ")[1] == "yesterday"
    same = nightly["entrypoint"].replace("yesterday", date)
    assert {**nightly, "entrypoint": same} == rayjob["spec"]

    cron = of_kind("CronJob")["spec"]
    assert cron["concurrencyPolicy"] == "Forbid"
    assert (cron["schedule"], cron["timeZone"]) == ("30 2 * * *", "Etc/UTC")
    (container,) = cron["jobTemplate"]["spec"]["template"]["spec"]["containers"]
    (script,) = container["args"]
    shown = script.replace("/etc/llmaug/rayjob.yaml", str(FOLDER / "rayjob.yaml"))
    before = datetime.now(UTC) - timedelta(days=1)
    done = subprocess.run(
        ["sh", "-euc", shown.replace("kubectl apply -f -", "cat")], capture_output=True, text=True
    )
    made = yaml.safe_load(done.stdout)
    days = {before.date(), (datetime.now(UTC) - timedelta(days=1)).date()}  # midnight may pass
    assert made["metadata"]["name"] in {f"llmaug-{day}" for day in days}
    assert made["spec"]["entrypoint"].split()[-1] in {str(day) for day in days}
    assert date not in done.stdout
    # What its service account may do: no more than that.
    assert of_kind("Role")["rules"] == [
        {"apiGroups": ["ray.io"], "resources": ["rayjobs"], "verbs": ["get", "create", "patch"]}
    ]


def test_the_head_does_no_work_and_groups_come_from_zero(rayjob: Object) -> None:
    cluster = rayjob["spec"]["rayClusterSpec"]
    assert cluster["headGroupSpec"]["rayStartParams"] == {"num-cpus": "0", "num-gpus": "0"}
    groups = {group["groupName"]: group for group in cluster["workerGroupSpecs"]}
    assert set(groups) == {"cpu", "gpu"}
    gpus = {}
    for name, group in groups.items():
        (container,) = group["template"]["spec"]["containers"]
        gpus[name] = container["resources"]["limits"].get("nvidia.com/gpu")
    assert gpus == {"cpu": None, "gpu": "1"}
    assert all(group["minReplicas"] == group["replicas"] == 0 for group in groups.values())


# -- who may do what --------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "pod"), all_pods(), ids=[name for name, _ in all_pods()])
def test_pods_are_nobody_write_to_tmp_and_have_limits(name: str, pod: Object) -> None:
    spec = pod["spec"]
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    (container,) = spec["containers"]
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert container["resources"]["limits"] == container["resources"]["requests"]
    assert {"cpu", "memory"} <= set(container["resources"]["limits"])
    mounts = {mount["mountPath"]: mount for mount in container["volumeMounts"]}
    volumes = {volume["name"]: volume for volume in spec["volumes"]}
    home = next(each["value"] for each in container["env"] if each["name"] == "HOME")
    assert f"{home}/".startswith("/tmp/")
    for path, mount in mounts.items():
        volume = volumes[mount["name"]]
        assert mount.get("readOnly") or volume["emptyDir"]["sizeLimit"], path
    assert not any("secret" in volume for volume in spec["volumes"])
    assert "hostNetwork" not in spec and "hostPID" not in spec


def test_rays_pods_are_of_this_version_and_take_the_role(rayjob: Object) -> None:
    for name, pod in pods_of(rayjob["spec"]):
        (container,) = pod["spec"]["containers"]
        kind = "gpu" if name == "gpu" else "cpu"
        assert container["image"] == f"example.com/llmaug-{kind}:{__version__}"
        assert "command" not in container and "args" not in container  # KubeRay's
        # Only the head asks the Kubernetes API; the role's tokens come by themselves.
        assert pod["spec"].get("automountServiceAccountToken", True) == (name == "head")
        if name != "submitter":
            assert pod["spec"]["serviceAccountName"] == "llmaug"
    (account,) = [each for each in objects("namespace") if each["kind"] == "ServiceAccount"]
    assert re.fullmatch(
        r"arn:aws:iam::\d{12}:role/llmaug",
        account["metadata"]["annotations"]["eks.amazonaws.com/role-arn"],
    )


def test_every_call_to_a_cluster_of_pods_needs_a_token(rayjob: Object) -> None:
    """KubeRay makes it: the operator refuses the field in versions that cannot."""
    assert rayjob["spec"]["rayClusterSpec"]["authOptions"] == {"mode": "token"}
    (head,) = dict(pods_of(rayjob["spec"]))["head"]["spec"]["containers"]
    # Without the port of Ray Client: nothing here uses it.
    assert [port["containerPort"] for port in head["ports"]] == [6379, 8265, 8080]


def test_the_network_lets_in_the_night_the_operator_and_prometheus(rayjob: Object) -> None:
    spec = of_kind("NetworkPolicy")["spec"]
    assert spec["policyTypes"] == ["Ingress", "Egress"]
    chosen = spec["podSelector"]["matchLabels"]
    each_other = [{"podSelector": {"matchLabels": chosen}}]  # of this namespace alone
    among, operator, prometheus = spec["ingress"]
    assert among == {"from": each_other}
    for rule, who, port in ((operator, "kuberay-operator", 8265), (prometheus, "prometheus", 8080)):
        (asking,) = rule["from"]
        assert asking["podSelector"]["matchLabels"] == {"app.kubernetes.io/name": who}
        assert [each["port"] for each in rule["ports"]] == [port]
    for name, pod in pods_of(rayjob["spec"]):
        assert pod["metadata"]["labels"].items() >= chosen.items(), name


def test_the_network_lets_a_night_out_to_https_and_dns_alone() -> None:
    among, dns, https = of_kind("NetworkPolicy")["spec"]["egress"]
    assert among["to"][0]["podSelector"]["matchLabels"] == {"app.kubernetes.io/part-of": "llmaug"}
    assert {port["port"] for port in dns["ports"]} == {53}
    assert {port["port"] for port in https["ports"]} == {443, 6443}
    # The role of the machine that a pod is on is none of its business.
    assert https["to"] == [{"ipBlock": {"cidr": "0.0.0.0/0", "except": ["169.254.169.254/32"]}}]
