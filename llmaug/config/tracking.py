"""Section `tracking`."""

from __future__ import annotations

from pydantic import Field

from llmaug.config.base import Section


class TrackingConfig(Section):
    """The figures of each night in an MLflow of yours, and where its data came from and went in a
    catalogue that takes OpenLineage. Whether they arrive changes nothing of the night."""

    mlflow_uri: str | None = Field(default=None, min_length=1)
    """Address of the tracking server, `https://mlflow.example.com` (or `databricks`); needs the
    extra `mlflow`. Users, passwords and tokens are read by MLflow itself from the environment
    (MLFLOW_TRACKING_TOKEN and others). None: nothing is sent."""
    experiment: str = Field(default="llmaug", min_length=1)
    """The experiment that runs are put in; made where there is none."""
    openlineage_url: str | None = Field(default=None, pattern="^https?://")
    """Of a server that takes OpenLineage events (Marquez, DataHub, OpenMetadata and others),
    without `/api/v1/lineage`; needs the extra `openlineage`. A key is read from the environment
    (OPENLINEAGE_API_KEY). None: nothing is sent."""
    openlineage_namespace: str = Field(default="llmaug", min_length=1)
    """Of the jobs there; their names begin with `name` of the config."""
