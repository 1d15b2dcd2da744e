"""The shape of `published.json` and CURRENT."""

from __future__ import annotations

from llmaug.core.contract import Contract
from llmaug.evaluate.figures import Decision

LEFT = "left"
"""`Published.outcome` of a version that is kept and not current."""


class Force(Contract):
    """Why the gate was overruled."""

    reason: str
    refused: list[str]
    """The gate's reasons."""
    forced_utc: str
    gate: str
    """Fingerprint of its decision."""


class Card(Contract):
    """What a published version is."""

    format_version: int = 1
    llmaug_version: str = ""
    """That wrote it."""
    run_id: str
    model_digest: str
    files: dict[str, str]
    """Digest of each file."""
    arm: str
    seed: int
    gate: Decision
    forced: Force | None
    version: str
    """Its folder below the root."""
    night: list[str]
    """What orders nights: how far the logs reach, when they were read, the run."""
    published_utc: str


class Published(Card):
    """Counts of stage `publish`."""

    outcome: str
    """published, already current or left."""
    current: str
    """The version that was current then."""
    why: str
    """It was left; else empty."""
    uri: str
