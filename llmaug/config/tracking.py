"""Section `tracking`."""

from __future__ import annotations

from pydantic import Field

from llmaug.config.base import Section


class TrackingConfig(Section):
    """The figures of each night in an MLflow of yours. Whether they arrive changes nothing of the
    night."""

    mlflow_uri: str | None = Field(default=None, min_length=1)
    """Address of the tracking server, `https://mlflow.example.com` (or `databricks`); needs the
    extra `mlflow`. Users, passwords and tokens are read by MLflow itself from the environment
    (MLFLOW_TRACKING_TOKEN and others). None: nothing is sent."""
    experiment: str = Field(default="llmaug", min_length=1)
    """The experiment that runs are put in; made where there is none."""
