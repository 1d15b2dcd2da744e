#!/usr/bin/env python3
"""Does training run on this machine's GPU, in bfloat16, does it learn, and how fast is it?

For a bare machine: it needs torch, transformers, pyarrow, fsspec, psutil and PyYAML, and neither
Ray nor vLLM nor an installation of llmaug. Where pydantic is missing, configs are not checked.

    python scripts/gpu_check.py                        # a minute or two on a GPU
    python scripts/gpu_check.py --device cpu --small   # seconds, on any machine

On made-up histories it trains the behaviour model and SASRec with the optimiser step of
`llmaug/training/loop.py` (Ray Train only hands it out), ranks the whole catalogue for users whose
last event was held back, and compares the exported Llama, loaded by transformers alone, with the
model that was trained. The last line is one JSON object; the exit code is 1 when a check failed.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import json
import platform
import sys
import tempfile
import time
import types
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
SHELF = 20
"""Items of a shelf; people mostly take the next one of theirs."""
WARM_STEPS = 5
MAX_ERROR = 1e-3
"""Of float32 logits, in their standard deviations."""


@dataclass(frozen=True)
class Sizes:
    num_users: int
    num_items: int
    history_len: int
    """Mean length of a history."""
    held_out: int
    """Users whose last event is ranked."""
    steps: int
    learning_rate: float
    causal: dict[str, Any]
    sasrec: dict[str, Any]


FULL = Sizes(
    num_users=100_000, num_items=20_000, history_len=60, held_out=2000, steps=400,
    learning_rate=2e-3,
    causal={"hidden_size": 512, "num_layers": 8, "num_heads": 8, "context_len": 128,
            "batch_size": 512},
    sasrec={"embedding_dim": 256, "num_layers": 4, "num_heads": 4, "history_len": 100,
            "batch_size": 512},
)  # fmt: skip
SMALL = Sizes(
    num_users=300, num_items=100, history_len=15, held_out=100, steps=40, learning_rate=2e-2,
    causal={"hidden_size": 32, "num_layers": 1, "num_heads": 1, "context_len": 24,
            "batch_size": 32},
    sasrec={"embedding_dim": 32, "num_layers": 1, "num_heads": 1, "history_len": 24,
            "batch_size": 32},
)  # fmt: skip


def main() -> int:
    arguments = _arguments()
    import torch

    device = torch.device(arguments.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        print("torch sees no GPU here; --device cpu --small tries the script", file=sys.stderr)
        return 2
    if arguments.small:
        torch.set_num_threads(1)  # more of them wait for each other
    with _importable():
        sizes = SMALL if arguments.small else FULL
        figures = _figures(sizes, device, arguments.precision)
    failed = [name for name, passed in figures.pop("checks").items() if not passed]
    found = {"check": "gpu", **_machine(device), "precision": arguments.precision, **figures}
    print(json.dumps({**found, "passed": not failed, "failed": failed}))
    return 1 if failed else 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--device", default="cuda", help="cuda, cuda:1, cpu")
    parser.add_argument("--small", action="store_true", help="tiny models and few users")
    parser.add_argument("--precision", choices=["bfloat16", "float32"], default="bfloat16")
    return parser.parse_args()


def _figures(sizes: Sizes, device: Any, precision: str) -> dict[str, Any]:
    import torch

    from llmaug.config import CausalConfig, SasrecConfig
    from llmaug.items.batches import Batches
    from llmaug.lm.causal.documents import Documents
    from llmaug.lm.causal.model import CausalLm
    from llmaug.recommenders import DataFacts
    from llmaug.recommenders.sasrec import SASRec

    vocabulary, sequences, held_out = _logs(sizes)
    by_popularity = _popularity(sequences, vocabulary)
    steps: dict[str, Any] = {
        "precision": precision, "num_steps": sizes.steps, "warmup_steps": sizes.steps // 10,
        "learning_rate": sizes.learning_rate, "dropout": 0.1,
    }  # fmt: skip
    figures: dict[str, Any] = {
        "events": int((sequences.weights > 0).sum()), "items": vocabulary.num_items,
        "popularity": _ranking(by_popularity, held_out),
    }  # fmt: skip
    checks = {}

    torch.manual_seed(1)
    lm = CausalConfig(**sizes.causal, **steps, name="causal")
    causal = CausalLm(lm, vocabulary, 1).to(device)
    batches = Batches(sequences, lm.batch_size, lm.context_len, 1)
    for packed in (False, True):  # the second goes on where the first stopped
        documents = Documents(
            batches, causal.language, lm.directions, lm.context_len, packed, None, 1
        )
        name = "causal_packed" if packed else "causal"
        figures[name] = _trained(causal, documents, lm, sizes.steps // (1 + 3 * packed), device)
    figures["causal"] |= _ranking(causal.eval().score, held_out)
    figures["parity"] = _parity(causal, vocabulary, held_out[0][:64])

    torch.manual_seed(1)
    recommender = SasrecConfig(**sizes.sasrec, **steps)
    batches = Batches(sequences, recommender.batch_size, recommender.history_len, 1)
    counts = batches.target_counts(vocabulary.num_tokens)
    sasrec = SASRec(recommender, DataFacts(vocabulary, target_counts=counts)).to(device)
    figures["sasrec"] = _trained(sasrec, batches, recommender, sizes.steps, device)
    figures["sasrec"] |= _ranking(sasrec.eval().score, held_out)

    for name in ("causal", "sasrec"):
        checks[f"{name} learns"] = figures[name]["ndcg@10"] > 2 * figures["popularity"]["ndcg@10"]
        checks[f"{name} computes in {precision}"] = figures[name]["computes_in"] == precision
    checks["exported Llama gives the same logits"] = figures["parity"]["float32"] < MAX_ERROR
    return {**figures, "checks": checks}


def _logs(sizes: Sizes) -> tuple[Any, Any, tuple[list[list[int]], list[int]]]:
    """(vocabulary, training sequences, (histories, targets) of the users whose last event is held
    back). A user is at one of the shelves, takes the next item of it seven times in ten, else any
    of it, and goes to another shelf now and then."""
    import pyarrow as pa

    from llmaug.items.sequences import Sequences
    from llmaug.items.vocabulary import BOS, NUM_SPECIAL, of_items
    from llmaug.schema import ITEM

    rng = np.random.default_rng(0)
    length = rng.poisson(sizes.history_len - 4, sizes.num_users) + 4
    shelf = rng.integers(sizes.num_items // SHELF, size=sizes.num_users)
    place = rng.integers(SHELF, size=sizes.num_users)
    items = np.empty((sizes.num_users, 1 + length.max()), np.int32)
    items[:, 0] = BOS
    for step in range(1, items.shape[1]):
        elsewhere = rng.random(sizes.num_users) < 0.05
        anew = rng.integers(sizes.num_items // SHELF, size=sizes.num_users)
        shelf = np.where(elsewhere, anew, shelf)
        any_of_it = elsewhere | (rng.random(sizes.num_users) < 0.3)
        anew = rng.integers(SHELF, size=sizes.num_users)
        place = np.where(any_of_it, anew, (place + 1) % SHELF)
        items[:, step] = NUM_SPECIAL + shelf * SHELF + place
    histories = [items[user, 1 : length[user]].tolist() for user in range(sizes.held_out)]
    targets = [int(items[user, length[user]]) for user in range(sizes.held_out)]
    length[: sizes.held_out] -= 1
    inside = np.arange(items.shape[1]) <= length[:, None]
    sequences = Sequences(
        tokens=items[inside],
        weights=np.broadcast_to(np.arange(items.shape[1]) > 0, items.shape)[inside].astype("f4"),
        offsets=np.r_[0, np.cumsum(length + 1)].astype(np.int64),
        user_ids=np.array([f"u{user}" for user in range(sizes.num_users)], object),
        is_real=np.ones(sizes.num_users, bool),
    )
    number = np.bincount(sequences.tokens, minlength=NUM_SPECIAL + sizes.num_items)[NUM_SPECIAL:]
    rows = [
        {"item_id": f"{item:08d}", "tags": [f"shelf {item // SHELF}"], "origin": "real",
         "train_events": int(number[item])}
        for item in range(sizes.num_items)
    ]  # fmt: skip
    schema = ITEM.append(pa.field("train_events", pa.int64()))
    return of_items(pa.Table.from_pylist(rows, schema=schema)), sequences, (histories, targets)


@dataclass
class _Task:
    """What `train_step` asks of a task."""

    model: Any
    batches: Any
    metric: str = "ndcg"
    patient_until: int = 0
    private: None = None

    def batch(self, step: int, rank: int, world_size: int) -> tuple[Any, ...]:
        return self.batches.at(step, rank, world_size)

    def weight(self, batch: tuple[Any, ...]) -> float:
        return float(batch[1].sum())

    def validate(self) -> float:
        raise NotImplementedError

    def export(self) -> dict[str, Any]:
        raise NotImplementedError


def _trained(model: Any, batches: Any, config: Any, num_steps: int, device: Any) -> dict[str, Any]:
    """Train `model`; its speed, batches being made included, and what it was computed in."""
    import torch

    from llmaug.training.loop import make_optimiser, train_step

    precisions = set()
    linear = next(module for module in model.modules() if isinstance(module, torch.nn.Linear))
    hook = linear.register_forward_hook(lambda _, __, out: precisions.add(out.dtype))
    optimiser = make_optimiser(model, config)
    task = _Task(model, batches)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    losses = []
    for step in range(WARM_STEPS + num_steps):
        if step == WARM_STEPS:
            begin = time.monotonic()
        losses.append(train_step(task, model, optimiser, config, 1, step))  # waits for the loss
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    seconds = time.monotonic() - begin
    hook.remove()
    sizes = [batches.at(step) for step in range(WARM_STEPS, WARM_STEPS + num_steps)]
    targets = sum(int((batch[1][:, 1:] > 0).sum()) for batch in sizes)
    tokens = sum(int((batch[0][:, :-1] != 0).sum()) for batch in sizes)
    places = sum(batch[0][:, :-1].size for batch in sizes)
    memory = torch.cuda.max_memory_allocated(device) if device.type == "cuda" else None
    figures = {
        "parameters": sum(each.numel() for each in model.parameters()),
        "steps": num_steps,
        "computes_in": " and ".join(
            sorted(str(each).removeprefix("torch.") for each in precisions)
        ),
        "first_loss": round(float(np.mean(losses[:WARM_STEPS])), 4),
        "last_loss": round(float(np.mean(losses[-10:])), 4),
        "seconds": round(seconds, 2),
        "targets_per_s": round(targets / seconds),
        "tokens_per_s": round(tokens / seconds),
        "padding": round(1 - tokens / places, 3),
        "peak_gib": None if memory is None else round(memory / 2**30, 2),
    }
    print(f"{type(model).__name__:10} {figures}", file=sys.stderr)
    return figures


def _popularity(sequences: Any, vocabulary: Any) -> Any:
    import torch

    counts = np.bincount(sequences.tokens, minlength=vocabulary.num_tokens)
    row = torch.from_numpy(counts).float()
    return lambda users, histories: row.repeat(len(users), 1)


def _ranking(score: Any, held_out: tuple[list[list[int]], list[int]]) -> dict[str, Any]:
    """Full ranking, what was seen not excluded: here people take things again."""
    from llmaug.training.ranking import mean_ndcg_at_10, target_ranks

    histories, targets = held_out
    users = [f"u{user}" for user in range(len(targets))]
    begin = time.monotonic()
    ranks = target_ranks(score, users, histories, targets, exclude_seen=False)
    seconds = time.monotonic() - begin
    return {
        "ndcg@10": round(mean_ndcg_at_10(ranks), 4),
        "hit_rate@10": round(float((ranks < 10).mean()), 4),
        "ranked_users_per_s": round(len(targets) / seconds),
    }


def _parity(model: Any, vocabulary: Any, histories: list[list[int]]) -> dict[str, Any]:
    """Largest difference between logits of the exported Llama, as transformers loads it, and of
    the training model, in standard deviations of the latter; and how often both, and the Llama in
    bfloat16, have the same item first."""
    import torch
    from transformers import LlamaForCausalLM

    from llmaug.core.storage import Storage
    from llmaug.items.arrays import padded_prompts
    from llmaug.lm.causal.model import save

    prompts = [model.language.forward_prompt(own, model.context_len) for own in histories]
    device = next(model.parameters()).device
    tokens, last = (torch.from_numpy(x).to(device) for x in padded_prompts(prompts))
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as root, torch.inference_mode():
        expected = model.next_logits(prompts)
        save(Storage(root), "lm", model, vocabulary, {})
        for precision in ("float32", "bfloat16"):
            plain = LlamaForCausalLM.from_pretrained(
                f"{root}/lm", dtype=getattr(torch, precision), trust_remote_code=False,
                use_safetensors=True,
            ).to(device)  # fmt: skip
            logits = plain(tokens).logits[torch.arange(len(last), device=device), last]
            logits = logits[:, : expected.shape[1]].float()
            found[precision] = float((logits - expected).abs().max() / expected.std())
            same = (logits.argmax(1) == expected.argmax(1)).float().mean()
            found[f"{precision}_same_first"] = round(float(same), 4)
    return found


def _machine(device: Any) -> dict[str, Any]:
    import torch

    versions = {"python": platform.python_version()}
    for package in ("torch", "transformers", "numpy", "pyarrow", "pydantic"):
        versions[package] = version(package) if _found(package) else None
    card = None
    if device.type == "cuda":
        facts = torch.cuda.get_device_properties(device)
        card = {
            "name": facts.name, "memory_gib": round(facts.total_memory / 2**30, 1),
            "capability": f"{facts.major}.{facts.minor}", "cuda": torch.version.cuda,
        }  # fmt: skip
    return {"card": card, "threads": torch.get_num_threads(), "versions": versions}


# -- without an installation ------------------------------------------------------------------


@contextlib.contextmanager
def _importable() -> Iterator[None]:
    """This repository's llmaug can be imported, without pydantic too."""
    from transformers import LlamaForCausalLM  # noqa: F401  (it looks for pydantic by itself)

    sys.path.insert(0, str(ROOT))
    missing = _found("pydantic") is None
    if missing:
        sys.modules |= _stand_in()
    try:
        yield
    finally:
        if missing:
            del sys.modules["pydantic"], sys.modules["pydantic_core"]


def _found(module: str) -> Any:
    try:
        return importlib.util.find_spec(module)
    except (ImportError, ValueError):
        return None


class _Field:
    def __init__(self, default: Any = None, default_factory: Any = None, **_: Any) -> None:
        self.default, self.default_factory = default, default_factory


class _Model:
    """Fields with their defaults, and no checks: all that the config's classes need of pydantic
    to be made here."""

    model_fields: dict[str, _Field] = {}

    def __init_subclass__(cls, **_: Any) -> None:
        fields = {}
        for base in reversed(cls.__mro__):
            for name, kind in vars(base).get("__annotations__", {}).items():
                if not name.startswith(("_", "model_")) and not str(kind).startswith("ClassVar"):
                    given = vars(base).get(name)
                    fields[name] = given if isinstance(given, _Field) else _Field(given)
        cls.model_fields = fields

    def __init__(self, **given: Any) -> None:
        for name, field in self.model_fields.items():
            value = field.default_factory() if field.default_factory else field.default
            setattr(self, name, given.pop(name, value))
        assert not given, f"{type(self).__name__} has no {', '.join(given)}"


def _stand_in() -> dict[str, types.ModuleType]:
    def nothing(*_: Any, **__: Any) -> Any:
        return lambda function: function

    pydantic, core = types.ModuleType("pydantic"), types.ModuleType("pydantic_core")
    pydantic.__dict__.update(
        BaseModel=_Model, Field=_Field, ConfigDict=dict, AfterValidator=nothing,
        model_validator=nothing, ValidationError=ValueError, TypeAdapter=nothing,
        GetCoreSchemaHandler=object,
    )  # fmt: skip
    core.__dict__.update(
        CoreSchema=object, InitErrorDetails=dict, PydanticCustomError=ValueError, core_schema=None
    )
    return {"pydantic": pydantic, "pydantic_core": core}


if __name__ == "__main__":
    sys.exit(main())
