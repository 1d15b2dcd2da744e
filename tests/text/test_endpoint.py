"""The engine that asks an OpenAI-compatible server: what is sent, tried again, and given up."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from llmaug.config import EndpointConfig
from llmaug.generate.engines import Finished, together
from llmaug.generate.units import Units
from llmaug.schema import UNIT
from llmaug.text import endpoint as endpoint_module
from llmaug.text.endpoint import EndpointEngine, EndpointError, read_answer, wait_s
from llmaug.text.outcomes import cost_note
from tests.servers import free_ports
from tests.text.chat import Endpoint, Reply, endpoint, write_byte_model

SCHEMA = {
    "type": "object", "properties": {"mood": {"type": "string", "enum": ["glad", "sad"]}},
    "required": ["mood"], "additionalProperties": False,
}  # fmt: skip


def units(number: int) -> Units:
    sampling = {"temperature": 0.5, "top_p": 0.75, "top_k": -1, "max_tokens": 40,
                "forbid_repeats": False}  # fmt: skip
    rows = [
        {"unit_id": f"{n}", "strategy": "mood", "sample": 0, "prompt": [], "text": f"Film {n}?",
         "sampling": sampling, "seed": n}
        for n in range(number)
    ]  # fmt: skip
    return Units(pa.Table.from_pylist(rows, schema=UNIT))


def asked(reply: Reply, number: int = 1, **config: Any) -> tuple[Endpoint, Finished]:
    """All that `number` units brought."""
    with endpoint(reply) as server:
        engine = EndpointEngine(
            EndpointConfig(
                **{"base_url": server.url, "model": "m", "first_wait_s": 0.01, "timeout_s": 2}
                | config
            ),
            SCHEMA,
        )
        assert engine.add(units(number), np.arange(number), 100) == []
        pieces = []
        while engine.num_unfinished:
            if (done := engine.step()) is not None:
                pieces.append(done)
        return server, together(pieces)


def good(request: dict[str, Any], attempt: int) -> tuple[int, Any]:
    return 200, {"mood": "glad", "of": request["messages"][0]["content"]}


def test_what_is_sent_and_what_comes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_KEY", "secret")
    server, done = asked(good, api_key_env="MY_KEY")
    [request] = server.requests
    assert request == {
        "model": "m", "messages": [{"role": "user", "content": "Film 0?"}], "temperature": 0.5,
        "top_p": 0.75, "max_tokens": 40, "seed": 0,
        "response_format": {
            "type": "json_schema",
            "json_schema": {"name": "answer", "schema": SCHEMA, "strict": True},
        },
    }  # fmt: skip
    assert server.keys == {"Bearer secret"} and server.paths == {"/v1/chat/completions"}
    assert done.keys.tolist() == [100] and done.num_cached.tolist() == [64]
    assert done.said is not None and done.said.to_pylist() == [
        {"text": '{"mood": "glad", "of": "Film 0?"}', "asked_tokens": 100, "said_tokens": 20}
    ]


def test_each_answer_finds_its_unit_and_so_many_are_asked_at_once() -> None:
    def slow(request: dict[str, Any], attempt: int) -> tuple[int, Any]:
        time.sleep(0.02 if request["seed"] % 2 else 0.05)
        return good(request, attempt)

    server, done = asked(slow, 12, max_in_flight=4)
    assert done.said is not None
    texts = dict(zip(done.keys.tolist(), done.said["text"].to_pylist(), strict=True))
    assert sorted(texts) == list(range(100, 112))
    assert all(f"Film {key - 100}?" in text for key, text in texts.items())
    assert 2 <= server.most_at_once <= 4


def test_connections_stay_open() -> None:
    server, done = asked(good, 12, max_in_flight=2)
    assert len(done.keys) == 12 and 1 <= len(server.callers) <= 2


def test_a_proxy_of_the_environment_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    with endpoint(good) as proxy:
        address = proxy.url.removeprefix("http://").removesuffix("/v1")
        monkeypatch.setenv("http_proxy", f"http://{address}")
        monkeypatch.setenv("no_proxy", "127.0.0.1")
        _, done = asked(good, base_url="http://models.invalid/v1")
        assert len(done.keys) == 1
        assert proxy.paths == {"http://models.invalid/v1/chat/completions"}
        server, done = asked(good)  # this machine is asked itself: no_proxy
        assert len(done.keys) == 1 and len(server.requests) == len(proxy.requests) == 1


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_busy_server_is_asked_again(status: int) -> None:
    server, done = asked(lambda r, n: good(r, n) if n > 2 else (status, "busy"))
    assert len(server.requests) == 3 and len(done.keys) == 1 and not done.failed


def test_a_busy_server_may_say_much_and_an_answer_may_not() -> None:
    much = "x" * (5 << 20)
    server, done = asked(lambda r, n: good(r, n) if n > 1 else (503, much))
    assert len(server.requests) == 2 and len(done.keys) == 1 and not done.failed
    _, done = asked(lambda r, n: (200, much))
    [(_, reason, detail)] = done.failed
    assert reason == "refused_by_endpoint" and detail == "an answer of more than 4 MiB"


@pytest.mark.parametrize(
    ("reply", "requests", "reason", "detail"),
    [
        ((400, "no such schema"), 1, "refused_by_endpoint", "HTTP 400: no such schema"),
        ((401, "who are you"), 1, "refused_by_endpoint", "HTTP 401: who are you"),
        ((503, "down"), 3, "endpoint_unavailable", "3 times: HTTP 503: down"),
        # A key is never carried on to where somebody points.
        ((307, "http://127.0.0.1:9/"), 1, "refused_by_endpoint", "HTTP 307: "),
    ],
)
def test_what_cannot_be_answered_fails_with_its_reason(
    reply: tuple[int, str], requests: int, reason: str, detail: str
) -> None:
    server, done = asked(lambda r, n: reply, max_retries=2)
    assert len(server.requests) == requests and len(done.keys) == 0
    [(key, why, told)] = done.failed
    assert (key, why) == (100, reason) and told.startswith(detail)


def test_one_that_fails_takes_nobody_with_it() -> None:
    _, done = asked(lambda r, n: (400, "no") if r["seed"] == 1 else good(r, n), 3)
    assert sorted(done.keys.tolist()) == [100, 102]
    assert [key for key, _, _ in done.failed] == [101]


def test_an_answer_may_end_within_a_character() -> None:
    """As one that is cut does: an escape then stands for half of an emoji, which no file holds."""
    _, done = asked(lambda r, n: (200, "fun \ud83d") if r["seed"] == 1 else good(r, n), 3)
    assert done.said is not None and not done.failed
    texts = dict(zip(done.keys.tolist(), done.said["text"].to_pylist(), strict=True))
    assert len(texts) == 3 and texts[101] == "fun \ufffd"


@pytest.mark.parametrize("number", ["1e999", "9" * 30, "-1", '"many"'])
def test_a_number_of_tokens_is_one(number: str) -> None:
    message = '"choices": [{"message": {"content": "fun"}}]'
    data = f'{{{message}, "usage": {{"prompt_tokens": {number}}}}}'.encode()
    with pytest.raises(EndpointError, match="no chat completion"):
        read_answer(data)


def test_a_server_that_is_not_there() -> None:
    engine = EndpointEngine(
        EndpointConfig(base_url="http://127.0.0.1:9/v1", model="m", max_retries=1,
                       first_wait_s=0.01), SCHEMA,
    )  # fmt: skip
    engine.add(units(1), np.arange(1), 0)
    while (done := engine.step()) is None:
        pass
    [(_, reason, detail)] = done.failed
    assert reason == "endpoint_unavailable" and "refused" in detail


def test_to_be_stopped_waits_for_nobody() -> None:
    with endpoint(lambda r, n: (503, "down")) as server:
        config = EndpointConfig(base_url=server.url, model="m", first_wait_s=50, max_in_flight=1)
        engine = EndpointEngine(config, SCHEMA)
        engine.add(units(5), np.arange(5), 0)
        while not server.requests:
            time.sleep(0.01)
        begun = time.monotonic()
        engine.abort()
        assert engine.num_unfinished == 0 and time.monotonic() - begun < 1
        time.sleep(0.1)
        assert len(server.requests) == 1  # the four others were never sent


def test_waits_grow_and_are_not_all_alike() -> None:
    assert 0.5 <= wait_s(1.0, 0, "") <= 1.0 and 4 <= wait_s(1.0, 3, "") <= 8
    assert wait_s(1.0, 30, "") <= 60 and len({wait_s(1.0, 1, "") for _ in range(9)}) > 1
    assert wait_s(1.0, 0, "7") == 7.0 and wait_s(1.0, 0, "9" * 9) == 60


def test_cost_by_the_price_list() -> None:
    config = EndpointConfig(base_url="http://x", model="m", price_per_million_input=2.0,
                            price_per_million_output=8.0)  # fmt: skip
    assert config.cost(1_000_000, 250_000) == 4.0
    counts = {"prompt_tokens": 1_000_000, "output_tokens": 250_000, "generated": 6, "cache_hits": 0}
    whole = "4.0000 by the price list of text.endpoint for 6 answers"
    assert cost_note(config, counts) == whole
    # Who reads a bill is told that it is not all of tonight.
    again = cost_note(config, {**counts, "cache_hits": 3})
    assert again == f"{whole}, 3 of which came from the outcomes cache and cost nothing now"
    assert cost_note(EndpointConfig(base_url="http://x", model="m"), counts) == ""


@pytest.mark.soak
@pytest.mark.slow
def test_a_real_vllm_server_keeps_to_the_schema(tmp_path: Path) -> None:
    """The same units as in vLLM's engine, asked of `vllm serve`, which knows a key. As there, the
    server gives no room for whitespace: a model of random bytes would write nothing else."""
    write_byte_model(tmp_path / "chat")
    [port] = free_ports(1)
    command = [
        sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model",
        str(tmp_path / "chat"), "--served-model-name", "m", "--host", "127.0.0.1", "--port",
        str(port), "--max-model-len", "1024", "--enforce-eager", "--api-key", "secret",
        "--structured-outputs-config", '{"backend": "xgrammar", "disable_any_whitespace": true}',
    ]  # fmt: skip
    environment = {**os.environ, "VLLM_CPU_KVCACHE_SPACE": "1", "MY_KEY": "secret"}
    with (tmp_path / "log").open("wb") as log:
        server = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
    try:
        config = EndpointConfig(
            base_url=f"http://127.0.0.1:{port}/v1", model="m", api_key_env="MY_KEY",
            max_retries=60, first_wait_s=2.0,  # until it is up
        )  # fmt: skip
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("MY_KEY", "secret")
            patch.setattr(endpoint_module, "_MAX_WAIT_S", 3.0)
            engine = EndpointEngine(config, SCHEMA)
            engine.add(units(20), np.arange(20), 0)
            pieces = []
            while engine.num_unfinished:
                assert server.poll() is None, (tmp_path / "log").read_text()[-3000:]
                if (done := engine.step()) is not None:
                    pieces.append(done)
    finally:
        server.terminate()
        server.wait(60)
    finished = together(pieces)
    assert not finished.failed and finished.said is not None
    assert sorted(finished.keys.tolist()) == list(range(20))
    moods = [json.loads(text)["mood"] for text in finished.said["text"].to_pylist()]
    assert set(moods) <= {"glad", "sad"}
    assert all(count > 0 for count in finished.said["said_tokens"].to_pylist())
