"""What is passed on to the workers of a cluster stands in Ray's logs: no secret may be in it."""

from __future__ import annotations

import re
from typing import Any

import pytest

from llmaug import cluster
from llmaug.cluster import WORKER_ENV, worker_env
from llmaug.config import RayConfig

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


def test_a_ray_of_this_machine_asks_for_a_token_too(ray_session: None) -> None:
    """It listens on all interfaces, whatever it is told: Ray makes a token for it by itself."""
    from ray._private.authentication.authentication_utils import is_token_auth_enabled

    assert is_token_auth_enabled()
