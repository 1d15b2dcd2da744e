"""The page of a run on loopback: what goes on, then the report; nobody else is answered."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from http.client import HTTPConnection
from pathlib import Path

import pytest

from llmaug.commands.report_server import HOST, server
from llmaug.core.lease import Lease
from llmaug.core.stage import MANIFEST
from llmaug.core.storage import Storage
from llmaug.errors import UserError

FOLDER = "runs/tonight"
Get = Callable[..., tuple[int, str]]


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    """A run of two stages; the second is where it is."""
    storage = Storage(str(tmp_path))
    storage.write_json({"stages": ["ingest", "plan"]}, FOLDER, "run.json")
    storage.write_json({"parts": [{"rows": 7}], "seconds": 1.5}, FOLDER, "ingest", MANIFEST)
    progress = {"stage": "plan", "done": 5, "total": 9, "unit": "parts",
                "counts": {"units <b>": "1,200"}, "remaining_s": 4.2}  # fmt: skip
    storage.write_json(progress, FOLDER, "progress.json")
    return storage


@pytest.fixture
def get(storage: Storage) -> Iterator[Get]:
    with server(storage, "tonight") as serving:
        thread = threading.Thread(target=serving.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        host, port = serving.server_address[:2]

        def ask(path: str = "/", name: str = f"{HOST}:{port}") -> tuple[int, str]:
            connection = HTTPConnection(str(host), int(port), timeout=10)
            connection.request("GET", path, headers={"Host": name})
            answer = connection.getresponse()
            return answer.status, answer.read().decode()

        yield ask
        serving.shutdown()
        thread.join()


def test_a_run_that_goes_on_is_followed_and_becomes_its_report(storage: Storage, get: Get) -> None:
    with Lease(storage, FOLDER):
        status, page = get()
        assert status == 200
        assert "plan: 5 of 9 parts, units &lt;b&gt; 1,200, 4 s left" in page
        assert '<progress value="5" max="9"' in page and '<main class="live">' in page
        assert get("/metrics.json")[0] == 404
        storage.write(b"<main>all done</main>", FOLDER, "report", "report.html")
        assert "all done" not in get()[1]  # of an earlier night
    assert get() == (200, "<main>all done</main>")


def test_a_run_that_nobody_is_at_says_so(get: Get) -> None:
    assert "Nobody is at this run" in get()[1]


def test_only_this_machine_by_its_own_name_is_answered(get: Get) -> None:
    assert get(name="evil.example")[0] == 403
    assert get("/../run.json")[0] == 404


def test_a_run_that_is_not_there_is_refused(storage: Storage) -> None:
    with pytest.raises(UserError, match="sunday"):
        server(storage, "sunday")
