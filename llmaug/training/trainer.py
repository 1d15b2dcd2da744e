"""The Ray Train hand-off that language models and recommenders share; the loop is in `loop`."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from typing import Any

from llmaug.config import OptimiserConfig
from llmaug.core.node_types import machines
from llmaug.core.placing import misfit, workers
from llmaug.core.stage import Context
from llmaug.errors import UserError, find_user_error
from llmaug.training.loop import Task, train

_FAILED = "_failed.json"  # message of the error that ended the worker


def fit(
    context: Context, name: str, build: Callable[..., Task], optimiser: OptimiserConfig, seed: int
) -> dict[str, Any]:
    """Train what `build()` returns, in folder `name` of the run; resumes by name.

    Returns the facts of `export` and {"steps", "best_step", "validation_<metric>", "curve": [{step,
    loss, value}] of each validation}.
    Raises UserError where the cluster has no room for the workers, and on a loss that is not
    finite, naming the step and where its batch is.
    """
    import ray
    import ray.train
    from ray.train.torch import TorchTrainer

    from llmaug.core.cluster import connect

    connect(context.config.ray)
    _refuse_what_fits_nowhere(context, name, optimiser)
    storage = context.storage
    board = _latest_step_class().options(num_cpus=0).remote()
    folder = context.folder(name)
    storage.delete(folder, _FAILED)
    trainer = TorchTrainer(
        _train_loop,
        train_loop_config={
            "build": build,
            "optimiser": optimiser,
            "seed": seed,
            "board": board,
            "storage": storage,
            "folder": folder,
        },
        scaling_config=ray.train.ScalingConfig(
            num_workers=optimiser.num_workers,
            use_gpu=optimiser.use_gpu,
            resources_per_worker={
                "CPU": optimiser.threads_per_worker,
                **({"GPU": 1} if optimiser.use_gpu else {}),
            },
        ),
        run_config=ray.train.RunConfig(
            name="_train",
            storage_path=storage.path(folder),
            storage_filesystem=storage.arrow_fs(),
            checkpoint_config=ray.train.CheckpointConfig(num_to_keep=1),
            failure_config=ray.train.FailureConfig(max_failures=2),
        ),
    )
    with _shown(context, board, optimiser.num_steps):
        try:
            trainer.fit()
        except Exception as error:
            raise find_user_error(error) or error from error
    failure = storage.read_json(folder, _FAILED)
    if failure:
        storage.delete(folder, _FAILED)
        raise UserError(failure["message"])
    result = storage.read_json(folder, "_trained.json")
    storage.delete(folder, "_train")
    return result


def _refuse_what_fits_nowhere(context: Context, name: str, optimiser: OptimiserConfig) -> None:
    """Ray would wait for machines that do not come."""
    ask = workers("lm" if name.startswith("lm/") else "train", optimiser)
    if found := misfit(name, ask, machines(context.config.ray)):
        raise UserError(found)


def _train_loop(spec: dict[str, Any]) -> None:
    """Runs in each Ray Train worker."""
    import ray.train

    try:
        train(spec)
    except UserError as error:
        # Ray starts failed workers again, but what the user must mend fails again. A worker
        # that is alone can end in peace; among several, the others wait for it and must be
        # stopped.
        if ray.train.get_context().get_world_size() > 1:
            raise
        spec["storage"].write_json({"message": error.message}, spec["folder"], _FAILED)


def _latest_step_class() -> Any:
    import ray

    class LatestStep:
        """Where workers pin how far they are, for the driver to show."""

        def __init__(self) -> None:
            self._latest: tuple[int, dict[str, float]] = (0, {})

        def put(self, step: int, facts: dict[str, float]) -> None:
            self._latest = (step, facts)

        def get(self) -> tuple[int, dict[str, float]]:
            return self._latest

    return ray.remote(LatestStep)


class _shown:
    """Polls the latest step into the progress bar while `fit` blocks."""

    def __init__(self, context: Context, board: Any, num_steps: int) -> None:
        self._context, self._board, self._num_steps = context, board, num_steps
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._poll, daemon=True)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: Any) -> None:
        self._stop.set()
        self._thread.join(timeout=10)

    def _poll(self) -> None:
        import ray

        shown = 0
        with self._context.progress.track(self._num_steps, "steps") as advance:
            while not self._stop.wait(1.0):
                try:
                    step, facts = ray.get(self._board.get.remote(), timeout=5)
                except Exception:  # a busy or dying actor: the training decides, not the bar
                    continue
                if step > shown:
                    finite = {n: v for n, v in facts.items() if math.isfinite(v)}
                    advance(step - shown, finite)
                    shown = step
