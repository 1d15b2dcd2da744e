"""Greedy decoding through vLLM is that of transformers, token for token, in every direction; and a
chat model that is asked for texts keeps to its schema."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from llmaug.config import CausalConfig, DescribeItemsConfig, GenerateConfig, TextConfig
from llmaug.core.storage import Storage
from llmaug.generate.units import Units
from llmaug.generate.vllm_engine import VllmEngine
from llmaug.items.vocabulary import EOS, NUM_SPECIAL
from llmaug.lm.language import Language
from llmaug.schema import UNIT
from llmaug.text.task import task_of
from tests.tables import catalogue
from tests.text.chat import INJECTIONS, byte_tokenizer, items, write_byte_model

NUM_ITEMS, NUM_UNITS, NUM_EVENTS = 60, 200, 12
WORDS = catalogue([f"item-{number:02d}" for number in range(NUM_ITEMS)])
LANGUAGE = Language(WORDS.num_tokens, has_directions=True)
LM = CausalConfig(hidden_size=64, num_heads=2, num_layers=2, context_len=64)
TEXT_TOKENS = 1500  # one byte each, of which a character has up to four
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


@pytest.fixture(scope="module")
def said(ray_session: None, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Any, Any]:
    """By vLLM, by transformers, and texts by vLLM; one worker, which imports vLLM once."""
    import ray

    folder = str(tmp_path_factory.mktemp("models"))
    return tuple(ray.get(ray.remote(_all).remote(folder)))


def test_vllm_draws_what_transformers_draws(said: tuple[Any, Any, Any]) -> None:
    by_vllm, by_transformers, _ = said
    assert len(by_vllm) == NUM_UNITS
    assert by_vllm == by_transformers
    # Gaps are ended by the model, other answers are not.
    lengths = {len(tokens) for tokens in by_vllm[2::4]}
    assert len(lengths) > 1 or lengths == {NUM_EVENTS}


def test_a_chat_model_says_what_the_schema_allows(said: tuple[Any, Any, Any]) -> None:
    """Even one that says bytes at random: all answers parse, whatever stands in the titles."""
    task = task_of(TextConfig(), DescribeItemsConfig(max_new_tokens=TEXT_TOKENS))
    *_, texts = said
    assert len(texts) == len(INJECTIONS)
    answers = [task.parse(text) for text in texts]
    assert all(20 <= len(answer["description"]) <= 240 for answer in answers)
    assert len({answer["description"] for answer in answers}) == len(INJECTIONS)


def _all(folder: str) -> tuple[Any, Any, Any]:
    """In a worker: vLLM sets process-wide state that the test process should not have."""
    return *_both(folder), _texts(f"{folder}/chat")


def _texts(folder: str) -> list[str]:
    num_tokens = write_byte_model(Path(folder))
    task = task_of(TextConfig(), DescribeItemsConfig(max_new_tokens=TEXT_TOKENS))
    rows = task.rows(items(INJECTIONS))
    tokenizer = byte_tokenizer()
    sampling = {"temperature": 1.0, "top_p": 1.0, "top_k": -1, "max_tokens": TEXT_TOKENS,
                "forbid_repeats": False}  # fmt: skip
    asked = [
        {"unit_id": row.item_id, "strategy": task.name, "sample": 0, "seed": number,
         "prompt": tokenizer.encode(str(row.fields)[:300]), "sampling": sampling}
        for number, row in enumerate(rows)
    ]  # fmt: skip
    engine = VllmEngine(folder, GenerateConfig(), 2304, num_tokens, False, schema=task.schema)
    units = Units(pa.Table.from_pylist(asked, schema=UNIT))
    assert not engine.add(units, np.arange(len(units)), 0)
    found: dict[int, str] = {}
    while engine.num_unfinished:
        done = engine.step()
        if done is not None:
            assert done.said is not None
            found.update(zip(done.keys.tolist(), done.said["text"].to_pylist(), strict=True))
    return [found[number] for number in range(len(units))]


def _both(folder: str) -> tuple[list[list[int]], list[list[int]]]:
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
