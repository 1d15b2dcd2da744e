"""What a finished stage left in its folder, file by file: that part of a manifest is a contract.

Sizes are known from one listing of the folder. Digests come from those who wrote the files: the
note beside a part, and the `files.json` of a folder of plain files (a model). Only what is left,
small JSON for the most part, is read again to digest it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from llmaug.core import formats
from llmaug.core.storage import FILES, Storage, digest
from llmaug.core.stored import MANIFEST
from llmaug.errors import UserError

Files = dict[str, dict[str, Any]]
"""{name below the stage's folder: {"bytes", "digest"}}; either is None where it is not known."""

# Sub-folders that matter only until the stage is done; so do files beside the manifest that
# begin with "_".
PSEUDONYMS = "pseudonyms"  # of users, below `ingest`: may be deleted at any time
ASIDE = ("_attempts", "_cache", "_kept", "_leaks", "_retry", "_train", PSEUDONYMS)
_DAMAGED = -1  # in place of the bytes of what should be JSON

T = TypeVar("T")


def describe(storage: Storage, folder: str) -> tuple[Files, dict[str, dict[str, Any]]]:
    """All files in `folder` and its sub-folders, and the notes of its parts by name
    (`sub/part-00000`), for the manifest. Raises UserError when one was damaged meanwhile."""
    sizes = _listed(storage, folder)
    notes, known = _promised(storage, folder, sizes)
    wrong = _differing(sizes, known)
    if wrong:
        name, what = next(iter(wrong.items()))
        raise UserError(
            f"{storage.uri(folder, name)}: {what}: it was damaged after it was written. Run the "
            "same command again: it is made anew"
        )
    unknown = [name for name in sizes if name not in known]
    read = _each(lambda name: digest(storage.read(folder, name)), unknown)
    digests = {name: facts.get("digest") for name, facts in known.items()} | read
    return {n: {"bytes": sizes[n], "digest": digests[n]} for n in sorted(sizes)}, notes


def of_manifest(manifest: dict[str, Any]) -> Files:
    """What a manifest promises; of one by an earlier version the names and digests of parts."""
    if "files" in manifest:
        return {n: facts for n, facts in manifest["files"].items() if isinstance(facts, dict)}
    files: Files = {}
    for part in manifest.get("parts", []):
        if "part" in part:
            name = f"{part.get('folder', '')}/{part['part']}".lstrip("/")
            files[f"{name}.parquet"] = {"bytes": None, "digest": part.get("digest")}
            files[f"{name}.json"] = {"bytes": None, "digest": None}
    return files


def unfinished(storage: Storage, folder: str) -> Files:
    """What the notes and `files.json` in a folder without a manifest promise of what is done."""
    return _promised(storage, folder, _listed(storage, folder))[1]


def damage(
    storage: Storage, folder: str, files: Files, verify: bool = False, whole: bool = True
) -> dict[str, str]:
    """{name: what is wrong with it} of `files` as they lie in `folder` now.

    verify: digests too, which reads every file. whole: a part that is not among `files` is
    wrong as well, for whoever reads the folder would take it in.
    """
    sizes = _listed(storage, folder)
    found = _differing(sizes, files)
    if whole:
        parts = [n for n in sizes if n.endswith(".parquet") and f"{n[:-8]}.json" in sizes]
        found |= dict.fromkeys(set(parts) - set(files), "is none of the files of its stage")
    if verify:
        readable = [n for n, facts in files.items() if n not in found and facts.get("digest")]
        digests = _each(lambda name: digest(storage.read(folder, name)), readable)
        changed = [n for n in readable if digests[n] != files[n]["digest"]]
        found |= dict.fromkeys(changed, "is not as it was written (its digest is another)")
    return dict(sorted(found.items()))


def read_manifest(storage: Storage, folder: str) -> dict[str, Any] | None:
    """The manifest in `folder`; None when there is none, or none that can be read: then the stage
    has not happened. Raises UserError for one of a later llmaug."""
    manifest = read_object(storage, folder, MANIFEST)
    whole = "fingerprint" in manifest and isinstance(manifest.get("files", {}), dict)
    return formats.MANIFEST.upgraded(manifest, storage.uri(folder, MANIFEST)) if whole else None


def pseudonym_key_of(ingest: dict[str, Any] | None) -> str | None:
    """By the manifest of a run's ingest: id of the key of its users' pseudonyms; None where they
    have their own ids."""
    return ((ingest or {}).get("outside") or {}).get("pseudonym_key_id")


def check_stage(storage: Storage, run_id: str, name: str, verify: bool = False) -> None:
    """Raises UserError, naming a file, when the finished stage `name` of a run has lost any or
    has other ones than its manifest promises. A stage that has not happened has none."""
    folder = f"runs/{run_id}/{name}"
    manifest = read_manifest(storage, folder)
    found = damage_of(storage, folder, manifest, verify) if manifest else {}
    for file, what in found.items():
        more = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
        verified = " --verify" if verify else ""
        raise UserError(
            f"{storage.uri(folder, file)}: {what}{more}. The command of the run "
            f"(`llmaug run --run-id {run_id}{verified}` with its --config) makes {name} anew"
        )


def damage_of(
    storage: Storage, folder: str, manifest: dict[str, Any], verify: bool = False
) -> dict[str, str]:
    """{file: what is wrong} of the files that a manifest promises."""
    files = of_manifest(manifest)
    return damage(storage, folder, files, verify, whole="files" in manifest)


def read_object(storage: Storage, *names: str) -> dict[str, Any]:
    """A JSON object; {} where there is none, or none that can be read."""
    value, _ = storage.read_any(*names)
    return value if isinstance(value, dict) else {}


def remove(storage: Storage, folder: str, names: Iterable[str], keep: Iterable[str]) -> None:
    """Delete what the files `names` belong to: a part with its note, or a whole sub-folder; and
    what was put aside in the making of them. All but `keep` where there are no `names`."""
    names, entries = list(names), storage.names(folder)
    if names:
        units = {
            name.split("/")[0].removesuffix(".parquet").removesuffix(".json") for name in names
        }
        gone = [n for n in entries if n.removesuffix(".parquet").removesuffix(".json") in units]
        gone += [n for n in entries if n == "_cache"]
    else:
        gone = [n for n in entries if n not in set(keep)]
    for name in gone:
        storage.delete(folder, name)


def data_digest(files: Files) -> str:
    """Of what the files hold, notes of parts aside: they say how the work went, too."""
    return digest(
        {
            name: facts["digest"]
            for name, facts in files.items()
            if not (name.endswith(".json") and f"{name[:-5]}.parquet" in files)
        }
    )


def _promised(
    storage: Storage, folder: str, sizes: dict[str, int]
) -> tuple[dict[str, dict[str, Any]], Files]:
    parts = [n[:-5] for n in sizes if n.endswith(".json") and f"{n[:-5]}.parquet" in sizes]
    records = [name for name in sizes if name.split("/")[-1] == FILES]
    wanted = [*(f"{part}.json" for part in parts), *records]
    data = _each(lambda name: storage.read(folder, name), wanted)
    notes: dict[str, dict[str, Any]] = {}
    files: Files = {}
    for part in parts:
        note, own = _parsed(data[f"{part}.json"]), f"{part}.json"
        files[own] = {"bytes": len(data[own]) if note else _DAMAGED, "digest": digest(data[own])}
        if "digest" in note:
            notes[part] = note
            files[f"{part}.parquet"] = {"bytes": note.get("bytes"), "digest": note["digest"]}
    for name in records:
        beside, record = name.removesuffix(FILES), _parsed(data[name])
        record = {file: facts for file, facts in record.items() if isinstance(facts, dict)}
        files |= {f"{beside}{file}": facts for file, facts in record.items()}
        files[name] = {
            "bytes": len(data[name]) if record else _DAMAGED,
            "digest": digest(data[name]),
        }
    return notes, files


def _differing(sizes: dict[str, int], files: Files) -> dict[str, str]:
    found = {}
    for name, expected in files.items():
        if name not in sizes:
            found[name] = "is missing"
        elif expected.get("bytes") == _DAMAGED:
            found[name] = "is damaged: no JSON"
        elif expected.get("bytes") not in (None, sizes[name]):
            found[name] = f"has {sizes[name]} of {expected['bytes']} bytes"
    return found


def _listed(storage: Storage, folder: str) -> dict[str, int]:
    return {name: n for name, n in storage.sizes(folder).items() if not _is_aside(name)}


def _is_aside(name: str) -> bool:
    *folders, file = name.split("/")
    if not folders and file.startswith("_"):
        return True
    hidden = any(part.startswith(".") for part in (*folders, file))
    return hidden or any(part.startswith(ASIDE) for part in folders) or file.endswith(".lock")


def _parsed(data: bytes) -> dict[str, Any]:
    """{} for what is no JSON object."""
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def _each(work: Callable[[str], T], names: list[str]) -> dict[str, T]:
    """{name: work(name)}, several at a time: it is storage that one waits for."""
    with ThreadPoolExecutor(8) as pool:
        return dict(zip(names, pool.map(work, names), strict=True))
