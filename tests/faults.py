"""A proxy in front of a real S3 server that breaks calls as networks and servers do."""

from __future__ import annotations

import asyncio
import collections
import contextlib
import random
import threading
from collections.abc import Coroutine, Iterator
from typing import Any

import aiohttp
from aiohttp import web
from yarl import URL

FAULTS = {
    "slow_down": "503 SlowDown, not forwarded",
    "internal_error": "500 InternalError, not forwarded",
    "cut_before": "the connection breaks before the call is forwarded",
    "cut_after": "the call goes through, the connection breaks before the answer",
    "cut_body": "the connection breaks in the middle of the body of a GET",
    "delay": "the answer is 1-2 s late",
}
"""What befalls calls at random, unless `FaultProxy.faults` says otherwise."""

# Only by name. `silent`: never an answer. `not_deleted`: 200 with an error in it. The other
# three: what servers other than ours answer to conditional writes and to a completed upload.
_ANSWERS = {
    "slow_down": (503, "<Error><Code>SlowDown</Code></Error>"),
    "internal_error": (500, "<Error><Code>InternalError</Code></Error>"),
    "conflict": (409, "<Error><Code>ConditionalRequestConflict</Code></Error>"),
    "no_such_key": (404, "<Error><Code>NoSuchKey</Code></Error>"),
    "no_such_upload": (404, "<Error><Code>NoSuchUpload</Code></Error>"),
    "not_deleted": (
        200,
        "<DeleteResult><Error><Key>x</Key><Code>InternalError</Code></Error></DeleteResult>",
    ),
}
_ONE_HOP = {"connection", "keep-alive", "transfer-encoding", "expect", "date", "server"}


class FaultProxy:
    """What `fault_proxy` yields: a server in a thread of its own."""

    def __init__(self, endpoint: str, share: float, seed: int) -> None:
        self.url = ""
        self.share, self.faults = share, list(FAULTS)
        """What befalls how many of the calls; may be changed at any time."""
        self.counts: collections.Counter[str] = collections.Counter()
        """Calls by fault; `none`: forwarded as they were."""
        self._endpoint = endpoint
        self._random = random.Random(seed)
        self._next: list[tuple[str, str]] = []
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True, name="faults")
        self._thread.start()
        self._do(self._start())

    def next(self, fault: str, method: str = "PUT") -> None:
        """The next call with `method` gets `fault`; several wait in line."""
        self._next.append((method, fault))

    def die(self) -> None:
        """Break all connections and refuse new ones, for good."""
        self._do(self._stop())

    def close(self) -> None:
        self.die()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _do(self, coroutine: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(timeout=30)

    async def _start(self) -> None:
        connector = aiohttp.TCPConnector(limit=0)
        self._session = aiohttp.ClientSession(connector=connector, auto_decompress=False)
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", self._handle)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        host, port = self._runner.addresses[0]
        self.url = f"http://{host}:{port}"

    async def _stop(self) -> None:
        for site in list(self._runner.sites):
            await site.stop()
        tasks = asyncio.all_tasks() - {asyncio.current_task()}  # calls that wait for an answer
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._runner.cleanup()
        await self._session.close()

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        fault = self._choose(request.method)
        self.counts[fault or "none"] += 1
        if fault in _ANSWERS:
            status, text = _ANSWERS[fault]
            return web.Response(status=status, text=text, content_type="application/xml")
        if fault == "silent":
            await asyncio.sleep(3600)
        if fault == "cut_before":
            return _cut(request)
        if fault == "delay":
            await asyncio.sleep(self._random.uniform(1, 2))
        return await self._forward(request, fault)

    def _choose(self, method: str) -> str | None:
        for number, (wanted, fault) in enumerate(self._next):
            if wanted == method:
                del self._next[number]
                return fault
        if self._random.random() >= self.share:
            return None
        possible = [name for name in self.faults if name != "cut_body" or method == "GET"]
        return self._random.choice(possible) if possible else None

    async def _forward(self, request: web.Request, fault: str | None) -> web.StreamResponse:
        # With the Host as it came: it is signed. Without Expect: aiohttp has answered it.
        headers = [(k, v) for k, v in request.headers.items() if k.lower() not in _ONE_HOP]
        async with self._session.request(
            request.method,
            URL(self._endpoint + request.raw_path, encoded=True),
            headers=headers,
            data=request.content if request.can_read_body else None,
            skip_auto_headers=("Content-Type",),
        ) as answer:
            if fault == "cut_after":
                await answer.read()
                return _cut(request)
            back = web.StreamResponse(status=answer.status)
            for name, value in answer.headers.items():
                if name.lower() not in _ONE_HOP:
                    back.headers.add(name, value)
            await back.prepare(request)
            left = (answer.content_length or 0) // 2 if fault == "cut_body" else None
            async for chunk in answer.content.iter_any():
                await back.write(chunk[:left])
                if left is not None and (left := left - len(chunk)) <= 0:
                    return _cut(request)
            await back.write_eof()
            return back


def _cut(request: web.Request) -> web.Response:
    if request.transport:
        request.transport.close()
    return web.Response()  # goes nowhere


@contextlib.contextmanager
def fault_proxy(endpoint: str, share: float = 0.1, seed: int = 0) -> Iterator[FaultProxy]:
    """Yields a running proxy in front of `endpoint`; `share` of its calls get one of FAULTS."""
    proxy = FaultProxy(endpoint, share, seed)
    try:
        yield proxy
    finally:
        proxy.close()
