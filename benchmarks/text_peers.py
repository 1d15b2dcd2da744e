"""Our text pipeline beside distilabel and Curator, all asking one server of vLLM.

    python benchmarks/text_peers.py --num-items 256 --rounds 2

`vllm serve` has SmolLM2 on one thread. Each asks it for descriptions of the same films of
MovieLens: the questions, the JSON schema and the sampling are those of task `describe_items`, 64
at a time where that can be said. Each is a process of its own (`askers.py`, in an environment that
is made once below `--environments`); ours is the whole pipeline with `text.engine: openai`.

The clock stands in the server: its counter of generated tokens is read ten times a second, and
what counts is from the first token to the last, so that nobody's start does. `process_s` is from
the start of the process to its end. The server forgets all prefixes in between. In turn, so many
rounds; the best of each counts. `answers` came back and follow the schema: what is missing was
asked and is in no answer.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Event, Thread
from typing import Annotated, Any

import typer
from answers import rows_of
from environments import CACHE, environment, without_ours
from inputs import SAME_PRIORITY, described_films, smollm2

from llmaug import pipeline
from llmaug.commands.datasets import write_ml_100k
from llmaug.config import Config
from llmaug.core.cluster import WORKER_ENV, disconnect
from llmaug.core.stage import Context
from llmaug.core.storage import Storage
from llmaug.errors import UserError
from llmaug.text.task import Task, task_of

OURS = "llmaug"
NEEDS = {
    "distilabel": ["install distilabel[openai,instructor]==1.5.3"],
    "curator": ["install bespokelabs-curator==0.1.31"],
}
RUN, MODEL, _IN_FLIGHT = "texts", "smollm2", 64
_COUNTER = "vllm:generation_tokens_total"
_START_S, _POLL_S = 300.0, 0.1


def main(
    num_items: Annotated[int, typer.Option(help="Films to describe.")] = 256,
    rounds: Annotated[int, typer.Option(min=1, help="Take turns so often; the best counts.")] = 2,
    peers: Annotated[str, typer.Option(help="Beside ours, with commas.")] = ",".join(NEEDS),
    environments: Annotated[Path, typer.Option(help="Folder of the peers' own.")] = CACHE,
) -> None:
    names = [name.strip() for name in peers.split(",") if name.strip()]
    if unknown := set(names) - set(NEEDS):
        raise typer.BadParameter(f"no peer {sorted(unknown)}; there are {sorted(NEEDS)}")
    pythons = {name: environment(environments, name, NEEDS[name]) for name in names}
    with tempfile.TemporaryDirectory() as folder, server(Path(folder)) as url:
        write_ml_100k(f"{folder}/logs")
        found: dict[str, list[dict[str, Any]]] = {name: [] for name in [OURS, *pythons]}
        for number in range(rounds):
            for name, own in found.items():  # ours comes first: its plan has the questions
                print(f"round {number + 1}: {name}", file=sys.stderr, flush=True)
                own.append(ask(name, pythons.get(name, sys.executable), folder, url, num_items))
    show(found, num_items)


# -- the server ---------------------------------------------------------------------------


@contextmanager
def server(folder: Path) -> Iterator[str]:
    """Address of a `vllm serve`, ready. Raises UserError with its last words."""
    port = _free_port()
    command = [
        sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", smollm2(),
        "--served-model-name", MODEL, "--host", "127.0.0.1", "--port", str(port), "--dtype",
        "bfloat16", "--max-model-len", "2048", "--enforce-eager", "--max-num-seqs", str(_IN_FLIGHT),
        "--block-size", "32", "--no-enable-chunked-prefill", "--max-num-batched-tokens", "8192",
        "--structured-outputs-config", '{"backend": "xgrammar", "disable_any_whitespace": true}',
    ]  # fmt: skip
    settings = {"VLLM_SERVER_DEV_MODE": "1", "VLLM_CPU_KVCACHE_SPACE": "2",
                "VLLM_CPU_OMP_THREADS_BIND": "nobind", "OMP_NUM_THREADS": "1",
                "VLLM_LOGGING_LEVEL": "WARNING"}  # fmt: skip
    url, log = f"http://127.0.0.1:{port}", folder / "server.log"
    with log.open("wb") as file:
        process = subprocess.Popen(
            command, env={**os.environ, **WORKER_ENV, **settings}, stdout=file, stderr=file
        )
    try:
        deadline = time.monotonic() + _START_S
        while not _is_up(url):
            if process.poll() is not None or time.monotonic() > deadline:
                raise UserError(f"vllm serve did not start: {log.read_text()[-2000:]}")
            time.sleep(0.5)
        yield url
    finally:
        process.terminate()
        process.wait(60)


def _free_port() -> int:
    with socket.socket() as own:
        own.bind(("127.0.0.1", 0))
        port: int = own.getsockname()[1]
        return port


def _is_up(url: str) -> bool:
    try:
        _get(f"{url}/health")
    except OSError:
        return False
    return True


def _get(url: str, method: str = "GET") -> str:
    request = urllib.request.Request(url, method=method)
    with urllib.request.urlopen(request, timeout=60) as response:
        return str(response.read().decode())


def generated(url: str) -> float:
    """Tokens that the server has generated since its start."""
    lines = _get(f"{url}/metrics").splitlines()
    return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(_COUNTER))


class Watch:
    """The server's clock: from the first generated token to the last."""

    def __init__(self, url: str) -> None:
        self._url, self._done = url, Event()
        self._begin = self._last = generated(url)
        self._first_s = self._last_s = 0.0
        self._thread = Thread(target=self._look, daemon=True)

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._done.wait(_POLL_S):
            now, tokens = time.monotonic(), generated(self._url)
            if tokens > self._last:
                self._first_s = self._first_s or now
                self._last, self._last_s = tokens, now

    @property
    def figures(self) -> dict[str, float]:
        tokens, seconds = self._last - self._begin, self._last_s - self._first_s
        return {"tokens": tokens, "seconds": round(seconds, 1),
                "tokens_per_s": round(tokens / max(seconds, _POLL_S), 1)}  # fmt: skip


# -- who asks -----------------------------------------------------------------------------


def _config(folder: str, url: str, num_items: int) -> Config:
    server = {"base_url": f"{url}/v1", "model": MODEL, "max_in_flight": _IN_FLIGHT}
    return described_films(folder, num_items, {"engine": "openai", "endpoint": server}, {})


def _task(config: Config) -> Task:
    return task_of(config.text, config.text.tasks[0])


def ask(name: str, python: str, folder: str, url: str, num_items: int) -> dict[str, Any]:
    """One round; {"error": ...} where a peer fails."""
    _get(f"{url}/reset_prefix_cache", "POST")
    script = str(Path(__file__).with_name("askers.py"))
    if name == OURS:
        command = [python, __file__, "--child", folder, url, str(num_items)]
        own = {**os.environ, **SAME_PRIORITY}
    else:
        command = [python, script, name, write_task(folder, url, num_items)]
        own = {**without_ours(), "HF_HUB_OFFLINE": "1"}
    begin = time.monotonic()
    with Watch(url) as watch:
        done = subprocess.run(command, text=True, capture_output=True, env=own, cwd=folder)
    if done.returncode:
        return {"error": (done.stderr.strip() or done.stdout.strip())[-1500:]}
    said = json.loads(done.stdout.splitlines()[-1])
    parse = _task(_config(folder, url, num_items)).parse
    return {
        "version": said["version"],
        **watch.figures,
        "process_s": round(time.monotonic() - begin, 1),
        "answers": sum(_parses(parse, text) for text in said["answers"].values()),
    }


def write_task(folder: str, url: str, num_items: int) -> str:
    """What peers are asked: the questions of our plan."""
    config = _config(folder, url, num_items)
    task = _task(config)
    plan = rows_of(Context(Storage(folder), config, RUN), f"{task.track}/plan")
    asked = {
        "questions": [row["text"] for row in plan], "base_url": f"{url}/v1", "model": MODEL,
        "max_in_flight": _IN_FLIGHT, "temperature": task.sampling.temperature,
        "top_p": task.sampling.top_p, "max_tokens": task.max_new_tokens,
        # A new one each time: Curator would answer from its cache.
        "folder": tempfile.mkdtemp(dir=folder), "response_format": {
            "type": "json_schema", "json_schema": {"name": "answer", "schema": task.schema},
        },
    }  # fmt: skip
    path = Path(folder, "task.json")
    path.write_text(json.dumps(asked, ensure_ascii=False))
    return str(path)


def _parses(parse: Any, text: str) -> bool:
    try:
        parse(text)
    except ValueError:
        return False
    return True


def _child(folder: str, url: str, num_items: int) -> None:
    """Ours: from the logs to the texts that are kept."""
    storage, config = Storage(folder), _config(folder, url, num_items)
    track = _task(config).track
    storage.delete(f"runs/{RUN}/{track}")
    pipeline.run(config, storage, RUN, until="text")
    disconnect()
    rows = rows_of(Context(storage, config, RUN), f"{track}/outcomes")
    answers = {n: row["text"] for n, row in enumerate(rows) if row["text"]}
    print(json.dumps({"version": "this", "answers": answers}))


def show(found: dict[str, list[dict[str, Any]]], num_items: int) -> None:
    """The table, as Markdown, and the line of JSON."""
    print("| | tokens/s | tokens | from first to last, s | process, s | answers |\n|" + "---|" * 6)
    for name, rounds in found.items():
        if not (whole := [own for own in rounds if "error" not in own]):
            print(f"| {name} | {rounds[0]['error'].splitlines()[-1]} |")
            continue
        best = max(whole, key=lambda own: own["tokens_per_s"])
        cells = [f"{name} {best['version']}", f"{best['tokens_per_s']:,.0f}",
                 f"{best['tokens']:,.0f}", f"{best['seconds']:,.0f}",
                 f"{best['process_s']:,.0f}", f"{best['answers']:,} of {num_items:,}"]  # fmt: skip
        print("| " + " | ".join(cells) + " |")
    print(json.dumps({"benchmark": "text_peers", "num_items": num_items, "found": found}))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        _child(sys.argv[2], sys.argv[3], int(sys.argv[4]))
    else:
        typer.run(main)
