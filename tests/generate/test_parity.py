"""Greedy decoding through vLLM is that of transformers, token for token, in every direction."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from llmaug.config import CausalConfig, GenerateConfig
from llmaug.core.storage import Storage
from llmaug.generate.units import Units
from llmaug.generate.vllm_engine import VllmEngine
from llmaug.items.vocabulary import EOS, NUM_SPECIAL
from llmaug.lm.language import Language
from llmaug.schema import UNIT
from tests.tables import catalogue

NUM_ITEMS, NUM_UNITS, NUM_EVENTS = 60, 200, 12
WORDS = catalogue([f"item-{number:02d}" for number in range(NUM_ITEMS)])
LANGUAGE = Language(WORDS.num_tokens, has_directions=True)
LM = CausalConfig(hidden_size=64, num_heads=2, num_layers=2, context_len=64)
STRATEGIES = ("continue", "prefix", "infill", "new_users")


def units() -> list[dict[str, Any]]:
    rng = np.random.default_rng(0)
    sampling = {"temperature": 0.0, "top_p": 1.0, "top_k": -1, "max_tokens": NUM_EVENTS,
                "forbid_repeats": False}  # fmt: skip
    rows = []
    for number in range(NUM_UNITS):
        strategy = STRATEGIES[number % len(STRATEGIES)]
        items = (rng.integers(NUM_ITEMS, size=rng.integers(1, 40)) + NUM_SPECIAL).tolist()
        room = LM.context_len - NUM_EVENTS
        prompt = {
            "continue": LANGUAGE.forward_prompt(items, room),
            "prefix": LANGUAGE.reverse_prompt(items, room),
            "infill": LANGUAGE.infill_prompt(items[:3], items[3:], room),
            "new_users": LANGUAGE.forward_prompt([], room),
        }[strategy]
        rows.append({"unit_id": f"{number}", "strategy": strategy, "sample": number,
                     "prompt": prompt, "sampling": sampling, "seed": number})  # fmt: skip
    return rows


def test_vllm_draws_what_transformers_draws(ray_session: None, tmp_path: Path) -> None:
    import ray

    by_vllm, by_transformers = ray.get(ray.remote(_both).remote(str(tmp_path)))
    assert len(by_vllm) == NUM_UNITS
    assert by_vllm == by_transformers
    # Gaps are ended by the model, other answers are not.
    lengths = {len(tokens) for tokens in by_vllm[2::4]}
    assert len(lengths) > 1 or lengths == {NUM_EVENTS}


def _both(folder: str) -> tuple[list[list[int]], list[list[int]]]:
    """In a worker: vLLM sets process-wide state that the test process should not have."""
    import torch

    from llmaug.lm.causal.model import CausalLm, save

    torch.manual_seed(0)
    model = CausalLm(LM, WORDS, 1, LANGUAGE)
    with torch.no_grad():  # far from uniform, so that rounding decides nothing
        for parameter in model.parameters():
            parameter.mul_(6.0)
    storage = Storage(folder)
    save(storage, "lm", model, WORDS, {})
    local = storage.fetch_folder("lm", "v1")
    return _by_vllm(local), _by_transformers(local)


def _by_vllm(folder: str) -> list[list[int]]:
    engine = VllmEngine(folder, GenerateConfig(), LM.context_len, LANGUAGE.num_tokens, False)
    table = Units(pa.Table.from_pylist(units(), schema=UNIT))
    assert not engine.add(table, np.arange(NUM_UNITS), 0)
    found: dict[int, list[int]] = {}
    while engine.num_unfinished:
        done = engine.step()
        if done is not None:
            found.update(zip(done.keys.tolist(), done.tokens.to_pylist(), strict=True))
    return [found[number] for number in range(NUM_UNITS)]


def _by_transformers(folder: str) -> list[list[int]]:
    """One unit after the other, what may not come out forbidden by hand."""
    import torch
    from transformers import AutoModelForCausalLM

    model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    never = torch.tensor(LANGUAGE.no_items)
    found = []
    for unit in units():
        tokens, answer = list(unit["prompt"]), []
        may_end = unit["strategy"] == "infill"
        while len(answer) < NUM_EVENTS and EOS not in answer:
            with torch.no_grad():
                logits = model(torch.tensor([tokens])).logits[0, -1].clone()
            ends = logits[EOS].item()
            logits[never] = -torch.inf
            if may_end and answer:
                logits[EOS] = ends
            answer.append(int(logits.argmax()))
            tokens.append(answer[-1])
        found.append(answer)
    return found
