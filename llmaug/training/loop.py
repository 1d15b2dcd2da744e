"""The loop that every model trained by steps goes through, on one worker.

One loop: AdamW, linear warm-up, then a constant rate or a cosine, gradient accumulation,
validation every so many steps, early stop, best weights kept. Every validation writes a
checkpoint to storage (safetensors and JSON), and a run of the same name goes on from the
last one: batches and dropout depend on the step alone, so the resumed run ends with the
weights of an undisturbed one.
"""

from __future__ import annotations

import contextlib
import json
import math
import tempfile
from pathlib import Path
from typing import Any, Protocol

from llmaug.config import OptimiserConfig
from llmaug.core.storage import Storage
from llmaug.errors import UserError

FAILED_BATCH = "failed_batch.json"


class Private(Protocol):
    """Training by DP-SGD. Then nothing is chosen by a validation, which would cost privacy that
    nobody counts: all steps are made, and the last weights are kept."""

    def backward(self) -> float:
        """Sets the gradients of a step, clipped and noised; returns the mean loss of its users."""

    def facts(self) -> dict[str, Any]:
        """What the manifest says of the promise: epsilon, delta, unit, what they follow from."""


class Task(Protocol):
    """What is trained; built inside each worker."""

    model: Any
    """torch.nn.Module; `model(*batch)` gives the mean loss of a batch."""
    metric: str
    """What `validate` measures: ndcg, log_likelihood or negative_rmse."""
    patient_until: int
    """Early stopping does not count validations before this step."""

    private: Private | None
    """Where users are protected by noise."""

    def batch(self, step: int, rank: int, world_size: int) -> tuple[Any, ...]:
        """This worker's share of the batch of `step`: arrays."""

    def weight(self, batch: tuple[Any, ...]) -> float:
        """What the mean loss of a batch is a mean over: the sum of its loss weights."""

    def validate(self) -> float:
        """Validation metric, higher is better; NaN when there is nothing held out."""

    def export(self) -> dict[str, Any]:
        """Write the finished model to storage; returns JSON-able facts about it."""


def train(spec: dict[str, Any]) -> None:
    import ray.train
    import torch
    from ray.train.torch import prepare_model

    optimiser_config: OptimiserConfig = spec["optimiser"]
    torch.set_num_threads(optimiser_config.threads_per_worker)
    torch.manual_seed(spec["seed"])
    world = ray.train.get_context()
    rank, world_size = world.get_world_rank(), world.get_world_size()
    task: Task = spec["build"]()
    # Buffers are constant (tags, texts): none needs to be sent around at every step.
    wrapped = prepare_model(task.model, parallel_strategy_kwargs={"broadcast_buffers": False})
    optimiser = make_optimiser(task.model, optimiser_config)
    state = _restore(task.model, optimiser)
    while not _finished(task, state, optimiser_config):
        step = state["step"]
        try:
            loss = train_step(
                task, wrapped, optimiser, optimiser_config, spec["seed"], step, rank, world_size
            )
        except NotFinite as found:
            folder = spec["storage"], spec["folder"]
            raise not_finite(*folder, optimiser_config, found, step, rank) from None
        state["step"] = step + 1
        last = _finished(task, state, optimiser_config)
        if last or (step + 1) % optimiser_config.validate_every == 0:
            _validate_and_save(task, optimiser, state, loss, rank, world_size)
        if rank == 0 and step % 10 == 0:
            facts = {"loss": loss, f"validation {task.metric}": state["best"]}
            spec["board"].put.remote(step + 1, facts)
    if rank == 0:
        if state["best_weights"]:
            task.model.load_state_dict(state["best_weights"])
        facts = task.export()
        # The last step stands for the best where nothing was held out to choose by.
        best = None if math.isinf(state["best"]) else state["best"]
        facts |= {"steps": state["step"], "best_step": state["best_step"], "curve": state["curve"]}
        facts[f"validation_{task.metric}"] = best
        spec["storage"].write_json(facts, spec["folder"], "_trained.json")


def learning_rate(config: OptimiserConfig, step: int) -> float:
    """Linear warm-up, then constant or half a cosine down to 0 at `num_steps` (Loshchilov and
    Hutter 2017)."""
    warm = min(1.0, (step + 1) / max(1, config.warmup_steps))
    if config.schedule == "cosine" and step >= config.warmup_steps:
        share = (step - config.warmup_steps) / max(1, config.num_steps - config.warmup_steps)
        return config.learning_rate * (1 + math.cos(math.pi * share)) / 2
    return config.learning_rate * warm


class NotFinite(Exception):
    """A loss that is no number, and the batch that gave it."""

    def __init__(self, loss: float, batch: tuple[Any, ...]) -> None:
        super().__init__(f"loss is {loss}")
        self.loss, self.batch = loss, batch


def backward(
    config: OptimiserConfig, task: Task, wrapped: Any, step: int, rank: int, world_size: int
) -> float:
    """Gradients of this worker's share of the batch, in as many pieces as configured; returns
    its mean loss. A piece counts by its weight, so that pieces add up to the whole. Raises
    NotFinite."""
    import torch

    pieces = config.num_accumulations
    device = next(task.model.parameters()).device
    batches = [
        task.batch(step, rank * pieces + piece, world_size * pieces) for piece in range(pieces)
    ]
    weights = [task.weight(batch) for batch in batches]
    mean = 0.0
    for piece, batch in enumerate(batches):
        share = weights[piece] / sum(weights)
        # Only the last piece sends gradients to the other workers.
        waits = world_size > 1 and piece < pieces - 1
        with wrapped.no_sync() if waits else contextlib.nullcontext():
            with torch.autocast(device.type, torch.bfloat16, enabled=_in_bfloat16(config, device)):
                loss = wrapped(*(torch.as_tensor(x, device=device) for x in batch))
            if not math.isfinite(loss.item()):
                raise NotFinite(loss.item(), batch)
            (loss if pieces == 1 else loss * share).backward()
        mean += loss.item() * share
    return mean


def _in_bfloat16(config: OptimiserConfig, device: Any) -> bool:
    import torch

    if config.precision is None:
        return bool(device.type == "cuda" and torch.cuda.is_bf16_supported())
    return config.precision == "bfloat16"


def not_finite(
    storage: Storage, folder: str, config: OptimiserConfig, found: NotFinite, step: int, rank: int
) -> UserError:
    """The error to raise; what it speaks of is saved first."""
    rate = learning_rate(config, step)
    facts = {
        "step": step,
        "rank": rank,
        "loss": str(found.loss),
        "learning_rate": rate,
        "batch": [array.tolist() for array in found.batch],
    }
    storage.write_json(facts, folder, FAILED_BATCH)
    return UserError(
        f"loss is {found.loss} at step {step}; the batch is in "
        f"{storage.uri(folder, FAILED_BATCH)}: lower the learning rate ({rate:g}) or "
        "look at the events' weights"
    )


def make_optimiser(model: Any, config: OptimiserConfig) -> Any:
    """AdamW in one kernel over all weights."""
    import torch

    return torch.optim.AdamW(
        model.parameters(),
        lr=config.learning_rate,
        betas=(0.9, 0.98),
        weight_decay=config.weight_decay,
        fused=True,
    )


def train_step(
    task: Task,
    wrapped: Any,
    optimiser: Any,
    config: OptimiserConfig,
    seed: int,
    step: int,
    rank: int = 0,
    world_size: int = 1,
) -> float:
    """One step of the optimiser; returns the loss of this worker's share of the batch.

    All that is random depends on (seed, step, rank) alone. `wrapped` is the task's model, as
    DDP wraps it. Raises NotFinite.
    """
    import torch

    torch.manual_seed(seed * 1_000_003 + step * 997 + rank)
    for group in optimiser.param_groups:
        group["lr"] = learning_rate(config, step)
    task.model.train()
    optimiser.zero_grad(set_to_none=True)
    if task.private:
        loss = task.private.backward()
    else:
        loss = backward(config, task, wrapped, step, rank, world_size)
        torch.nn.utils.clip_grad_norm_(task.model.parameters(), 1.0)
    optimiser.step()
    return loss


def _finished(task: Task, state: dict[str, Any], config: OptimiserConfig) -> bool:
    not_counted = task.patient_until // config.validate_every
    stale = state["validations"] - max(state["best_validation"], not_counted)
    impatient = stale >= config.patience and not task.private
    return state["step"] >= config.num_steps or impatient


def _validate_and_save(
    task: Task, optimiser: Any, state: dict[str, Any], loss: float, rank: int, world_size: int
) -> None:
    """Validate on rank 0, tell the others, remember the best weights, write a checkpoint."""
    import ray.train
    import torch

    task.model.eval()
    metric = torch.tensor([task.validate() if rank == 0 else 0.0], dtype=torch.float64)
    if world_size > 1:
        metric = metric.to(next(task.model.parameters()).device)
        torch.distributed.broadcast(metric, src=0)
    state["validations"] += 1
    value = float(metric.item())
    point = {"step": state["step"], "loss": loss, "value": None if math.isnan(value) else value}
    state["curve"].append(point)
    if math.isnan(value) or value > state["best"] or task.private:
        state["best"] = -math.inf if math.isnan(value) else value
        state["best_step"], state["best_validation"] = state["step"], state["validations"]
        weights = task.model.state_dict()
        state["best_weights"] = {name: t.detach().clone() for name, t in weights.items()}
    report = {"step": state["step"], "loss": loss, f"validation_{task.metric}": value}
    if rank != 0:
        ray.train.report(report)
        return
    with tempfile.TemporaryDirectory() as folder:
        _save(folder, task.model, optimiser, state)
        ray.train.report(report, checkpoint=ray.train.Checkpoint.from_directory(folder))


def _save(folder: str, model: Any, optimiser: Any, state: dict[str, Any]) -> None:
    from safetensors.torch import save_file

    tensors = {f"model.{name}": t for name, t in model.state_dict().items()}
    tensors |= {f"best.{name}": t for name, t in state["best_weights"].items()}
    for index, slots in optimiser.state_dict()["state"].items():
        tensors |= {f"optimiser.{index}.{slot}": t for slot, t in slots.items()}
    save_file(
        {n: t.detach().clone().contiguous() for n, t in tensors.items()},
        f"{folder}/state.safetensors",
    )
    plain = {name: value for name, value in state.items() if name != "best_weights"}
    Path(folder, "state.json").write_text(json.dumps(plain))


def _restore(model: Any, optimiser: Any) -> dict[str, Any]:
    """Fresh state, or that of the last checkpoint loaded into `model` and `optimiser`."""
    import ray.train
    from safetensors.torch import load_file

    fresh: dict[str, Any] = {
        "step": 0,
        "validations": 0,
        "best": -math.inf,
        "best_step": 0,
        "best_validation": 0,
        "best_weights": {},
        "curve": [],
    }
    checkpoint = ray.train.get_checkpoint()
    if not checkpoint:
        return fresh
    with checkpoint.as_directory() as folder:
        tensors = load_file(f"{folder}/state.safetensors")
        state = fresh | json.loads(Path(folder, "state.json").read_text())
    by_prefix: dict[str, dict[str, Any]] = {"model": {}, "best": {}, "optimiser": {}}
    for name, tensor in tensors.items():
        prefix, rest = name.split(".", 1)
        by_prefix[prefix][rest] = tensor
    model.load_state_dict(by_prefix["model"])
    state["best_weights"] = by_prefix["best"]
    slots: dict[int, dict[str, Any]] = {}
    for name, tensor in by_prefix["optimiser"].items():
        index, slot = name.split(".", 1)
        slots.setdefault(int(index), {})[slot] = tensor
    optimiser.load_state_dict({**optimiser.state_dict(), "state": slots})
    return state
