"""Hugging Face folders that users bring: checked, and copied below the root once for all nights."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from llmaug.errors import UserError
from llmaug.sources import list_sources, resolve_uri
from llmaug.storage import FILES, Storage, digest

# The same weights once more, in formats that nothing here reads.
_OTHER_WEIGHTS = (".bin", ".h5", ".msgpack", ".onnx", ".ot", ".pt")


def adopt_folder(
    storage: Storage, uri: str, setting: str, what: str, needed: Sequence[str]
) -> tuple[str, str]:
    """Copy the files of the folder at `uri` to `models/<digest>`; returns that folder and the
    digest.

    setting: the field of the config that names `uri`. Raises UserError when a file of
    `needed`, or the weights, are missing: it is no `what` then.
    """
    source = resolve_uri(uri, storage)
    names = source.names()
    for name in needed:
        if name not in names:
            raise UserError(
                f"{setting} {uri}: {name} is missing; {what} has *.safetensors, {', '.join(needed)}"
            )
    if not any(name.endswith(".safetensors") for name in names):
        raise UserError(f"{setting} {uri}: there are no weights (*.safetensors)")
    files = [
        file.name
        for file in list_sources(source, setting)
        if "/" not in file.name and not file.name.endswith(_OTHER_WEIGHTS)
    ]
    record = {name: _facts(source.read(name)) for name in files}
    found = digest([[name, record[name]["digest"]] for name in files])
    folder = f"models/{found[:16]}"
    there = storage.sizes(folder)
    wanted = [name for name in files if there.get(name) != record[name]["bytes"]]
    if wanted or not {FILES, "_complete.json"} <= set(there):
        for name in wanted:
            storage.write(source.read(name), folder, name)
        storage.write_json(record, folder, FILES)
        storage.write_json({"from": uri, "digest": found}, folder, "_complete.json")
    return folder, found


def _facts(data: bytes) -> dict[str, Any]:
    return {"bytes": len(data), "digest": digest(data)}
