"""Model folders are read only as they were written: digests of their files, and finite weights.

Whoever writes one leaves `files.json` in it (see `Storage.put_folder`); the digest over all names
and digests is what the model is known by: in cards, manifests and the units that it answered.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmaug.core.storage import FILES, Storage, digest
from llmaug.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

_REMEDIES = {
    "published": "go back to an earlier version (`llmaug publish --rollback`), or restore the file",
    "models": "delete the folder and that of the run's stage that reads it, and run again: it is "
    "copied anew",
    "runs": "`llmaug run --verify` with the run's config makes it anew",
}


def fetch_model(storage: Storage, folder: str, version: str) -> str:
    """`Storage.fetch_folder` for a folder whose model is about to be loaded. Raises UserError
    unless its files are those that were written."""
    local = storage.fetch_folder(folder, version)
    files = _record(storage, folder)
    found = {name: _digest_of(Path(local, name)) for name in files}
    check_files(storage, folder, {name: d for name, d in found.items() if d})
    for path in sorted(Path(local).glob("*.safetensors")):
        _check_weights(storage, folder, path)
    return local


def check_files(
    storage: Storage, folder: str, digests: dict[str, str], model_digest: str | None = None
) -> None:
    """Raises UserError, naming the file, unless those of a model folder have the `digests` that
    its `files.json` says, and all of them together that which the model is known by."""
    files, uri = _record(storage, folder), storage.uri(folder)
    for name, facts in files.items():
        if name not in digests:
            raise UserError(f"{uri}: {name} is missing{_remedy(folder)}")
        if digests[name] != facts["digest"]:
            raise UserError(
                f"{uri}: {name} is damaged, or of another model: it is not the file that was "
                f"written with the others, they do not belong together{_remedy(folder)}"
            )
    if model_digest is not None and digest(digests) != model_digest:
        raise UserError(
            f"{uri}: the files are not those of model {model_digest}, which is what its card "
            f"says{_remedy(folder)}"
        )


def check_finite(
    storage: Storage, folder: str, file: str, weights: Iterable[tuple[str, Tensor]]
) -> None:
    """Raises UserError, naming the tensor, when a weight in `file` is no finite number."""
    for name, tensor in weights:
        asked = tensor.is_floating_point() and tensor.element_size() > 1  # torch cannot ask float8
        if asked and not tensor.isfinite().all():
            raise UserError(
                f"{storage.uri(folder)}: {file} is damaged: weights of {name} are no finite "
                f"numbers{_remedy(folder)}"
            )


def _check_weights(storage: Storage, folder: str, path: Path) -> None:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            names = file.keys()  # no mapping
            tensors = ((name, file.get_tensor(name)) for name in names)
            check_finite(storage, folder, path.name, tensors)
    except (SafetensorError, OSError) as error:
        raise UserError(
            f"{storage.uri(folder)}: {path.name} is damaged: {error}{_remedy(folder)}"
        ) from error


def _remedy(folder: str) -> str:
    known = _REMEDIES.get(folder.split("/")[0])
    return f"; {known}" if known else ""


def _record(storage: Storage, folder: str) -> dict[str, Any]:
    """What `files.json` says; of folders by an earlier version, nothing."""
    value, _ = storage.read_any(folder, FILES)
    found = value if isinstance(value, dict) else {}
    return {n: f for n, f in found.items() if isinstance(f, dict) and f.get("digest")}


def _digest_of(path: Path) -> str | None:
    """As `storage.digest`, without the whole file in memory; None when there is none."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()[:32]
    except FileNotFoundError:
        return None
