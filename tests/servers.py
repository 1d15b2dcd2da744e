"""Servers for tests, on loopback ports of their own: a real S3 (SeaweedFS), one that gets posts."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

ACCESS_KEY, SECRET_KEY, BUCKET = "llmaug-test", "not-a-secret", "llmaug-test"


def free_ports(count: int) -> list[int]:
    """Free ports whose +10000 neighbours (SeaweedFS' gRPC ports) are free too."""
    found: list[int] = []
    for port in range(20000 + os.getpid() % 5000, 45000):
        with contextlib.suppress(OSError), contextlib.ExitStack() as stack:
            for number in (port, port + 10000):
                stack.enter_context(socket.socket()).bind(("127.0.0.1", number))
            found.append(port)
        if len(found) == count:
            return found
    raise RuntimeError("no free ports")


@contextlib.contextmanager
def s3_server(folder: Path) -> Iterator[str]:
    """Yields the endpoint URL; the bucket is there when it does. Stops the server at the end."""
    weed = shutil.which("weed") or str(Path(sys.executable).with_name("weed"))
    keys = {"accessKey": ACCESS_KEY, "secretKey": SECRET_KEY}
    actions = ["Admin", "Read", "Write", "List", "Tagging"]
    config = {"identities": [{"name": "test", "credentials": [keys], "actions": actions}]}
    (folder / "s3.json").write_text(json.dumps(config))
    (folder / "data").mkdir()
    master, volume, filer, s3 = free_ports(4)
    command = [
        weed, "server", f"-dir={folder / 'data'}", "-ip=127.0.0.1", f"-master.port={master}",
        f"-volume.port={volume}", f"-filer.port={filer}", "-s3", f"-s3.port={s3}",
        "-s3.port.iceberg=0", "-s3.port.lance=0", f"-s3.config={folder / 's3.json'}",
        "-volume.max=20", "-master.volumeSizeLimitMB=100",
    ]  # fmt: skip
    endpoint = f"http://127.0.0.1:{s3}"
    with (folder / "weed.log").open("wb") as log:
        server = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
    try:
        _create_bucket(endpoint, folder / "weed.log")
        yield endpoint
    finally:
        os.killpg(server.pid, signal.SIGKILL)
        server.wait()


def _create_bucket(endpoint: str, log: Path) -> None:
    import s3fs

    fs = s3fs.S3FileSystem(
        key=ACCESS_KEY, secret=SECRET_KEY, endpoint_url=endpoint, skip_instance_cache=True,
        config_kwargs={"retries": {"max_attempts": 1}, "connect_timeout": 2},
    )  # fmt: skip
    for _ in range(60):
        try:
            fs.call_s3("create_bucket", Bucket=BUCKET)
            return
        except Exception:  # not up yet, in one of many ways
            time.sleep(0.5)
    raise RuntimeError(f"the S3 server did not come up: {log.read_text()[-2000:]}")


class PostServer:
    """An HTTP server on loopback that answers with each of `statuses` in turn, the last one from
    then on, and keeps what it got."""

    def __init__(self, *statuses: int) -> None:
        self.got: list[dict[str, Any]] = []
        left = list(statuses)

        class Handler(BaseHTTPRequestHandler):
            def do_POST(handler) -> None:  # noqa: N805
                body = handler.rfile.read(int(handler.headers["Content-Length"]))
                self.got.append(json.loads(body))
                handler.send_response(left.pop(0) if len(left) > 1 else left[0])
                handler.send_header("Location", "/elsewhere")
                handler.end_headers()

            def log_message(handler, *_: Any) -> None:  # noqa: N805
                pass

        self._server = HTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self._server.server_port}/secret-token"

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
