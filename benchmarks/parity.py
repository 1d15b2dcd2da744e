"""Does the engine draw what the model says? Greedy decoding in vLLM against transformers.

Units of a finished run (a causal model; `configs/three_ways.yaml` asks in all directions), as many
of each strategy, answered by vLLM in float32 and in bfloat16, and by transformers in float32 one
token after the other. Repeats are allowed, so that nothing but the weights decides. In float32
every token has to agree; in bfloat16 near ties fall the other way, and behind the first such
place the histories differ.

    python benchmarks/parity.py demo/runs/three-ways
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pyarrow as pa
import typer

from llmaug.config import STRATEGIES, Config, GenerateConfig, parse_config
from llmaug.core.formats import RUN
from llmaug.core.storage import Storage
from llmaug.generate.units import Units
from llmaug.generate.vllm_engine import VllmEngine
from llmaug.items.vocabulary import EOS, load_vocabulary
from llmaug.lm.language import Language, load_language
from llmaug.schema import UNIT

WAYS = ("transformers", "float32", "bfloat16")


def main(
    run: Annotated[Path, typer.Argument(help="Folder of a finished run.")],
    num_units: Annotated[int, typer.Option(help="Units, of all strategies together.")] = 200,
) -> None:
    answers = {way: _apart(run, way, num_units) for way in WAYS}
    strategies = [unit["strategy"] for unit in _units(Storage(str(run)), num_units)]
    figures: dict[str, Any] = {"num_units": len(strategies), "strategies": Counter(strategies)}
    for way in WAYS[1:]:
        pairs = list(zip(answers[way], answers[WAYS[0]], strict=True))
        tokens = sum(len(right) for _, right in pairs)
        same = sum(_num_agreeing(mine, right) for mine, right in pairs)
        figures[way] = {
            "units": round(sum(mine == right for mine, right in pairs) / len(pairs), 4),
            "tokens_before_the_first_other": round(same / tokens, 4),
        }
        print(f"{way:9} equal answers {figures[way]['units']:.1%}, "
              f"tokens up to the first other one {same / tokens:.1%}")  # fmt: skip
    print(json.dumps({"benchmark": "parity", **figures}))


def _num_agreeing(mine: list[int], right: list[int]) -> int:
    equal = [a == b for a, b in zip(mine, right, strict=False)]
    return equal.index(False) if False in equal else len(equal)


def _apart(run: Path, way: str, num_units: int) -> list[list[int]]:
    """In a process of its own: vLLM sets state of the whole process."""
    done = subprocess.run(
        [sys.executable, __file__, "--child", str(run), way, str(num_units)],
        text=True, stdout=subprocess.PIPE,
    )  # fmt: skip
    assert done.returncode == 0, f"{way} failed"
    return json.loads(done.stdout.splitlines()[-1])


def _child(run: str, way: str, num_units: int) -> list[list[int]]:
    storage = Storage(run)
    config = parse_config(RUN.upgraded(storage.read_json("run.json"), run)["config"])
    folder = f"lm/{config.lm.name}"
    language = load_language(storage, folder, load_vocabulary(storage, "vocabulary"))
    units = _units(storage, num_units)
    if way == "transformers":
        return _by_transformers(storage.path(folder), language, units)
    return _by_vllm(storage.path(folder), language, units, config, way)


def _units(storage: Storage, num_units: int) -> list[dict[str, Any]]:
    """The first ones of each strategy, asked greedily."""
    found: dict[str, list[dict[str, Any]]] = {}
    for part in storage.parts("plan"):
        for unit in storage.read_part("plan", part).to_pylist():
            unit["sampling"] |= {"temperature": 0.0, "forbid_repeats": False}
            found.setdefault(unit["strategy"], []).append(unit)
    each = -(-num_units // len(found))
    return [unit for rows in found.values() for unit in rows[:each]][:num_units]


def _by_vllm(
    folder: str, language: Language, rows: list[dict[str, Any]], config: Config, dtype: Any
) -> list[list[int]]:
    arguments = (config.lm.context_len, language.num_tokens, False)
    engine = VllmEngine(folder, GenerateConfig(dtype=dtype), *arguments)
    assert not engine.add(Units(pa.Table.from_pylist(rows, schema=UNIT)), np.arange(len(rows)), 0)
    found: dict[int, list[int]] = {}
    while engine.num_unfinished:
        done = engine.step()
        if done is not None:
            found.update(zip(done.keys.tolist(), done.tokens.to_pylist(), strict=True))
    return [found[number] for number in range(len(rows))]


def _by_transformers(
    folder: str, language: Language, rows: list[dict[str, Any]]
) -> list[list[int]]:
    import torch
    from transformers import AutoModelForCausalLM

    assert language.ids is None, "for models with one token an event"
    model: Any = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, trust_remote_code=False
    ).eval()
    never = torch.tensor(language.no_items)
    found = []
    for unit in rows:
        tokens, answer = list(unit["prompt"]), []
        may_end = STRATEGIES.find(unit["strategy"]).needs == "infill"
        while len(answer) < unit["sampling"]["max_tokens"] and EOS not in answer:
            with torch.no_grad():
                logits = model(torch.tensor([tokens])).logits[0, -1].clone()
            end = logits[EOS].item()
            logits[never] = -torch.inf
            if may_end and answer:
                logits[EOS] = end
            answer.append(int(logits.argmax()))
            tokens.append(answer[-1])
        found.append(answer)
    return found


if __name__ == "__main__":
    if "--child" in sys.argv:
        run, way, num_units = sys.argv[2:]
        print(json.dumps(_child(run, way, int(num_units))))
    else:
        typer.run(main)
