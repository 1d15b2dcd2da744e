"""A real S3 server (SeaweedFS) for tests, on loopback ports of its own."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

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
