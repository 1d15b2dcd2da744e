"""The engine that asks an OpenAI-compatible server (`/v1/chat/completions`).

So many requests at a time in threads of their own, over connections that stay open. A request that
is answered with 429 or 5xx, or not at all, is sent again, each time after a longer wait with some
chance in it (exponential back-off with jitter); other refusals, and one time too many, make a
failed outcome.
"""

from __future__ import annotations

import base64
import json
import os
import queue
import random
import time
from concurrent.futures import ThreadPoolExecutor
from threading import Event
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import numpy as np
import pyarrow as pa
import urllib3

from llmaug.config import EndpointConfig
from llmaug.generate.engines import TOKENS, Finished
from llmaug.generate.units import Units
from llmaug.schema import SAID
from llmaug.text.cleaning import whole_characters
from llmaug.text.images import ImageError, Images, as_jpeg

REFUSED, UNREACHABLE = "refused_by_endpoint", "endpoint_unavailable"
_MAX_WAIT_S = 60.0
_MAX_BYTES = 4 << 20
_STEP_S = 0.2


class EndpointError(Exception):
    """(reason, detail) of a unit that has no answer."""


class EndpointEngine:
    """What `EngineLoop` drives."""

    alive = True

    def __init__(
        self, config: EndpointConfig, schema: dict[str, Any], images: Images | None = None
    ) -> None:
        """images: where those lie that go with the questions."""
        self._config, self._schema, self._images = config, schema, images
        self._pool = ThreadPoolExecutor(config.max_in_flight, thread_name_prefix="endpoint")
        self._done: queue.SimpleQueue[tuple[int, Any]] = queue.SimpleQueue()
        self._stopped = Event()
        self._connections = connections(config)
        self.num_unfinished = 0

    def add(self, units: Units, numbers: np.ndarray, first_key: int) -> list[tuple[int, str]]:
        for key, number in enumerate(numbers.tolist(), first_key):
            self._pool.submit(self._answer, key, units, number, self._stopped)
        self.num_unfinished += len(numbers)
        return []

    def step(self) -> Finished | None:
        """Waits a moment for answers."""
        found: list[tuple[int, Any]] = []
        deadline = time.monotonic() + _STEP_S
        while len(found) < self.num_unfinished:
            try:
                found.append(self._done.get(timeout=max(0.0, deadline - time.monotonic())))
            except queue.Empty:
                break
        self.num_unfinished -= len(found)
        if not found:
            return None
        said = [(key, answer) for key, answer in found if not isinstance(answer, EndpointError)]
        return Finished(
            np.array([key for key, _ in said], np.int64),
            pa.array([[] for _ in said], TOKENS),
            np.array([answer["cached"] for _, answer in said], np.int32),
            [(key, *error.args) for key, error in found if isinstance(error, EndpointError)],
            said=pa.Table.from_pylist(
                [{name: answer[name] for name in SAID.names} for _, answer in said], schema=SAID
            ),
        )

    def abort(self) -> None:
        self._stopped.set()
        self._pool.shutdown(wait=False, cancel_futures=True)
        self.num_unfinished = 0

    def _answer(self, key: int, units: Units, number: int, stopped: Event) -> None:
        try:
            jpeg = as_jpeg(self._images.read(*units.images[number])) if self._images else None
            body = request_body(self._config, self._schema, units, number, jpeg)
            self._done.put((key, self._asked(body, stopped)))
        except EndpointError as error:
            self._done.put((key, error))
        except ImageError as error:
            self._done.put((key, EndpointError(*error.args)))
        except Exception as error:  # one strange answer is one failed unit
            self._done.put((key, EndpointError(REFUSED, repr(error)[:300])))

    def _asked(self, body: bytes, stopped: Event) -> dict[str, Any]:
        config = self._config
        for attempt in range(config.max_retries + 1):
            try:
                status, asked_for, data = self._post(body)
            except (urllib3.exceptions.HTTPError, OSError) as error:
                detail, asked_for = str(error), ""
            else:
                if status < 300:
                    return read_answer(data)
                detail = f"HTTP {status}: {data[:500].decode(errors='replace')}"
                if status != 429 and status < 500:
                    raise EndpointError(REFUSED, detail)
            if attempt < config.max_retries and stopped.wait(
                wait_s(config.first_wait_s, attempt, asked_for)
            ):
                break
        raise EndpointError(UNREACHABLE, f"{config.max_retries + 1} times: {detail}"[:300])

    def _post(self, body: bytes) -> tuple[int, str, bytes]:
        """(status, header Retry-After, what was answered)."""
        config = self._config
        headers = {"Content-Type": "application/json"}
        if key := os.environ.get(config.api_key_env):
            headers["Authorization"] = f"Bearer {key}"
        # A key is sent to nobody but the server of the config: redirects are not followed.
        response = self._connections.request(
            "POST", f"{config.base_url.rstrip('/')}/chat/completions", body=body, headers=headers,
            redirect=False, preload_content=False,
        )  # fmt: skip
        data = response.read(_MAX_BYTES + 1)
        if len(data) > _MAX_BYTES:
            response.close()
            if response.status < 300:  # of an error, what was read says enough
                raise EndpointError(REFUSED, f"an answer of more than {_MAX_BYTES >> 20} MiB")
        response.release_conn()
        return response.status, response.headers.get("Retry-After", ""), data


def connections(config: EndpointConfig) -> urllib3.PoolManager:
    """To the server, one for each request in flight; by the proxy that the environment names
    (`https_proxy`, `no_proxy`)."""
    server = urlsplit(config.base_url)
    proxy = None if proxy_bypass(server.netloc) else getproxies().get(server.scheme)
    kept: dict[str, Any] = {
        "num_pools": 1, "maxsize": config.max_in_flight, "retries": False,
        "timeout": config.timeout_s,
    }  # fmt: skip
    if proxy is None:
        return urllib3.PoolManager(**kept)
    who = urllib3.util.make_headers(proxy_basic_auth=urllib3.util.parse_url(proxy).auth)
    return urllib3.ProxyManager(proxy, proxy_headers=who, **kept)


def request_body(
    config: EndpointConfig,
    schema: dict[str, Any],
    units: Units,
    number: int,
    jpeg: bytes | None = None,
) -> bytes:
    """The question of a row of `units`, with the schema that the answer is limited to, and with
    an image in it: a server fetches none for us."""
    sampling = units.sampling(number)
    content: Any = units.texts[number]
    if jpeg is not None:
        url = f"data:image/jpeg;base64,{base64.b64encode(jpeg).decode()}"
        content = [
            {"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": content},
        ]  # fmt: skip
    body = {
        "model": config.model,
        "messages": [{"role": "user", "content": content}],
        "temperature": sampling["temperature"],
        "top_p": sampling["top_p"],
        "max_tokens": sampling["max_tokens"],
        "seed": int(units.seeds[number]),
        "response_format": {
            "type": "json_schema",
            "json_schema": {"name": "answer", "schema": schema, "strict": True},
        },
    }
    return json.dumps(body, ensure_ascii=False).encode()


def read_answer(data: bytes) -> dict[str, Any]:
    """Text and tokens of a chat completion. Raises EndpointError for anything else."""
    try:
        answer = json.loads(data)
        text = answer["choices"][0]["message"]["content"] or ""
        usage = answer.get("usage") or {}
        cached = (usage.get("prompt_tokens_details") or {}).get("cached_tokens")
        return {
            "text": whole_characters(str(text)),
            "asked_tokens": _count(usage.get("prompt_tokens")),
            "said_tokens": _count(usage.get("completion_tokens")),
            "cached": _count(cached),
        }
    except (ValueError, LookupError, TypeError, AttributeError, OverflowError,
            RecursionError) as error:  # fmt: skip
        shown = data[:200].decode(errors="replace")
        raise EndpointError(REFUSED, f"no chat completion: {shown}") from error


def _count(tokens: Any) -> int:
    """As outcomes hold it. Raises ValueError for what they cannot hold."""
    number = int(tokens or 0)
    if not 0 <= number < 2**31:
        raise ValueError(f"{number} tokens")
    return number


def wait_s(first_s: float, attempt: int, asked_for: str) -> float:
    """Before retry number `attempt`, from 0; asked_for: seconds of a header Retry-After."""
    if asked_for.isdecimal():
        return min(float(asked_for), _MAX_WAIT_S)
    return random.uniform(0.5, 1.0) * float(min(first_s * 2**attempt, _MAX_WAIT_S))
