"""`llmaug report --serve`: the page of a run on this machine's loopback, while the run goes on.

Read from storage at each request, so that the run may be on another machine. Only this machine is
answered, and only by its own names: a page from elsewhere that has its name point here (DNS
rebinding) is refused.
"""

from __future__ import annotations

from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from llmaug.commands.report_live import render_live
from llmaug.commands.status import read_status
from llmaug.config.names import run_folder
from llmaug.core.storage import Storage
from llmaug.errors import UserError
from llmaug.report.stage import METRICS

HOST = "127.0.0.1"
_FILES = {
    "/": ("report.html", "text/html; charset=utf-8"),
    f"/{METRICS}": (METRICS, "application/json"),
}


def server(storage: Storage, run_id: str, port: int = 0) -> ThreadingHTTPServer:
    """Bound and not yet serving; port 0: a free one. Raises UserError where there is no such run,
    or where the port is taken."""
    read_status(storage, run_id)
    handler = type("Handler", (_Handler,), {"storage": storage, "run_id": run_id})
    try:
        return ThreadingHTTPServer((HOST, port), handler)
    except OSError as error:
        raise UserError(
            f"port {port} of {HOST}: {error.strerror}; choose another --port"
        ) from error


class _Handler(BaseHTTPRequestHandler):
    storage: Storage
    run_id: str

    def do_GET(self) -> None:
        port = self.connection.getsockname()[1]
        names = {f"{name}:{port}" for name in (HOST, "localhost")}
        if self.headers.get("Host") not in names:
            return self.send_error(403, "asked by another name than this machine's own")
        if self.path not in _FILES:
            return self.send_error(404)
        try:
            body = self._body(self.path)
        except UserError as error:  # of a run that is being written
            return self.send_error(503, explain=error.message)
        if body is None:
            return self.send_error(404, "there is none yet")
        self.send_response(200)
        self.send_header("Content-Type", _FILES[self.path][1])
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Cache-Control", "no-store")
        self.end_headers()
        self.wfile.write(body)

    def _body(self, path: str) -> bytes | None:
        folder, name = f"{run_folder(self.run_id)}/report", _FILES[path][0]
        status = read_status(self.storage, self.run_id)
        done = status["holder"] is None and self.storage.exists(folder, name)
        if done:
            return bytes(self.storage.read(folder, name))
        return render_live(status).encode() if path == "/" else None

    def log_message(self, format: str, *arguments: Any) -> None:
        """Nothing: the terminal belongs to whoever started this."""
