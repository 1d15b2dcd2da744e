"""Folders of models that users bring are known by what they hold: not where they lie, nor when
they were written.

Settings of stages have such folders by their paths, or by the name of a package's model. In
fingerprints the digest of the files takes the place of the path, wherever a stage's settings have
it: a folder that was moved runs nothing again, and another model in the same folder does.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from llmaug.config import Config
from llmaug.config.names import run_folder
from llmaug.core.hf_folder import is_copied, is_file
from llmaug.core.packaged_models import is_packaged, model_place
from llmaug.core.source_digests import identities
from llmaug.core.sources import Source
from llmaug.core.storage import Storage, digest
from llmaug.errors import UserError

FIELDS = (("vocabulary", "text_encoder"), ("lm", "folder"), ("text", "folder"))
"""(section, field) of the config."""


def without_places(config: Config) -> Config:
    """The config with a mark, for `with_contents`, in place of the path of each such folder."""
    for section, field in FIELDS:
        own = getattr(config, section)
        if getattr(own, field, None):  # a kind of model may not have it
            marked = own.model_copy(update={field: _mark(section, field)})
            config = config.model_copy(update={section: marked})
    return config


def check_packages(config: Config, storage: Storage) -> None:
    """Raises UserError when the package of a model that has a name is not installed."""
    for section, field in FIELDS:
        uri = getattr(getattr(config, section), field, None)
        if uri and is_packaged(uri, f"{section}.{field}"):
            model_place(uri, storage, f"{section}.{field}")


def with_contents(
    settings: Any,
    config: Config,
    storage: Storage,
    run_id: str,
    note: Callable[[str], None] = lambda text: None,
) -> Any:
    """`settings` (JSON) with the digest of the folder's files in place of each mark. Folders that
    no mark asks for are not looked at."""
    marks = {_mark(section, field): (section, field) for section, field in FIELDS}

    def told(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: told(inner) for key, inner in value.items()}
        if isinstance(value, list):
            return [told(inner) for inner in value]
        if isinstance(value, str) and value in marks:
            section, field = marks[value]
            uri = getattr(getattr(config, section), field)
            return _content(storage, run_id, uri, f"{section}.{field}", note)
        return value

    return told(settings)


def _mark(section: str, field: str) -> str:
    return f"\0content of {section}.{field}"  # no path has a NUL


def _content(
    storage: Storage, run_id: str, uri: str, setting: str, note: Callable[[str], None]
) -> str:
    """Digest of the files that `adopt_folder` would copy. Raises UserError when there are none."""
    place = model_place(uri, storage, setting)
    names = [name for name in place.names() if is_copied(name) and is_file(place, name)]
    if not names:
        raise UserError(
            f"{setting} {uri}: no such folder, or no model in it; set {setting} to where the "
            "model lies"
        )
    sources = [_source(place, number, name) for number, name in enumerate(names)]
    memory = (run_folder(run_id), "source_digests.json")
    return digest(identities(storage, memory, place, sources, note))


def _source(place: Storage, number: int, name: str) -> Source:
    path = place.path(name)
    if place.is_local:  # files of the hub's cache are links
        found = os.stat(path)
        return Source(number, path, name, found.st_size, str(found.st_mtime), {})
    info = place.fs.info(path)
    version = str(info.get("ETag") or info.get("LastModified") or "")
    return Source(number, path, name, int(info["size"] or 0), version, {})
