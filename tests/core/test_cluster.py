"""Connecting to Ray: quietly, with a sentence where there is none, and without a secret among what
is passed on to the workers (it stands in Ray's logs)."""

from __future__ import annotations

import os
import re
from typing import Any

import pytest

from llmaug.config import RayConfig
from llmaug.core import cluster
from llmaug.core.cluster import WORKER_ENV, worker_env
from llmaug.errors import UserError

_SECRETS = (
    "VLLM_API_KEY",
    "LLMAUG_TOKEN",
    "LLMAUG_PASSWORD",
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "HF_TOKEN",
    "RAY_AUTH_TOKEN",
    "OPENAI_API_KEY",
    "VLLM_S3_SECRET",
    "OMP_NUM_THREADS_KEY",
    "HTTPS_PROXY",
)


def test_no_variable_reaches_the_workers_but_those_that_are_named(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in _SECRETS:
        monkeypatch.setenv(name, "hunter2")
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    monkeypatch.setenv("VLLM_CPU_KVCACHE_SPACE", "2")
    passed = worker_env()
    assert "hunter2" not in passed.values() and not passed.keys() & set(_SECRETS)
    assert passed["OMP_NUM_THREADS"] == "3" and passed["VLLM_CPU_KVCACHE_SPACE"] == "2"
    assert passed.items() >= WORKER_ENV.items()


def test_none_of_the_named_variables_sounds_like_a_secret() -> None:
    secret = re.compile(r"KEY|TOKEN|SECRET|PASS|CREDENTIAL|AUTH|PROXY|URL", re.IGNORECASE)
    named = [*cluster._PASSED_ON, *WORKER_ENV]
    assert [name for name in named if secret.search(name)] == ["TOKENIZERS_PARALLELISM"]


@pytest.mark.parametrize("num_failures", [1, 2])
def test_a_machine_too_busy_for_ray_is_asked_again_and_then_said_in_a_sentence(
    monkeypatch: pytest.MonkeyPatch, num_failures: int
) -> None:
    import ray

    started: list[dict[str, Any]] = []

    def init(**settings: Any) -> None:
        started.append(settings)
        if len(started) <= num_failures:
            raise Exception("The current node timed out during startup. This could happen because")

    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", init)
    monkeypatch.setattr(ray, "shutdown", lambda: None)
    monkeypatch.setattr(cluster.signal, "signal", lambda *_: None)
    if num_failures == 1:
        cluster.connect(RayConfig())
    else:
        with pytest.raises(UserError, match="within its 30 seconds, twice.*command again"):
            cluster.connect(RayConfig())
    assert len(started) == 2 and started[0] == started[1]


def test_the_runtime_env_of_a_job_is_what_is_passed_on(monkeypatch: pytest.MonkeyPatch) -> None:
    import ray

    given: dict[str, Any] = {}
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", lambda **arguments: given.update(arguments))
    monkeypatch.setattr(cluster.signal, "signal", lambda *_: None)
    monkeypatch.setenv("VLLM_API_KEY", "hunter2")
    cluster.connect(RayConfig(address="auto"))
    assert given["runtime_env"] == {"env_vars": worker_env()}
    assert "hunter2" not in str(given)


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


def test_a_ray_of_this_machine_asks_for_a_token_too(ray_session: None) -> None:
    """It listens on all interfaces, whatever it is told: Ray makes a token for it by itself."""
    from ray._private.authentication.authentication_utils import is_token_auth_enabled

    assert is_token_auth_enabled()
