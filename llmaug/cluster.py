"""Connecting to Ray: the cluster that RAY_ADDRESS names, or a local single node."""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading

from llmaug.config import RayConfig

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
        address = config.address or os.environ.get("RAY_ADDRESS")
        if address:
            ray.init(address=address, runtime_env={"env_vars": worker_env()}, log_to_driver=False)
        else:
            # Local workers inherit our environment; a runtime_env would start each afresh.
            for name, value in WORKER_ENV.items():
                os.environ.setdefault(name, value)
            # Ray Data needs spare logical CPUs beside a fixed actor pool: with 2 it stands still.
            ray.init(
                num_cpus=config.num_cpus or max(4, os.cpu_count() or 4),
                include_dashboard=False,
                log_to_driver=False,
                logging_level=logging.ERROR,
            )
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


def has_gpus(config: RayConfig) -> bool:
    """Whether any machine of the cluster has a GPU."""
    import ray

    connect(config)
    return bool(ray.cluster_resources().get("GPU"))


def disconnect() -> None:
    """Shut the local Ray down (or let go of the cluster), if this process ever started it."""
    if "ray" in sys.modules:
        sys.modules["ray"].shutdown()
