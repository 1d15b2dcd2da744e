"""Hugging Face folders that users bring: checked, and copied below the root once for all nights.

Such a folder is a stranger's: what is copied is data of the few kinds that are read here, and a
folder that wants code to be run is refused.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from llmaug.core.packaged_models import is_packaged, model_place
from llmaug.core.storage import FILES, Storage, digest
from llmaug.errors import UserError

# Weights, configs, vocabularies, chat templates. No code (.py), no pickles (.bin, .pt, .pkl).
_COPIED = (".safetensors", ".json", ".txt", ".model", ".jinja")
_ADAPTER = "adapter_"  # transformers would fetch the model that they name from elsewhere
# Fields by which a config names code that transformers is to import or download.
_CODE = ("auto_map", "custom_pipelines")
_KERNELS = ("attn_implementation", "_attn_implementation")


def adopt_folder(
    storage: Storage,
    uri: str,
    setting: str,
    what: str,
    needed: Sequence[str],
    note: Callable[[str], None] = lambda _: None,
) -> tuple[str, str]:
    """Copy the files of the model at `uri` to `models/<digest>`; returns that folder and the
    digest.

    uri: a folder, or the name of a packaged model. setting: the field of the config that has it.
    note: is told what was left out. Raises UserError when a package is not installed, when a file
    of `needed`, or the weights, are missing (it is no `what` then), when a file is a link out of
    the folder, and when the folder brings code.
    """
    source = model_place(uri, storage, setting)
    names = source.names()
    files = [name for name in names if is_copied(name) and is_file(source, name)]
    for name in needed:
        if name not in files:
            raise UserError(
                f"{setting} {uri}: {name} is missing; {what} has *.safetensors, {', '.join(needed)}"
            )
    if not any(name.endswith(".safetensors") for name in files):
        raise UserError(f"{setting} {uri}: there are no weights (*.safetensors)")
    if source.is_local:
        _refuse_links(Path(source.path()), files, f"{setting} {uri}")
    for name in files:
        if name.endswith("config.json"):
            _refuse_code(source.read(name), f"{setting} {uri}: {name}")
    left_out = sorted(set(names) - set(files))
    if left_out and not is_packaged(uri, setting):  # who named a package chose no files
        note(f"{setting}: {_listed(left_out)} of {uri} left out: nothing here reads them")
    record = {name: _facts(source.read(name)) for name in files}
    found = digest([[name, record[name]["digest"]] for name in files])
    folder = f"models/{found[:16]}"
    there = storage.sizes(folder)
    wanted = [name for name in files if there.get(name) != record[name]["bytes"]]
    if wanted or not {FILES, "_complete.json"} <= set(there):
        for name in wanted:
            storage.write(source.read(name), folder, name)
        storage.write_json(record, folder, FILES)
        about = {"from": uri, "digest": found, "left_out": left_out}
        storage.write_json(about, folder, "_complete.json")
    return folder, found


def _facts(data: bytes) -> dict[str, Any]:
    return {"bytes": len(data), "digest": digest(data)}


def is_copied(name: str) -> bool:
    """Is it a file of a kind that is read here?"""
    if name == FILES:  # ours, written anew
        return False
    return name.endswith(_COPIED) and not name.startswith((".", "_", _ADAPTER))


def is_file(source: Storage, name: str) -> bool:
    """No folder, pipe or device."""
    if source.is_local:
        return os.path.isfile(source.path(name))
    return bool(source.fs.isfile(source.path(name)))


def _refuse_links(folder: Path, files: list[str], where: str) -> None:
    home = folder.resolve()
    if home.parent.name == "snapshots":  # of the hub's cache: its files link to ../../blobs
        home = home.parent.parent
    for name in files:
        if not (folder / name).resolve().is_relative_to(home):
            raise UserError(
                f"{where}: {name} is a link out of the folder; put the file itself there"
            )


def _refuse_code(data: bytes, where: str) -> None:
    try:
        config = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{where} is damaged: not JSON") from error
    for field, value in _fields(config):
        if field in _CODE or (field in _KERNELS and "/" in str(value)):
            raise UserError(
                f"{where} has {field}: the model brings code of its own, which is never run "
                "here; take a model that transformers knows without it"
            )


def _fields(config: Any) -> Iterator[tuple[str, Any]]:
    queue = [config]
    while queue:
        value = queue.pop()
        if isinstance(value, dict):
            yield from value.items()
            queue += value.values()
        elif isinstance(value, list):
            queue += value


def _listed(names: list[str]) -> str:
    shown = ", ".join(names[:5])
    return f"{shown} and {len(names) - 5} more" if len(names) > 5 else shown
