"""The same from Python as from the command line: run the job, read a run, ask a published model.

Tables come as Arrow, errors that the user can mend as `llmaug.errors.UserError`. Nothing is
printed.

Example: `examples/api.py`
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import date as Day
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow as pa

from llmaug import pipeline
from llmaug.commands.status import read_status
from llmaug.config import Config, load_config, parse_config
from llmaug.config.dates import dated, day_of, run_id_of_night
from llmaug.config.names import check_name, run_folder
from llmaug.config.paths import located
from llmaug.core.cluster import disconnect, is_connected
from llmaug.core.contents import check_stage, read_manifest
from llmaug.core.storage import Storage, at_root
from llmaug.core.stored import read_config, read_run
from llmaug.errors import UserError
from llmaug.publish import recommend
from llmaug.report.stage import load_metrics

Pathlike = str | os.PathLike[str]


def run(
    config: Pathlike | Mapping[str, Any] | Config,
    root: Pathlike | None = None,
    *,
    run_id: str | None = None,
    date: str | None = None,
    wait_s: float = 0.0,
    until: str = "report",
    verify: bool = False,
    endpoint_url: str | None = None,
) -> Run:
    """Run the job, or what is left of it, as `llmaug run` does; what is finished is skipped.

    config: a YAML file, its sections as a mapping (relative paths start at the working folder),
    or a Config. root: a folder or s3://bucket/prefix; default: `storage.root` of the config.
    run_id: folder of the run; default: the config's name, with the day of `date`. date: the day for
    `{date}` in the config: 2026-01-31, today or yesterday (UTC). wait_s: seconds to wait for the
    logs of the last day (`ingest.complete_days`). until: the last step. A Ray that this process is
    connected to is used and kept. Raises UserError for what the user can mend.
    """
    day = day_of(date) if date else None
    config = _config(config, day)
    where = os.fspath(root or config.storage.root)
    storage = at_root(where, endpoint_url or config.storage.endpoint_url)
    name = check_name(run_id_of_night(config.name, day) if run_id is None else run_id, "run_id")
    connected = is_connected()
    try:
        pipeline.run(config, storage, name, until, verify=verify, wait_s=wait_s)
    finally:
        if not connected:
            disconnect()
    return Run(storage, name)


def open_run(root: Pathlike, run_id: str, *, endpoint_url: str | None = None) -> Run:
    """A run that is there, finished or not. Raises UserError when there is none, listing those
    that there are."""
    opened = Run(at_root(os.fspath(root), endpoint_url), check_name(run_id, "run_id"))
    read_run(opened.storage, opened.run_id)
    return opened


def load_published(
    root: Pathlike,
    name: str = "recommender",
    *,
    verify: bool = False,
    endpoint_url: str | None = None,
) -> Published:
    """The model that is published under `name` now, loaded into memory: it stays that one.

    verify: the digests of the logs of its run are checked, which reads them all. Raises UserError
    when nothing is published, or what is there is damaged.
    """
    return Published(recommend.serve(at_root(os.fspath(root), endpoint_url), name, verify))


@dataclass(frozen=True)
class Run:
    """One run: its config, figures and tables, read from storage when they are asked for."""

    storage: Storage
    run_id: str

    @cached_property
    def config(self) -> Config:
        """The config that it was made with."""
        return read_config(self.storage, self.run_id)

    @property
    def status(self) -> dict[str, Any]:
        """How far it is now: {run_id, holder, progress, stages: [{name, state, seconds, rows,
        damage}]}, as `llmaug status --json`."""
        return read_status(self.storage, self.run_id)

    @property
    def metrics(self) -> dict[str, Any]:
        """The figures of the report (metrics.json). Raises UserError before there is one."""
        metrics = load_metrics(self.storage, self.run_id)
        if metrics is None:
            raise UserError(
                f"{self.storage.uri(run_folder(self.run_id))}: no report yet; run the job to its "
                "end (until='report')"
            )
        return metrics

    @property
    def stages(self) -> list[str]:
        """Names of the stages of its path, in order, finished or not."""
        return list(read_run(self.storage, self.run_id).get("stages", []))

    def manifest(self, stage: str) -> dict[str, Any]:
        """What a finished stage says of itself: fingerprint, counts, parts, files, seconds.

        Raises UserError when the run has no such stage, or it is not finished.
        """
        if stage not in self.stages:
            raise UserError(f"no stage {stage!r}; stages here: {', '.join(self.stages)}")
        manifest = read_manifest(self.storage, f"{run_folder(self.run_id)}/{stage}")
        if manifest is None:
            raise UserError(
                f"{stage}: not finished in run {self.run_id}; run the job again: it goes on"
            )
        return manifest

    def table(self, name: str, columns: list[str] | None = None) -> pa.Table:
        """All rows of `name`, in memory: a stage ("ingest", "plan", "outcomes"), or a folder of
        one ("split/train"). The columns are those of `llmaug.schema`.

        Raises UserError when there is no such table, or it is damaged.
        """
        return pa.concat_tables(self.parts(name, columns))

    def parts(self, name: str, columns: list[str] | None = None) -> Iterator[pa.Table]:
        """The same part by part, each read when it is its turn: for what does not fit in
        memory."""
        folder, parts = self._parts(name)
        return (self.storage.read_part(folder, part, columns) for part in parts)

    def _parts(self, name: str) -> tuple[str, list[str]]:
        """(folder below the root, names of its parts)."""
        stage = max((s for s in self.stages if f"{name}/".startswith(f"{s}/")), key=len, default="")
        self.manifest(stage or name)
        check_stage(self.storage, self.run_id, stage)
        folder = f"{run_folder(self.run_id)}/{name}"
        parts = self.storage.parts(folder)
        if not parts:
            raise UserError(f"{self.storage.uri(folder)}: no table; {self._known(stage)}")
        return folder, parts

    def _known(self, stage: str) -> str:
        """Those that there are in the folder of a stage."""
        folder = f"{run_folder(self.run_id)}/{stage}"
        below = {file.rpartition("/")[0] for file in self.storage.sizes(folder)}
        tables = [sub for sub in sorted(below - {""}) if self.storage.parts(f"{folder}/{sub}")]
        return f"tables of {stage}: {', '.join(f'{stage}/{sub}' for sub in tables) or 'none'}"


@dataclass(frozen=True)
class Published:
    """A published model in memory."""

    served: recommend.Served

    @property
    def card(self) -> dict[str, Any]:
        """What it is (published.json): version, run_id, arm, what the gate said."""
        return self.served.card

    def recommend(self, user_ids: Iterable[str], k: int = 10) -> pa.Table:
        """Top k of each user, best first (schema.ANSWER: user_id, position, item_id, title,
        score, known_user); fewer when items run out.

        Without what the user had already, unless `recommend.include_seen` of the run says
        otherwise. A user who is not in the logs gets what suits anyone.
        """
        if k < 1:
            raise UserError(f"k={k}: how many items? at least 1")
        if isinstance(user_ids, str):
            raise UserError(f"user_ids={user_ids!r}: give a list of ids, [{user_ids!r}]")
        return recommend.for_users(self.served, _texts(user_ids, "user id"), k)

    def score(self, pairs: Iterable[tuple[str, str]]) -> pa.Table:
        """Score in (0, 1), or rating (linear_rating), of each (user id, item id), in their order
        (schema.SCORED_PAIR: user_id, item_id, score, known_user, known_item).

        The score of an item outside the catalogue is null, and that of the mean item with the
        linear model.
        """
        pairs = list(pairs)
        users = _texts((user for user, _ in pairs), "user id")
        items = _texts((item for _, item in pairs), "item id")
        return recommend.score_table(self.served, list(zip(users, items, strict=True)))


def _config(config: Pathlike | Mapping[str, Any] | Config, day: Day | None) -> Config:
    if isinstance(config, Config):
        return config
    if isinstance(config, Mapping):
        return parse_config(located(dated(dict(config), day, "config"), Path.cwd() / "config"))
    return load_config(os.fspath(config), day)


def _texts(ids: Iterable[str], what: str) -> list[str]:
    """Raises UserError for what is no text: the logs have none of it, so none would be known."""
    out = list(ids)
    for value in out:
        if not isinstance(value, str):
            raise UserError(f"{what} {value!r}: ids are texts, as in the logs: {str(value)!r}")
    return out
