"""`llmaug gc`: old runs, versions, cached answers and rows of logs make room.

Kept are the newest `keep` nights and whatever somebody still needs: the version that CURRENT
points to and the one that a rollback goes to, the runs that kept versions came from (they hold what
users had seen), runs that are going on, those whose model a kept run builds on (`lm.from_run`,
`lm.warm_start`), and cached answers and rows of log files that a kept run used. What this does not
know it leaves alone.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from typing import Any, NotRequired

from typing_extensions import TypedDict  # pydantic asks for it before Python 3.12

from llmaug.config.names import CLEAN_LOGS, PUBLISHED, run_folder
from llmaug.core.lease import Lease
from llmaug.core.storage import Storage
from llmaug.core.stored import MANIFEST, checked
from llmaug.errors import UserError
from llmaug.generate.outcome_cache import FOLDER as CACHE
from llmaug.ingest.clean_logs import owner_of, used_by
from llmaug.publish import pointer

_RUN, _VERSION, _ANSWERS, _ROWS = "run", "version", "cached answers", "rows of logs"


class _Gate(TypedDict):
    drift: NotRequired[dict[str, Any] | None]


class _Config(TypedDict):
    """Of a run, as far as it names others."""

    lm: NotRequired[dict[str, Any] | None]
    gate: NotRequired[_Gate | None]


@dataclass(frozen=True)
class Found:
    """A run, a version, the cached answers of a run, or rows of logs read in the same way."""

    kind: str
    name: str
    """Folder below the root; of cached answers the run that wrote them last."""
    files: dict[str, int] = field(repr=False)
    """{name below the root: bytes}"""
    kept: str
    """Why it stays; empty: it may go."""

    @property
    def num_bytes(self) -> int:
        return sum(self.files.values())

    def as_json(self) -> dict[str, Any]:
        row = asdict(self)
        return {**row, "files": len(self.files), "bytes": self.num_bytes}


def look(storage: Storage, keep: int) -> list[Found]:
    """Everything that grows with the nights, and why it stays where it does; deletes nothing.

    Raises UserError where CURRENT of a model is damaged: then nobody can say what is in use.
    """
    if keep < 1:
        raise UserError(f"--keep is {keep}: at least one night is kept")
    versions = [
        found for name in storage.names(PUBLISHED) for found in _versions(storage, name, keep)
    ]
    runs = _runs(storage, keep, {run for found, run in versions if found.kept})
    kept_runs = {found.name.removeprefix("runs/") for found in runs if found.kept}
    gone_runs = {found.name.removeprefix("runs/") for found in runs if not found.kept}
    answers = _answers(storage, kept_runs, gone_runs)
    return [*runs, *(found for found, _ in versions), *answers, *_rows(storage, kept_runs)]


def collect(storage: Storage, found: list[Found]) -> list[Found]:
    """Delete what may go; returns what was deleted.

    A run is taken under its lease: one that is begun meanwhile keeps its folder. Versions go first:
    nothing is ever published whose run is gone. run.json goes last, so that a run which was half
    deleted is found again. Rows of logs go last: those that no run uses which is there now.
    """
    order = [_VERSION, _ANSWERS, _RUN, _ROWS]
    gone = []
    for each in sorted(
        (one for one in found if not one.kept), key=lambda one: order.index(one.kind)
    ):
        if each.kind == _VERSION and _is_current(storage, each.name):  # somebody rolled back to it
            continue
        if each.kind == _RUN:
            try:
                with Lease(storage, each.name):
                    _delete(storage, each)
            except UserError:  # it is running again
                continue
            _delete_folder(storage, each.name)
        elif each.kind == _ROWS:
            used = used_by(storage, storage.names("runs"))
            each = replace(each, files={n: b for n, b in each.files.items()
                                        if owner_of(n) not in used})  # fmt: skip
            _delete(storage, each)
        else:
            _delete(storage, each)
        gone.append(each)
    return gone


def _delete(storage: Storage, found: Found) -> None:
    last = ("run.json", pointer.CARD, MANIFEST)
    for file in sorted(found.files, key=lambda name: name.rpartition("/")[2] in last):
        if "/lease.json" not in file:
            storage.delete(*file.split("/"))


def _delete_folder(storage: Storage, run: str) -> None:
    """What is left of a run on a disk: folders, and the lock of its lease. They stay where it was
    begun again meanwhile."""
    if storage.names(run) and set(storage.sizes(run)) <= {"lease.json.lock"}:
        storage.delete(run, "lease.json.lock")
        with contextlib.suppress(UserError):
            storage.delete(run)


def _is_current(storage: Storage, version: str) -> bool:
    return bool(_current(storage, version.split("/")[1]).get("version") == version)


def _current(storage: Storage, name: str) -> dict[str, Any]:
    """{} where nothing is published. Raises UserError where CURRENT is damaged."""
    there = storage.exists(PUBLISHED, name, "CURRENT")
    return pointer.current(storage, name) if there else {}


def _versions(storage: Storage, name: str, keep: int) -> Iterator[tuple[Found, str]]:
    """(version, run that it came from) of one model."""
    folder = pointer.versions_folder(name)
    there = storage.names(folder)
    if not there:
        return
    card = _current(storage, name)
    cards = {}
    for version in there:
        found = storage.read_any(folder, version, pointer.CARD)[0]
        if isinstance(found, dict) and isinstance(found.get("night"), list):
            cards[version] = found
    newest = sorted(cards, key=lambda each: cards[each]["night"])[-keep:]
    for version in there:
        place = f"{folder}/{version}"
        why = ""
        if place == card.get("version"):
            why = "current"
        elif place == card.get("previous"):
            why = "a rollback goes to it"
        elif version in newest:
            why = f"one of the newest {keep}"
        elif version not in cards:
            why = "not whole, or of another llmaug: look at it yourself"
        run = str(cards.get(version, {}).get("run_id", ""))
        yield Found(_VERSION, place, _files(storage, place), why), run


def _runs(storage: Storage, keep: int, published: set[str]) -> list[Found]:
    """All run folders; those of `published` models stay."""
    when, configs = {}, {}
    for run in storage.names("runs"):
        record = storage.read_any(run_folder(run), "run.json")[0]
        configs[run] = record.get("config", {}) if isinstance(record, dict) else None
        if configs[run] is not None:  # a damaged one may build on any of the others
            checked(storage, _Config, configs[run], run_folder(run), "run.json")
        when[run] = _finished(storage, run)
    known = sorted((run for run in when if when[run]), key=lambda run: when[run])
    why = dict.fromkeys(known[-keep:], f"one of the newest {keep}")
    for run, config in configs.items():
        if config is None:
            why[run] = "no run.json: look at it yourself"
        elif not when[run]:
            why.setdefault(run, "not come to its report")
        if storage.exists(run_folder(run), "lease.json"):
            why[run] = "somebody holds it"
    why |= dict.fromkeys(published & set(configs), "a version that is kept came from it")
    while True:  # what a kept run builds on may build on another
        built_on = {
            each for run in why for each in _built_on(configs.get(run) or {}) if each in configs
        }
        if built_on <= set(why):
            break
        why |= dict.fromkeys(built_on - set(why), "a run that is kept builds on it")
    return [
        Found(_RUN, run_folder(run), _files(storage, run_folder(run)), why.get(run, ""))
        for run in configs
    ]


def _finished(storage: Storage, run: str) -> str:
    """When its logs were read, in UTC, of a run that came to its report; else empty."""
    folder = run_folder(run)
    if not storage.exists(folder, "report", MANIFEST):
        return ""
    manifest = storage.read_any(folder, "ingest", MANIFEST)[0]
    return str(manifest.get("finished_utc", "")) if isinstance(manifest, dict) else ""


def _built_on(config: dict[str, Any]) -> Iterator[str]:
    """Runs that a config names."""
    lm = config.get("lm") or {}
    for name in ("from_run", "warm_start"):
        value = lm.get(name)
        if isinstance(value, str) and value:
            yield value.removeprefix("runs/").split("/")[0]
    drift = (config.get("gate") or {}).get("drift") or {}
    if isinstance(against := drift.get("against"), str):
        yield against


def _answers(storage: Storage, kept: set[str], gone: set[str]) -> list[Found]:
    """The files of the cache by the run that used them last; tests of runs' names by the longest
    one that fits, for `2026-01` begins `2026-01-31`, too."""
    runs = sorted(kept | gone, key=len, reverse=True)
    by_run: dict[str, dict[str, int]] = {}
    for file, size in storage.sizes(CACHE).items():
        name = file.rpartition("/")[2]
        run = next((each for each in runs if name.startswith(f"{each}-")), "")
        by_run.setdefault(run, {})[f"{CACHE}/{file}"] = size
    found = []
    for run, files in sorted(by_run.items()):
        why = "a run that is kept used them" if run in kept else ""
        found.append(Found(_ANSWERS, run or "of runs that are gone", files, why))
    return found


def _rows(storage: Storage, kept: set[str]) -> Iterator[Found]:
    """What `clean_logs` has, by the way in which it was read: of files that kept runs used, and
    others."""
    used = used_by(storage, kept)
    by_how: dict[tuple[str, bool], dict[str, int]] = {}
    for file, size in sorted(_files(storage, CLEAN_LOGS).items()):
        how, is_used = file.rpartition("/")[0], owner_of(file) in used
        by_how.setdefault((how, is_used), {})[file] = size
    for (how, is_used), files in by_how.items():
        yield Found(_ROWS, how, files, "a run that is kept used them" if is_used else "")


def _files(storage: Storage, folder: str) -> dict[str, int]:
    return {f"{folder}/{name}": size for name, size in storage.sizes(folder).items()}
