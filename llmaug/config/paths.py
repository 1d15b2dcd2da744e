"""Relative paths in a config: from the file that they stand in, not from where a command is run.

They become absolute when the file is read, before a `base` and its variant are joined. What
run.json keeps is absolute, so a run goes on from any working folder.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from llmaug.config.packaged import PACKAGED
from llmaug.errors import UserError

FIELDS = (
    "storage.root",
    "ingest.path",
    "ingest.items.path",
    "ingest.users.path",
    "vocabulary.text_encoder",
    "lm.folder",
    "text.folder",
    "text.image_root",
)


def located(raw: dict[str, Any], file: Path) -> dict[str, Any]:
    """`raw`, the sections of the config `file`, with absolute paths.

    URIs, absolute paths, those with `{root}` and names of packaged models stay. Raises UserError
    where the path lies below the working folder and not beside the file: that is what it meant
    before version 0.2.
    """
    for field in FIELDS:
        raw = _changed(raw, field.split("."), field, file)
    return raw


def _changed(section: Any, steps: list[str], field: str, file: Path) -> Any:
    """A copy of `section` with the path at `steps` made absolute; what is no path stays."""
    if not steps:
        return _absolute(section, field, file) if isinstance(section, str) else section
    if not isinstance(section, dict) or steps[0] not in section:
        return section
    return {**section, steps[0]: _changed(section[steps[0]], steps[1:], field, file)}


def _absolute(path: str, field: str, file: Path) -> str:
    if not path or "://" in path or "{root}" in path or "\0" in path:
        return path
    if path in PACKAGED.get(field, {}):
        return path
    path = os.path.expanduser(path)
    if os.path.isabs(path):
        return path
    home = os.path.dirname(os.path.abspath(file))
    beside, here = os.path.normpath(os.path.join(home, path)), os.path.abspath(path)
    if os.path.lexists(here) and not os.path.lexists(beside):
        raise UserError(
            f"{file}: {field} {path}: there is no {beside}. Relative paths in a config are looked "
            f"for from its own folder; for {here} write {os.path.relpath(here, home)}"
        )
    return beside
