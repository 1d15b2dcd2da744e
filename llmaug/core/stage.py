"""What a stage is: a folder of parts, a fingerprint, and a manifest written last.

A stage whose manifest carries the fingerprint of tonight's inputs, config and code is
skipped. Of an input counts what it holds: one that was made anew and came out as before runs
nothing again. A stage without a manifest has not happened: it is resumed from the parts it
finished. When the fingerprint changed, its folder is emptied first, unless only what `extends`
it changed (one more seed): then it goes on from what is there.

The manifest lists the files of the folder. Where one is missing or has another size (another
digest, with `verify`), the stage is made anew.

Nearly every stage is a map over parts: part in, part of the same name out, one Ray Data
row each. A part counts once its note (`part-00000.json`) exists, so kill -9 costs at most
the parts in flight, and nothing is ever there twice.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from llmaug.config import Config
from llmaug.core import contents, formats, stage_metrics
from llmaug.core.code_version import code_version
from llmaug.core.contents import MANIFEST, check_stage, damage_of, read_manifest, read_object
from llmaug.core.lease import Lease
from llmaug.core.model_sources import with_contents, without_places
from llmaug.core.placing import Ask
from llmaug.core.progress import MemoryMeter, Progress
from llmaug.core.storage import Storage, digest
from llmaug.core.stored import STARTED, notes_of_parts
from llmaug.errors import UserError, find_user_error

REVISION = "_revision.json"
# Stages that a run may have once more for another generator, below a folder of their own.
OF_GENERATOR = ("lm", "plan", "outcomes", "filtered", "forecast")


@dataclass(frozen=True)
class Context:
    """What every stage is handed."""

    storage: Storage
    config: Config
    run_id: str
    progress: Progress = field(default_factory=Progress)
    lease: Lease | None = None
    skipped: set[str] = field(default_factory=set)
    """Names of the stages that this run found unchanged."""
    unlisted: set[str] = field(default_factory=set)
    """Names of those whose manifests do not list their files."""
    verify: bool = False
    """Digests of the files of finished stages are checked, and not their sizes alone."""
    track: str = ""
    """Folder of the generator in question below the run (`ngram`, the baseline); '': the one
    that the config names, whose stages lie in the run itself."""

    def folder(self, name: str) -> str:
        """Folder of stage `name` below the storage root."""
        return f"runs/{self.run_id}/{on_track(self.track, name)}"

    def confirm_lease(self) -> None:
        """Raises UserError when another run holds this one's folder; call before what cannot be
        taken back."""
        if self.lease:
            self.lease.confirm()

    def manifest(self, name: str) -> dict[str, Any]:
        """Manifest of a stage. Raises UserError when it has not happened."""
        manifest = read_manifest(self.storage, self.folder(name))
        if manifest is None:
            raise UserError(
                f"{self.storage.uri(self.folder(name))}: this stage is not finished, or its "
                f"{MANIFEST} is damaged: give the command of the run again"
            )
        return manifest


def on_track(track: str, name: str) -> str:
    """Name of stage `name` for the generator of `track`."""
    return f"{track}/{name}" if track and name.split("/")[0] in OF_GENERATOR else name


@dataclass(frozen=True)
class Stage:
    """One step of the pipeline. `run` writes parts into the stage's folder and returns the
    counts for its manifest."""

    name: str
    """Also its folder in the run."""
    run: Callable[[Context], dict[str, Any]]
    inputs: tuple[str, ...] = ()
    """Stages whose results are part of this one's fingerprint: all that it reads, since another
    that lies between may come out as before."""
    settings: Callable[[Config], Any] = lambda config: None
    """The part of the config that this stage depends on."""
    extends: Callable[[Config], Any] = lambda config: None
    """The part of the config that says how much is done, not how: with another value the stage
    runs again and keeps what it did before."""
    outside: Callable[[Context], Any] = lambda context: None
    """Identity of inputs from outside the run (log files and their versions)."""
    roots: Callable[[Config], tuple[str, ...]] = lambda config: ()
    """Modules besides its own that decide its result, with what they import, and that nothing
    else says: those of the kind of model that the config asks for, and those that are not
    imported but named. An edit elsewhere does not cost a night of generation."""
    measured: tuple[str, ...] = ()
    """Counts that say how the work went and not what came of it: nothing that follows is done
    again for them."""
    part_folders: tuple[str, ...] = ("",)
    """Sub-folders that hold its parts."""
    asks: Callable[[Config, bool], tuple[Ask, ...]] = lambda config, on_gpus: ()
    """What it asks Ray for, when what can use GPUs shall ask for them or not (`ray.gpus`)."""
    independent: bool = False
    """Its parts (or sub-folders, a model each) come from its inputs alone and not from each
    other: of a damaged folder only those that are damaged are made anew."""

    @property
    def module(self) -> str:
        """The one that `run` stands in."""
        return getattr(self.run, "func", self.run).__module__  # functools.partial hides it

    def modules(self, config: Config) -> tuple[str, ...]:
        """Those that decide its result, with what they import."""
        return self.module, *self.roots(config)


def fingerprint(stage: Stage, context: Context) -> dict[str, Any]:
    """All that the result of `stage` depends on, and the digest of it."""
    basis = {
        "stage": stage.name,
        "inputs": {name: content_of(context.manifest(name)) for name in stage.inputs},
        "config": {"seed": context.config.seed, "settings": _settings(stage, context)},
        "outside": stage.outside(context),
        "code_version": code_version(stage.modules(context.config)),
    }
    more = stage.extends(context.config)
    whole = basis if more is None else {**basis, "extends": _plain(more)}
    return {"fingerprint": digest(whole), "basis": digest(basis), **whole}


def _settings(stage: Stage, context: Context) -> Any:
    """With what model folders hold in place of their paths."""
    config = context.config
    settings = _plain(stage.settings(without_places(config)))
    return with_contents(settings, config, context.storage, context.run_id, context.progress.note)


def content_of(manifest: dict[str, Any]) -> str:
    """What follows from a stage depends on this; whether it is done itself on its fingerprint,
    which serves where the manifest is of an earlier version."""
    return str(manifest.get("content") or manifest["fingerprint"])


def run_stage(stage: Stage, context: Context) -> dict[str, Any]:
    """Run, resume, mend or skip `stage`; returns its manifest with `skipped` added."""
    storage, folder = context.storage, context.folder(stage.name)
    identity = fingerprint(stage, context)
    manifest = read_manifest(storage, folder)
    started = manifest or read_object(storage, folder, STARTED)
    resumed = bool(started) and started.get("basis") == identity["basis"]
    mended = resumed and _mend(stage, context, manifest)
    if manifest and not mended and manifest["fingerprint"] == identity["fingerprint"]:
        context.progress.skipped(stage.name)
        context.skipped.add(stage.name)
        return {**manifest, "skipped": True}
    for name in stage.inputs:
        check_stage(storage, context.run_id, name)
    context.confirm_lease()
    storage.delete(folder, MANIFEST)  # first: a folder that is half emptied has not happened
    if not resumed:
        storage.delete(folder)
    storage.write_json(identity, folder, STARTED)
    context.progress.start(stage.name)
    begin = time.monotonic()
    with MemoryMeter() as memory:
        try:
            counts = stage.run(context)
        except Exception as error:
            raise find_user_error(error) or error from error
    files, notes = contents.describe(storage, folder)
    context.confirm_lease()
    manifest = {
        **formats.MANIFEST.stamp,
        **identity,
        "counts": counts,
        "content": digest([contents.data_digest(files), _without(counts, stage.measured)]),
        "revision": read_object(storage, folder, REVISION).get("revision", 0),
        "parts": [
            {**note, "folder": sub}
            for sub in stage.part_folders
            for name, note in sorted(notes.items())
            if name.rpartition("/")[0] == sub
        ],
        "files": files,
        "seconds": round(time.monotonic() - begin, 2),
        "peak_rss_mb": memory.peak_mb,
        "finished_utc": formats.utc_now(),
    }
    storage.write_json(manifest, folder, MANIFEST)
    context.progress.finish(stage.name, manifest["seconds"])
    stage_metrics.export(context.run_id, stage.name, manifest)
    return {**manifest, "skipped": False}


# -- damaged stages -------------------------------------------------------------------------


def _mend(stage: Stage, context: Context, manifest: dict[str, Any] | None) -> bool:
    """Remove what is damaged of the stage, so that it is made anew; False when nothing is."""
    storage, folder = context.storage, context.folder(stage.name)
    if manifest:
        if "files" not in manifest:
            _note_once(context, stage.name)
        found = damage_of(storage, folder, manifest, context.verify)
    else:
        done = contents.unfinished(storage, folder)
        found = contents.damage(storage, folder, done, context.verify, whole=False)
    if not found:
        return False
    for name, what in list(found.items())[:3]:
        context.progress.note(f"{storage.uri(folder, name)}: {what}; it is made anew")
    if len(found) > 3:
        context.progress.note(f"and {len(found) - 3:,} more files of {stage.name}")
    context.confirm_lease()
    keep = (MANIFEST, STARTED, REVISION)
    contents.remove(storage, folder, found if stage.independent else (), keep)
    return True


def _note_once(context: Context, name: str) -> None:
    if not context.unlisted:
        context.progress.note(
            f"{name}: its manifest is of an earlier version and does not list its files: their "
            "sizes cannot be checked"
        )
    context.unlisted.add(name)


def _without(counts: dict[str, Any], names: tuple[str, ...]) -> dict[str, Any]:
    return {name: value for name, value in counts.items() if name not in names}


def map_parts(
    context: Context,
    folder: str,
    parts: list[str],
    work: Callable[[str], dict[str, Any]] | type,
    *,
    unit: str = "parts",
    outputs: dict[str, list[str]] | None = None,
    **ray_options: Any,
) -> Counter[str]:
    """Do `work(part)` for each part that has no note in `folder` yet, spread by Ray Data.

    `work` is a picklable callable, or a class for Ray Data actors (then `ray_options` has
    `concurrency` and `fn_constructor_kwargs`). It writes its part with `write_part` and
    returns the counts; where it writes others than that, `outputs` names them for each part.
    Returns the counts of all parts of `folder` added up, finished earlier or now.
    """
    import ray.data

    from llmaug.core.cluster import connect

    storage = context.storage
    finished = set(storage.parts(folder))
    done = {p for p in parts if finished.issuperset(outputs[p] if outputs else [p])}
    pending = [part for part in parts if part not in done]
    if pending:
        connect(context.config.ray)
        rows = ray.data.from_items(
            [{"part": part} for part in pending], override_num_blocks=len(pending)
        )
        run = _actor_of(work) if isinstance(work, type) else _task_of(work)
        ray_options.setdefault("num_cpus", 1)
        with context.progress.track(len(parts), unit, done=len(done)) as advance:
            for row in rows.map(run, **ray_options).iter_rows():
                if context.lease:
                    context.lease.check()
                advance(1, row["counts"])
    return total_counts(storage, folder)


def total_counts(storage: Storage, folder: str) -> Counter[str]:
    """The counts in the notes of all finished parts of `folder`, added up, and `rows`."""
    total: Counter[str] = Counter()
    for note in notes_of_parts(storage, folder, storage.parts(folder)).values():
        total.update({"rows": note["rows"], **note["counts"]})
    return total


def _task_of(work: Callable[[str], dict[str, Any]]) -> Callable[[dict], dict]:
    def run(row: dict[str, Any]) -> dict[str, Any]:
        return {"part": row["part"], "counts": _numbers(work(row["part"]))}

    return run


def _actor_of(work: type) -> type:
    class PartActor:
        def __init__(self, **arguments: Any) -> None:
            self._work = work(**arguments)

        def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
            return {"part": row["part"], "counts": _numbers(self._work(row["part"]))}

    PartActor.__name__ = work.__name__
    return PartActor


def _numbers(counts: dict[str, Any]) -> str:
    # One string column: parts with different reasons would be different Arrow schemas.
    return json.dumps(counts)


def _plain(value: Any) -> Any:
    if hasattr(value, "model_dump"):
        return value.model_dump(mode="json")
    if isinstance(value, dict):
        return {key: _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    return value
