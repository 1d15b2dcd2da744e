"""Section `notify`."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from llmaug.config.base import Section

Told = Literal["published", "refused", "left", "failed", "finished"]


class NotifyConfig(Section):
    """A message when a job ends. Whether it arrives changes nothing of the night."""

    webhook_env: str | None = Field(default=None, pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")
    """Name of the environment variable with the URL that the message is posted to, as JSON with a
    `text` (Slack, Teams, Mattermost and others take it). The URL is a secret and stands in no
    config. None: nobody is told."""
    when: list[Told] = ["published", "refused", "left", "failed"]
    """published: a new model is current; refused: the gate sent `real` out; left: a newer night was
    current; failed: the job ended with an error; finished: it came to its end without publishing.
    A run that was there already, and is skipped, is nothing new."""
