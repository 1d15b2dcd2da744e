"""JSON and tables of our own, read back: what is damaged is named, with the way to mend it.

A disk, a copy that broke off or a hand may have changed any file. Nothing here repairs: a stage
is made anew from its inputs, and what else there is can be written again by a command.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import (
    TYPE_CHECKING,
    Any,
    NotRequired,  # pydantic asks for it before Python 3.12
)

from pydantic import TypeAdapter, ValidationError
from typing_extensions import TypedDict

from llmaug.core import formats
from llmaug.errors import UserError

if TYPE_CHECKING:
    from llmaug.config import Config
    from llmaug.core.objects import Objects

MANIFEST, STARTED = "_manifest.json", "_started.json"


class Note(TypedDict):
    """Beside each part."""

    rows: int
    counts: dict[str, Any]
    digest: NotRequired[str]


class Kept(TypedDict):
    """Beside answers of a part that is not finished."""

    counts: dict[str, int]
    only: list[str] | None


class Rows(TypedDict):
    rows: int


class Manifest(TypedDict):
    """Of a stage that has happened, as far as other modules read it."""

    fingerprint: str
    counts: dict[str, Any]
    parts: NotRequired[list[Rows]]
    seconds: NotRequired[float]
    revision: NotRequired[int]


class Finished(TypedDict):
    """A manifest, as far as `status` shows it."""

    parts: list[Rows]
    seconds: float
    counts: NotRequired[dict[str, Any]]


class Run(TypedDict):
    """run.json."""

    config: NotRequired[dict[str, Any]]
    stages: NotRequired[list[str]]


class Running(TypedDict):
    """progress.json."""

    stage: str
    done: int
    total: int | None
    unit: NotRequired[str]
    counts: NotRequired[dict[str, Any] | None]
    remaining_s: NotRequired[float | None]


class Card(TypedDict):
    """published.json and CURRENT."""

    version: str
    run_id: str
    arm: str
    previous: NotRequired[str | None]


class ModelFacts(TypedDict):
    """config.json of a recommender."""

    config: dict[str, Any]
    vocabulary_digest: str


class Forced(TypedDict):
    """forced.json."""

    gate: str
    reason: str


class Trained(TypedDict):
    """_trained.json."""

    model_digest: str


_FORMATS: dict[Any, formats.Format] = {
    Note: formats.NOTE,
    Manifest: formats.MANIFEST,
    Finished: formats.MANIFEST,
    Run: formats.RUN,
}


def read_record(storage: Objects, shape: Any, *names: str) -> Any:
    """The JSON object, whose keys have the types that `shape` names; None where there is none.

    shape: one of the classes above. Raises UserError with the file and the fix, also where a
    later llmaug wrote it; what an earlier one wrote is as if it were written today.
    """
    value = storage.read_json(*names)
    if value is None and not storage.exists(*names):
        return None
    if shape in _FORMATS and isinstance(value, dict):
        value = _FORMATS[shape].upgraded(value, storage.uri(*names))
    return checked(storage, shape, value, *names)


def checked(storage: Objects, shape: Any, value: Any, *names: str) -> Any:
    """`value`, which was read from `names`, if its keys have the types that `shape` names."""
    try:
        _adapter(shape).validate_python(value, strict=True)
    except ValidationError as error:
        problem = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(map(str, problem["loc"])) or "the file"
        raise damaged(storage, f"{where}: {problem['msg']}", *names) from error
    return value


def need_record(storage: Objects, shape: Any, *names: str) -> Any:
    """The same of an object that must be there."""
    value = read_record(storage, shape, *names)
    if value is None:
        raise damaged(storage, "it is missing", *names)
    return value


def read_note(storage: Objects, folder: str, part: str) -> Any:
    """The note of a finished part."""
    return need_record(storage, Note, folder, f"{part}.json")


def notes_of_parts(storage: Objects, folder: str, parts: Sequence[str]) -> dict[str, Any]:
    """{part: its note}, several at a time: twenty thousand, one after the other, are ten minutes
    on S3."""
    with ThreadPoolExecutor(16) as pool:
        found = pool.map(lambda part: read_note(storage, folder, part), parts)
        return dict(zip(parts, found, strict=True))


def read_run(storage: Objects, run_id: str) -> Any:
    """run.json. Raises UserError when there is no such run, listing those that there are."""
    run = read_record(storage, Run, f"runs/{run_id}", "run.json")
    if run is None:
        known = ", ".join(storage.names("runs")) or "none"
        raise UserError(f"{storage.uri('runs', run_id)}: no such run; runs here: {known}")
    return run


def read_config(storage: Objects, run_id: str) -> Config:
    """The config that a run was made with."""
    from llmaug.config import parse_config

    run = read_run(storage, run_id)
    config = run.get("config")
    place = (f"runs/{run_id}", "run.json")
    if config is None:
        raise damaged(storage, "the config is missing", *place)
    try:
        return parse_config(config, storage.uri(*place))
    except UserError as error:
        remedy = _remedy(storage, "/".join(place))
        raise UserError(f"{error.message}. {formats.written_by(run)}. {remedy}") from error


def parse_json(storage: Objects, data: bytes, *names: str) -> Any:
    """Raises UserError when `data`, the bytes of the object, is no JSON."""
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as error:
        why = "it is empty" if not data else f"it is no JSON ({error})"
        raise damaged(storage, why, *names) from error


def damaged(storage: Objects, why: str, *names: str) -> UserError:
    """The error that says how the object comes back."""
    return UserError(f"{storage.uri(*names)}: damaged: {why}. {_remedy(storage, '/'.join(names))}")


def _remedy(storage: Objects, path: str) -> str:
    steps = path.split("/")
    again = "give the command of the run again: it is made anew from what came before"
    match steps:
        case ["runs", _, "lease.json"]:
            return "Delete it when nothing works on this run any more"
        case ["runs", _, "run.json"]:
            return "Give the command of the run again (`llmaug run`): it is written anew"
        case ["runs", run_id, _, *_]:
            made = _stage_of(storage, steps) or f"runs/{run_id}"
            return f"Delete {storage.uri(made)} and {again}"
        case ["published", name, "CURRENT"]:
            return f"Delete it; `llmaug publish RUN_ID` points {name} to a model again"
        case ["published", *_]:
            return "Publish a run again (`llmaug publish RUN_ID`), or restore it from a copy"
        case ["outcomes_cache", *_]:
            return "Delete it: what it held will be asked again"
        case ["clean_logs", *_]:
            return "Delete it: the log file that it came from is read again"
    return "Restore it from a copy, or delete it and run the job again"


def _stage_of(storage: Objects, steps: list[str]) -> str | None:
    """The folder of the stage, or the single file of the run, that the path lies in."""
    if len(steps) == 3:
        return "/".join(steps)
    for size in range(3, len(steps)):
        folder = "/".join(steps[:size])
        with contextlib.suppress(UserError):
            if storage.exists(folder, MANIFEST) or storage.exists(folder, STARTED):
                return folder
    return None


@cache
def _adapter(shape: Any) -> TypeAdapter[Any]:
    return TypeAdapter(shape)
