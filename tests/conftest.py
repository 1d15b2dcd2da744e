"""Fixtures that all tests share: one local Ray, an S3 server, contexts over a temporary folder."""

from __future__ import annotations

import os

# Before any import of ray, torch or transformers. None may wait for the network.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
# Several pytest workers share the cores: torch's threads would wait for each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.pop("RAY_ADDRESS", None)
# Of the S3 servers that tests start: Ray's workers know what stood here when Ray was started.
from tests.servers import ACCESS_KEY, SECRET_KEY, s3_server  # noqa: E402
from tests.soak import NIGHTS  # noqa: E402

os.environ["AWS_ACCESS_KEY_ID"], os.environ["AWS_SECRET_ACCESS_KEY"] = ACCESS_KEY, SECRET_KEY
os.environ["AWS_DEFAULT_REGION"] = "us-east-1"
os.environ.pop("AWS_ENDPOINT_URL", None)

from collections.abc import Callable, Iterator  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import Any  # noqa: E402

import hypothesis  # noqa: E402
import pytest  # noqa: E402

from llmaug.config import RayConfig, parse_config  # noqa: E402
from llmaug.core.progress import Progress  # noqa: E402
from llmaug.core.stage import Context  # noqa: E402
from llmaug.core.storage import Storage  # noqa: E402

# The same examples at every run; `make soak` looks for others.
hypothesis.settings.register_profile("fixed", derandomize=True, deadline=None)
hypothesis.settings.register_profile("soak", max_examples=5_000, deadline=None)
hypothesis.settings.load_profile("soak" if NIGHTS else "fixed")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leaves out what only `make soak` runs. Files that need Ray come first: they take longest,
    and short ones at the end keep all of pytest's workers busy."""
    left_out = [item for item in items if item.get_closest_marker("soak") and not NIGHTS]
    config.hook.pytest_deselected(items=left_out)
    items[:] = [item for item in items if item not in left_out]
    with_ray = {item.path for item in items if "ray_session" in item.fixturenames}
    items.sort(key=lambda item: item.path not in with_ray)


class QuietProgress(Progress):
    """Shows nothing; keeps the notes for tests to read."""

    def __init__(self) -> None:
        super().__init__()
        self.notes: list[str] = []

    def note(self, text: str, style: str = "") -> None:
        self.notes.append(text)


@pytest.fixture(scope="session")
def ray_session() -> Iterator[None]:
    """One local Ray for the whole test session."""
    from llmaug.core.cluster import connect, disconnect

    connect(RayConfig(num_cpus=4))
    yield
    disconnect()


@pytest.fixture(scope="module")
def shared_ray(ray_session: None) -> Iterator[None]:
    """Commands that the tests start join the session's Ray, as they would a cluster; one of
    their own takes ten seconds to start."""
    import ray

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_ADDRESS", ray.get_runtime_context().gcs_address)
        yield


@pytest.fixture
def fits_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray Train's local mode: a fit of the pipeline happens in this process, where a worker of
    its own takes 15 seconds to start. For tests of what is learnt; those of whole jobs and of
    kills have real workers."""
    from tests.nights import fit_here

    fit_here(monkeypatch)


@pytest.fixture
def stages_here(fits_here: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a job only the engines are left to Ray: what it spreads besides takes seconds a stage, and
    more for the workers that import it. For tests of what comes out."""
    from tests.nights import without_ray

    without_ray(monkeypatch)


@pytest.fixture(scope="module")
def endpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A real S3 server. Credentials come from the environment, as in production."""
    with s3_server(tmp_path_factory.mktemp("s3")) as url:
        yield url


@pytest.fixture
def make_context(tmp_path: Path) -> Callable[..., Context]:
    """`make_context(ingest={...}, run_id="test")`: a Context whose root is `tmp_path`.

    Keyword arguments are sections of the config.
    """

    def make(run_id: str = "test", **config: Any) -> Context:
        parsed = parse_config({"storage": {"root": str(tmp_path)}, **config}, "test config")
        return Context(Storage(str(tmp_path)), parsed, run_id, QuietProgress())

    return make
