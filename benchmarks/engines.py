"""How generation grows: one against two engines, ten times the units, shared histories.

    python benchmarks/engines.py scaling            # 1 against 2 engines, one core each
    python benchmarks/engines.py growth             # 10,000 against 100,000 units
    python benchmarks/engines.py prefix             # 8 samples of each history against 1
    python benchmarks/engines.py tail               # how the last engine ends

Real vLLM with a random behaviour model, through the whole stage. Each figure comes from runs side
by side, in processes of their own.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from typing import Annotated, Any

import psutil
import typer
from inputs import SAME_PRIORITY, fake_run

from llmaug.config import parse_config
from llmaug.core.cluster import WORKER_ENV, disconnect
from llmaug.core.stage import Context
from llmaug.core.storage import Storage
from llmaug.generate import stage as generate
from llmaug.generate.engines import Engine

app = typer.Typer(add_completion=False)
LM = {"hidden_size": 128, "num_layers": 4, "num_heads": 4, "context_len": 64}


@app.command()
def scaling(
    num_units: Annotated[int, typer.Option(help="Units for each engine.")] = 10_000,
) -> None:
    """Tokens a second of one engine on one core, and of two on two."""
    one = _apart(num_units=num_units, num_actors=1, pin=True)
    two = _apart(num_units=2 * num_units, num_actors=2, pin=True)
    _print("scaling", one=one, two=two, ratio=round(two["tokens_per_s"] / one["tokens_per_s"], 3))


@app.command()
def growth(
    num_units: Annotated[int, typer.Option(help="Units of the smaller run.")] = 10_000,
) -> None:
    """Time and driver memory for ten times the units."""
    small = _apart(num_units=num_units)
    large = _apart(num_units=10 * num_units)
    _print(
        "growth", small=small, large=large,
        time_ratio=round(large["span_s"] / small["span_s"], 2),
        memory_ratio=round(large["driver_mb"] / small["driver_mb"], 3),
    )  # fmt: skip


@app.command()
def prefix(
    num_units: Annotated[int, typer.Option(help="Units of each run.")] = 8_000,
) -> None:
    """Prompt tokens that were computed: every history once, and eight samples of each."""
    once = _apart(num_units=num_units, history_len=100)
    shared = _apart(num_units=num_units, history_len=100, samples=8)
    _print(
        "prefix", once=once, shared=shared,
        computed_ratio=round(shared["computed_share"] / once["computed_share"], 3),
        speed_up=round(shared["tokens_per_s"] / once["tokens_per_s"], 3),
    )  # fmt: skip


@app.command()
def tail(
    num_units: Annotated[int, typer.Option(help="Units of the run.")] = 20_000,
) -> None:
    """The utilisation curve of two engines, and how long one worked after the other ended."""
    run = _apart(num_units=num_units, num_actors=2, pin=True, curve=True)
    for point in run["curve"]:
        bar = "#" * round(40 * point["tokens_per_s"] / max(p["tokens_per_s"] for p in run["curve"]))
        print(f"{point['second']:>6.1f} s  {point['busy']} busy  {bar}")
    alone = sum(
        after["second"] - before["second"]
        for before, after in zip(run["curve"], run["curve"][1:], strict=False)
        if after["busy"] == 1 and before["second"] > run["curve"][-1]["second"] / 2
    )
    _print("tail", alone_s=round(alone, 1), span_s=run["span_s"], idle_share=run["idle_share"])


def _print(name: str, **figures: Any) -> None:
    for key, value in figures.items():
        print(f"{key:15} {value}")
    print(json.dumps({"benchmark": f"engines-{name}", **figures}))


def _apart(**task: Any) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, __file__, "--child", json.dumps(task)], text=True,
        stdout=subprocess.PIPE, env={**os.environ, **WORKER_ENV, **SAME_PRIORITY},
    )  # fmt: skip
    assert done.returncode == 0, f"{task} failed"
    return json.loads(done.stdout.splitlines()[-1])


def _child(
    num_units: int,
    num_actors: int = 1,
    samples: int = 1,
    history_len: int = 30,
    pin: bool = False,
    curve: bool = False,
) -> dict[str, Any]:
    lm = {**LM, "context_len": 64 if history_len <= 40 else 160}
    config = parse_config({"lm": lm, "generate": {"num_actors": num_actors, "use_cache": False}})
    if pin:
        _pin_engines()
    with tempfile.TemporaryDirectory() as root:
        context = Context(Storage(root), config, "engines")
        fake_run(context, num_units, 20, 512, samples=samples, history_len=history_len)
        counts = generate.run(context)
    driver_mb = psutil.Process().memory_info().rss // 2**20
    disconnect()
    found = {
        "tokens_per_s": counts["span_tokens_per_s"],
        "span_s": counts["span_s"],
        "idle_share": counts["idle_share"],
        "driver_mb": driver_mb,
        "computed_share": round(1 - counts["cached_prompt_tokens"] / counts["prompt_tokens"], 4),
    }
    return {**found, "curve": counts["utilisation"]} if curve else found


def _pin_engines() -> None:
    """Give each engine a core of its own, by turns."""
    usual = generate.engine_maker

    def pinned(*arguments: Any) -> Any:
        make = usual(*arguments)

        def start() -> Engine:
            lock = f"/tmp/llmaug-core-{os.getppid()}"
            core = 0
            while True:  # the first free one
                try:
                    os.close(os.open(f"{lock}-{core}", os.O_CREAT | os.O_EXCL))
                    break
                except FileExistsError:
                    core += 1
            os.sched_setaffinity(0, {core % (os.cpu_count() or 1)})
            return make()

        return start

    generate.engine_maker = pinned


if __name__ == "__main__":
    if "--child" in sys.argv:
        print(json.dumps(_child(**json.loads(sys.argv[2]))))
    else:
        app()
