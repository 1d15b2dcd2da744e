"""Connecting to Ray: quietly, and with a sentence where there is none."""

from __future__ import annotations

import os

import pytest

from llmaug import cluster
from llmaug.config import RayConfig
from llmaug.errors import UserError


def test_what_others_write_meanwhile_is_not_lost(capfd: pytest.CaptureFixture[str]) -> None:
    with cluster._stderr_without("level"):
        os.write(2, b"a warning\nset the level to 3\nmore\n")
    os.write(2, b"afterwards\n")
    assert capfd.readouterr().err == "a warning\nmore\nafterwards\n"


def test_an_error_inside_comes_out_with_what_was_written(
    capfd: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(RuntimeError, match="no Ray"), cluster._quiet_core():
        os.write(2, b"why\n")
        raise RuntimeError("no Ray")
    assert capfd.readouterr().err == "why\n"


def test_an_address_where_no_ray_answers_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    import ray

    def init(**_: object) -> None:
        raise ConnectionError("ray client connection timeout")

    monkeypatch.setattr(ray, "init", init)
    with pytest.raises(UserError, match="no Ray cluster at ray://nowhere:10001: ray client"):
        cluster._start(RayConfig(address="ray://nowhere:10001"))
