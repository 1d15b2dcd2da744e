"""Dashboard and alerts ask for metrics that are really exported."""

from __future__ import annotations

import ast
import json
import re
import subprocess
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from shutil import which

import pytest
import yaml

from llmaug.config import Config

ROOT = Path(__file__).parents[2]
PROMETHEUS = ROOT / "infra" / "prometheus"
DASHBOARD = ROOT / "infra" / "grafana" / "llmaug.json"


def ours() -> set[str]:
    """Names as Prometheus has them: Ray puts its own before them, and `_total` behind counters."""
    found = set()
    for path in (ROOT / "llmaug").rglob("*.py"):
        text = path.read_text()
        if "ray.util.metrics" not in text:
            continue
        for node in ast.walk(ast.parse(text)):
            if not (isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name)):
                continue
            if node.targets[0].id in ("COUNTERS", "GAUGES"):
                end = "_total" if node.targets[0].id == "COUNTERS" else ""
                found |= {f"ray_llmaug_{name}{end}" for name in ast.literal_eval(node.value)}
    return found


def of_ray() -> set[str]:
    """Gauges of each node, from the source of Ray's reporter."""
    reporter = find_spec("ray.dashboard.modules.reporter.reporter_agent")
    assert reporter and reporter.origin
    gauges = re.findall(r'"(\w+)": Gauge\(', Path(reporter.origin).read_text())
    return {f"ray_{name}" for name in gauges}


def asked_by_alerts() -> Iterator[tuple[str, str]]:
    (group,) = yaml.safe_load((PROMETHEUS / "alerts.yaml").read_text())["groups"]
    for rule in group["rules"]:
        yield rule["alert"], rule["expr"]


def asked_by_the_dashboard() -> Iterator[tuple[str, str]]:
    dashboard = json.loads(DASHBOARD.read_text())
    for panel in dashboard["panels"]:
        for target in panel["targets"]:
            yield panel["title"], target["expr"]
    for variable in dashboard["templating"]["list"]:
        if variable["type"] == "query":
            yield variable["name"], variable["query"]["query"]


@pytest.mark.parametrize("asked", [asked_by_alerts, asked_by_the_dashboard])
def test_every_metric_that_is_asked_for_is_exported(asked: object) -> None:
    exported = ours() | of_ray()
    assert {"ray_llmaug_generated_total", "ray_llmaug_engines", "ray_node_mem_used"} <= exported
    for who, expression in asked():  # type: ignore[operator]
        names = set(re.findall(r"\bray_\w+", expression))
        assert names and names <= exported, f"{who}: {sorted(names - exported)}"


def test_the_dashboard_shows_everything_that_llmaug_exports() -> None:
    shown = {name for _, text in asked_by_the_dashboard() for name in re.findall(r"ray_\w+", text)}
    assert ours() <= shown


def test_alerts_say_what_to_do() -> None:
    (group,) = yaml.safe_load((PROMETHEUS / "alerts.yaml").read_text())["groups"]
    sections = set(Config.model_fields)
    for rule in group["rules"]:
        assert rule["labels"]["severity"] in ("warning", "critical")
        assert rule["annotations"]["summary"]
        for section, field in re.findall(r"\b(\w+)\.(\w+)\b", rule["annotations"]["description"]):
            if section in sections:
                schema = Config.model_fields[section].annotation
                assert field in getattr(schema, "model_fields", {field: None}), rule["alert"]


def test_the_pods_are_scraped_where_they_open_a_port() -> None:
    monitor = yaml.safe_load((PROMETHEUS / "podmonitor.yaml").read_text())["spec"]
    job = yaml.safe_load((ROOT / "infra" / "k8s" / "rayjob.yaml").read_text())
    cluster = job["spec"]["rayClusterSpec"]
    (endpoint,) = monitor["podMetricsEndpoints"]
    groups = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]
    for pod in (group["template"] for group in groups):
        (container,) = pod["spec"]["containers"]
        assert endpoint["port"] in {port["name"] for port in container["ports"]}
        assert pod["metadata"]["labels"].items() >= monitor["selector"]["matchLabels"].items()


@pytest.mark.skipif(which("promtool") is None, reason="Prometheus is not installed here")
def test_prometheus_takes_its_files() -> None:
    for kind, name in (("rules", "alerts.yaml"), ("config", "prometheus.yml")):
        command = ["promtool", "check", kind, str(PROMETHEUS / name)]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
