"""`llmaug config schema` and `llmaug config check`."""

from __future__ import annotations

from llmaug.cli.options import CONFIG, DATE, load
from llmaug.core.terminal import emit, emit_json


def schema() -> None:
    """JSON schema of the config: every field with its meaning and default.

    Example: `llmaug config schema > schema.json`
    """
    from llmaug.config import Config

    emit_json(Config.model_json_schema())


def check(config: CONFIG, date: DATE = None) -> None:
    """Read a config and print it whole, defaults filled in.

    Example: `llmaug config check --config configs/demo.yaml`
    """
    import yaml

    emit(yaml.safe_dump(load(config, date).model_dump(mode="json"), sort_keys=False))
