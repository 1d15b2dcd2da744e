"""Connecting to Ray: the cluster that RAY_ADDRESS names, or a local single node."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import sys
import tempfile
import threading
from collections.abc import Iterator

from llmaug.config import RayConfig
from llmaug.errors import UserError

# Workers import torch, transformers and vllm: none of them may phone home or guess.
WORKER_ENV = {
    "HF_HUB_OFFLINE": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_DO_NOT_TRACK": "1",
    "TOKENIZERS_PARALLELISM": "false",
    # glibc keeps large freed blocks instead of returning them: CPU training allocates many
    # big short-lived tensors and is up to 1.4 times faster with it.
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": "4294967296",
    "MALLOC_TOP_PAD_": "67108864",
}

# Settings that are given to the driver and meant for its workers. Ray writes what is passed on
# into its logs and shows it on the dashboard, so each one is named here, and none is a secret:
# VLLM_API_KEY begins as the others do. Rights on S3 come from the machine or the pod.
_PASSED_ON = (
    "CUDA_DEVICE_ORDER",
    "LLMAUG_S3_READ_TIMEOUT_S",
    "NCCL_DEBUG",
    "NCCL_IB_DISABLE",
    "NCCL_P2P_DISABLE",
    "NCCL_SOCKET_IFNAME",
    "OMP_NUM_THREADS",
    "VLLM_ATTENTION_BACKEND",
    "VLLM_CPU_KVCACHE_SPACE",
    "VLLM_CPU_NUM_OF_RESERVED_CPU",
    "VLLM_CPU_OMP_THREADS_BIND",
    "VLLM_CPU_SGL_KERNEL",
    "VLLM_ENABLE_V1_MULTIPROCESSING",
    "VLLM_LOGGING_LEVEL",
    "VLLM_USE_FLASHINFER_SAMPLER",
    "VLLM_WORKER_MULTIPROC_METHOD",
)


_CORE_LEVEL = "RAY_BACKEND_LOG_LEVEL"


def worker_env() -> dict[str, str]:
    """Environment of the workers on a cluster, which do not inherit the driver's."""
    return WORKER_ENV | {name: os.environ[name] for name in _PASSED_ON if name in os.environ}


def connect(config: RayConfig) -> None:
    """Initialise Ray once in this process, quietly and without usage statistics."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # Ray Train answers `report` at its next health check: at the default of 2 s every
    # validation of a small model would cost 2 s.
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.2")
    import ray
    from ray.data import DataContext

    if not ray.is_initialized():
        with _quiet_core():
            _start(config)
        if threading.current_thread() is threading.main_thread():
            # Ray's own handler would end the process without a word on how to go on.
            signal.signal(signal.SIGTERM, signal.default_int_handler)
    context = DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    context.execution_options.verbose_progress = False
    context.execution_options.preserve_order = False
    context.execution_no_progress_timeout_s = 600
    context.max_consecutive_actor_init_deaths = 3  # a dead constructor fails the job at once else
    context.raise_original_map_exception = True  # else a UserError is lost inside a wrapper
    context.max_errored_blocks = 0  # whole blocks would vanish silently
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    for handler in logging.getLogger("ray.data").handlers:
        if isinstance(handler, logging.StreamHandler):
            handler.setLevel(logging.CRITICAL)  # the exception that is raised says it all
    logging.getLogger("ray.train").setLevel(logging.ERROR)


def address_of(config: RayConfig) -> str | None:
    """Of the cluster; None: a Ray of this machine alone."""
    return config.address or os.environ.get("RAY_ADDRESS") or None


def _start(config: RayConfig) -> None:
    import ray

    address = address_of(config)
    if not address:
        # Local workers inherit our environment; a runtime_env would start each afresh.
        for name, value in WORKER_ENV.items():
            os.environ.setdefault(name, value)
        # This machine is not taken away with notice, and asking whether it is costs each fit 2 s.
        os.environ.setdefault("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0")
        _start_here(config)
        return
    try:
        ray.init(address=address, runtime_env={"env_vars": worker_env()}, log_to_driver=False)
    except ray.exceptions.AuthenticationError as error:
        raise UserError(
            f"Ray at {address} asks for its token: set RAY_AUTH_TOKEN, or bring the file "
            "~/.ray/auth_token of the cluster (`ray get-auth-token`)"
        ) from error
    except (ConnectionError, ValueError) as error:
        raise UserError(
            f"no Ray cluster at {address}: {error}. Set ray.address or RAY_ADDRESS right, or "
            "leave both out for a Ray of this machine alone"
        ) from error


def _start_here(config: RayConfig) -> None:
    """A Ray of this machine alone; on a busy one the first start may take too long."""
    import ray

    for is_last in (False, True):
        try:
            ray.init(
                address="local",  # not whichever Ray was last started on this machine
                # Ray Data needs spare logical CPUs beside a fixed actor pool: with 2 it stands
                # still.
                num_cpus=config.num_cpus or max(4, os.cpu_count() or 4),
                include_dashboard=False,
                log_to_driver=False,
                logging_level=logging.ERROR,
            )
            return
        except Exception as error:  # Ray 2.60 has no type for it
            if "timed out during startup" not in str(error):
                raise
            if is_last:
                raise UserError(
                    "Ray did not start within its 30 seconds, twice: this machine has too much "
                    "else to do, or too little memory. What is finished is kept: give the command "
                    "again"
                ) from error
            ray.shutdown()


@contextlib.contextmanager
def _quiet_core() -> Iterator[None]:
    """Keep what the C++ core of the driver says about every pool of actors off the terminal.

    Ray Data hands its actors' arguments over by reference and lets actors restart, and the core
    calls that an error each time (ray-project/ray issue 53727). What fails is raised as an
    exception. `os.putenv` reaches the core and not `os.environ`, which Ray's daemons are started
    with: their logs stay whole. The core says that it was told, so its stderr is kept back.
    """
    if _CORE_LEVEL in os.environ:  # somebody wants to read it
        yield
        return
    os.putenv(_CORE_LEVEL, "fatal")
    try:
        with _stderr_without(_CORE_LEVEL):
            yield
    finally:
        os.unsetenv(_CORE_LEVEL)


@contextlib.contextmanager
def _stderr_without(word: str) -> Iterator[None]:
    """What is written to file descriptor 2 meanwhile comes at the end, less the lines with
    `word`."""
    try:
        terminal = os.dup(2)
    except OSError:  # it is closed
        yield
        return
    with tempfile.TemporaryFile() as kept:
        os.dup2(kept.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(terminal, 2)
            os.close(terminal)
            kept.seek(0)
            with contextlib.suppress(OSError):
                os.write(2, b"".join(line for line in kept if word.encode() not in line))


def is_connected() -> bool:
    """Whether this process has a Ray: a local one that it started, or a cluster."""
    return "ray" in sys.modules and bool(sys.modules["ray"].is_initialized())


def disconnect() -> None:
    """Shut the local Ray down (or let go of the cluster), if this process ever started it."""
    if "ray" in sys.modules:
        sys.modules["ray"].shutdown()
