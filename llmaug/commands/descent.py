"""What below a root holds a user, or descends from one: for `llmaug forget`.

A run whose tables name the user was made of that user's events, all of it: its models, and with
them its synthetic events, were trained on them. So was a run that took its generator from such a
run (`lm.from_run`, `lm.warm_start`), every answer of such a generator in the cache, and every
published version of such a run.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from llmaug.config.names import CLEAN_LOGS, PUBLISHED, RUNS
from llmaug.core.contents import PSEUDONYMS, pseudonym_key_of, read_manifest, read_object
from llmaug.core.pseudonyms import from_environment
from llmaug.core.storage import Storage
from llmaug.errors import UserError
from llmaug.generate.outcome_cache import FOLDER as CACHE
from llmaug.generate.outcome_cache import cache_folder
from llmaug.publish.pointer import CARD

LISTS_NOTE = "_llmaug.json"


@dataclass
class Descent:
    """What was found; paths are below the root."""

    names: set[str]
    """The ids and all pseudonyms of theirs that are known."""
    runs: dict[str, str] = field(default_factory=dict)
    """{run id: why}."""
    rows: dict[str, int] = field(default_factory=dict)
    """{file: rows that name a user}, of all that is not in `runs` too."""
    cache_folders: list[str] = field(default_factory=list)
    """Of generators that were trained on them."""
    cache_files: list[str] = field(default_factory=list)
    """Others that hold answers about them."""
    lists: list[str] = field(default_factory=list)
    """Files of lists for everybody (`llmaug recommend --to`) that name them."""
    clean_logs: list[str] = field(default_factory=list)
    """Kept rows of log files (`ingest.keep_clean`) that name them."""
    others: list[str] = field(default_factory=list)
    """Other tables below the root that name them in a column `user_id`: logs, for example."""
    versions: dict[str, str] = field(default_factory=dict)
    """{published version: why}."""
    unsearched: dict[str, str] = field(default_factory=dict)
    """{place: why nobody can tell}."""


def find_descent(storage: Storage, user_ids: Sequence[str]) -> Descent:
    """Reads the user columns of all tables below the root. user_ids: as in the logs."""
    found = Descent(set(user_ids))
    run_ids, sizes = storage.names(RUNS), storage.sizes()
    own = {run_id: _names_in(storage, run_id, user_ids, found) for run_id in run_ids}
    found.names |= {name for names in own.values() for name in names}
    for path in sorted(sizes):
        if not path.endswith(".parquet"):
            continue
        num = _rows_naming(storage, path, found.names)
        if num is None:
            found.unsearched[path] = "it is damaged: no table can be read from it"
        elif num:
            found.rows[path] = num
    for path in found.rows:
        if path.startswith(f"{RUNS}/"):
            found.runs.setdefault(path.split("/")[1], "its tables name a user")
    _add_followers(storage, run_ids, found)
    trained = {name for run_id in found.runs for name in _generators(storage, run_id)}
    found.cache_folders = [folder for folder in map(cache_folder, sorted(trained))
                           if storage.names(folder)]  # fmt: skip
    for path in found.rows:
        below = path.startswith(tuple(f"{folder}/" for folder in found.cache_folders))
        if path.startswith(f"{CACHE}/") and not below:
            found.cache_files.append(path)
        elif path.startswith(f"{CLEAN_LOGS}/"):
            found.clean_logs.append(path)
        elif f"{path.rpartition('/')[0]}/{LISTS_NOTE}" in sizes:
            found.lists.append(path)
        elif not below and path.split("/")[0] not in (RUNS, PUBLISHED):
            found.others.append(path)
    _add_versions(storage, set(run_ids), found)
    return found


def _names_in(storage: Storage, run_id: str, user_ids: Sequence[str], found: Descent) -> set[str]:
    """Names of the users in a run besides their ids: pseudonyms, by its mapping or by the key."""
    pseudonyms = _section(_section(config_of(storage, run_id), "privacy"), "pseudonyms")
    if not pseudonyms:
        return set()
    mapping = f"{RUNS}/{run_id}/ingest/{PSEUDONYMS}"
    names: set[str] = set()
    wanted = pa.array(list(user_ids), pa.string())
    parts = storage.parts(mapping)
    for part in parts:
        rows = storage.read_part(mapping, part)
        names |= set(rows.filter(pc.is_in(rows["user_id"], wanted))["pseudonym"].to_pylist())
    manifest = read_manifest(storage, f"{RUNS}/{run_id}/ingest")
    key_id = pseudonym_key_of(manifest)
    try:
        key = from_environment(pseudonyms["key_env"])
    except UserError:
        key = None
    if key is not None and key_id in (None, key.key_id):
        return names | {key.of(user) for user in user_ids}
    if not (manifest and parts):
        found.unsearched[f"{RUNS}/{run_id}"] = (
            f"its users have pseudonyms, its mapping is gone, and {pseudonyms['key_env']} holds "
            f"no key of id {key_id}: set it to the key of that run, or delete the run"
        )
    return names


def _rows_naming(storage: Storage, path: str, names: Iterable[str]) -> int | None:
    """Rows of a table that name a user; of quarantined rows, those whose detail does. None where
    it cannot be read."""
    wanted = pa.array(sorted(names), pa.string())
    try:
        file = pq.ParquetFile(pa.BufferReader(storage.read(path)), pre_buffer=False)
        columns = [n for n in ("user_id", "detail") if n in file.schema_arrow.names]
        if not columns or ("user_id" not in columns and "/quarantine/" not in path):
            return 0
        rows = file.read(columns=columns, use_threads=False)
    except FileNotFoundError:  # gone meanwhile
        return 0
    except (pa.ArrowException, OSError):
        return None
    if "user_id" in columns:
        return int(pc.sum(pc.is_in(rows["user_id"].cast(pa.string()), wanted)).as_py() or 0)
    alone = "|".join(re.escape(name) for name in wanted.to_pylist())
    pattern = re.compile(rf"(?<![\w@.-])(?:{alone})(?![\w@.-])")
    return sum(bool(text and pattern.search(text)) for text in rows["detail"].to_pylist())


def _add_followers(storage: Storage, run_ids: list[str], found: Descent) -> None:
    """Runs whose generator comes from one that was found, over any number of steps."""
    earlier = {}
    for run_id in run_ids:
        lm = _section(config_of(storage, run_id), "lm")
        earlier[run_id] = [run for run in (lm.get("from_run"), lm.get("warm_start")) if run]
    grown = True
    while grown:
        grown = False
        for run_id, comes_from in earlier.items():
            if run_id not in found.runs and (
                of := [run for run in comes_from if run in found.runs]
            ):
                found.runs[run_id], grown = f"its generator comes from run {of[0]}", True


def _generators(storage: Storage, run_id: str) -> list[str]:
    """Names of the generators that a run trained or took in, as the cache has them. A chat model
    that was not tuned knows nobody."""
    lm = _section(config_of(storage, run_id), "lm")
    untuned = lm.get("model") == "instruct" and not lm.get("finetune")
    names = []
    for folder in (f"{RUNS}/{run_id}", f"{RUNS}/{run_id}/ngram"):
        # Of several models (`lm.members`) the name is that of all together.
        asked = read_manifest(storage, f"{folder}/plan") or {"counts": {}}
        together = str(asked["counts"].get("generator", ""))
        for name in storage.names(f"{folder}/lm"):
            manifest = read_manifest(storage, f"{folder}/lm/{name}")
            if manifest and not (untuned and name == lm.get("name")):
                names.append(f"{name}@{manifest['counts']['model_digest'][:16]}")
                names += [together] if together.startswith(f"{name}@") else []
    return list(dict.fromkeys(names))


def config_of(storage: Storage, run_id: str) -> dict[str, Any]:
    """The sections of a run's config as they were written, by whichever version; {} where
    run.json is damaged."""
    return _section(read_object(storage, RUNS, run_id, "run.json"), "config")


def _section(value: dict[str, Any], name: str) -> dict[str, Any]:
    found = value.get(name)
    return found if isinstance(found, dict) else {}


def _add_versions(storage: Storage, run_ids: set[str], found: Descent) -> None:
    for name in storage.names(PUBLISHED):
        folder = f"{PUBLISHED}/{name}/versions"
        for version in storage.names(folder):
            place = f"{folder}/{version}"
            run_id = read_object(storage, place, CARD).get("run_id")
            if f"{place}/users.parquet" in found.rows:
                found.versions[place] = "it has a vector of a user, by name"
            elif run_id in found.runs:
                found.versions[place] = f"it was trained in run {run_id}"
            elif run_id not in run_ids:
                found.versions[place] = f"its run {run_id} is gone: nobody can tell any more"


def described(found: Descent) -> dict[str, Any]:
    """What was found, without any name of a user."""
    per_run = {run_id: {"why": why, "rows": 0} for run_id, why in sorted(found.runs.items())}
    for path, num in found.rows.items():
        if path.startswith(f"{RUNS}/"):
            per_run[path.split("/")[1]]["rows"] += num  # type: ignore[operator]
    return {
        "runs": per_run,
        "cache_folders": found.cache_folders,
        "cache_files": found.cache_files,
        "lists": found.lists,
        "clean_logs": found.clean_logs,
        "others": found.others,
        "versions": dict(sorted(found.versions.items())),
        "unsearched": found.unsearched,
    }
