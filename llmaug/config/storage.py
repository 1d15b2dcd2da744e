"""Sections `storage` and `ray`: where data lies and where work is done."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from llmaug.config.base import Section


class StorageConfig(Section):
    """Where everything is read from and written to."""

    root: str = "demo"
    """Folder (from the config's own, where relative) or `s3://bucket/prefix`. `--root` and
    LLMAUG_ROOT win over it, and are relative to the working folder."""
    endpoint_url: str | None = None
    """S3 endpoint for servers other than AWS. `--endpoint-url` wins over it."""


class RayConfig(Section):
    """The cluster."""

    address: str | None = None
    """None: RAY_ADDRESS if set, else a local single-node Ray; `auto` inside a cluster."""
    num_cpus: int | None = Field(default=None, ge=4)
    """Logical CPUs of a local Ray (Ray Data needs spare ones: at least 4)."""
    gpus: Literal["auto", "required", "none"] = "auto"
    """Whether engines and text encoders ask for GPUs. auto: where the cluster has some or its
    autoscaler can launch some, up or not. required: always, and a job whose cluster has none and
    can launch none ends at its start. none: never."""
