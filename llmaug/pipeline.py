"""The whole job as a visible list: read it top to bottom and you know the system.

logs - ingest - split - text - vocabulary - lm - plan - generate - filter - merge - train
     - evaluate - gate - publish - recommend - report
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from llmaug.arms import merge
from llmaug.arms.arms import AUGMENTED, NGRAM, REVIEWED, SHARDS, WARMED, chosen, needed_shards
from llmaug.arms.baseline import baseline_config, of_baseline
from llmaug.config import Config
from llmaug.config.names import check_name, run_folder
from llmaug.core.contents import check_stage, read_manifest
from llmaug.core.formats import RUN
from llmaug.core.gpus import none_can_come, vllm_build, wanted
from llmaug.core.lease import Lease
from llmaug.core.model_sources import check_packages
from llmaug.core.node_types import machines
from llmaug.core.placing import misfits
from llmaug.core.progress import Progress
from llmaug.core.stage import Context, Stage, run_stage
from llmaug.core.storage import Storage
from llmaug.core.stored import read_config, read_run
from llmaug.errors import UserError
from llmaug.evaluate import fidelity, gate, privacy
from llmaug.evaluate import stage as evaluate
from llmaug.evaluate.rerank import rerank_stages
from llmaug.filter import real_runs
from llmaug.filter import stage as filters
from llmaug.generate import stage as generate
from llmaug.generate.engine_maker import engines, runs_vllm
from llmaug.generate.vllm_arguments import check_engine_args
from llmaug.ingest import split
from llmaug.ingest import stage as ingest
from llmaug.ingest.complete import wait_for_logs
from llmaug.ingest.people import check_key
from llmaug.items import stage as vocabulary
from llmaug.lm import adopt as lm_adopt
from llmaug.lm import train as lm_train
from llmaug.lm.members import member_configs, num_models, of_member
from llmaug.plan import stage as plan
from llmaug.publish import drift, recommend
from llmaug.publish import stage as publish
from llmaug.recommenders import train
from llmaug.report import stage as report
from llmaug.text.outcomes import engines as text_engines
from llmaug.text.stages import (
    choice_stages,
    chosen_rows,
    explain_stages,
    item_rows,
    review_rows,
    text_stages,
)

STEPS = ["ingest", "split", "text", "vocabulary", "lm", "plan", "generate", "filter", "merge",
         "train", "evaluate", "gate", "publish", "recommend", "report"]  # fmt: skip


def stages(config: Config, publishing: bool = True) -> list[tuple[str, Stage]]:
    """(step, stage) in order; what no arm needs is left out. Without `publishing` the models
    are compared and reported on, and none goes out."""
    arms = chosen(config)
    shards = needed_shards(arms)
    augment = AUGMENTED in shards
    lm_names = tuple(f"lm/{own.lm.name}" for own in member_configs(config))
    starts = "generator" in [arm.starts_from(config) for arm in arms]
    uses_lm = starts or (augment and config.generate.engine == "vllm")

    path: list[tuple[str, Stage]] = []
    path += [("ingest", ingest.STAGE)]
    path += [("split", split.STAGE)]
    path += [("text", each) for each in text_stages(config)]
    path += [("vocabulary", vocabulary.stage(item_rows(config)))]
    if publishing:
        path += [("vocabulary", drift.STAGE)]  # an alarm, before anything is paid
    path += [("generate", each) for each in choice_stages(config)]
    if uses_lm:
        trained = lm_train.stage(config.lm.name)
        first = lm_adopt.stage(config) if config.lm.from_run else trained
        path += [("lm", first)]
        others = range(2, num_models(config) + 1) if augment else ()
        path += [("lm", of_member(first, number)) for number in others]
    if augment:
        asked = uses_lm and config.generate.engine == "vllm"
        path += [("plan", real_runs.STAGE)]
        path += [("plan", plan.stage(lm_names if asked else ()))]
        path += [("generate", generate.STAGE)]
        path += [("filter", filters.STAGE)]
    if NGRAM in shards:
        lm = baseline_config(config).lm
        counts = lm_train.stage(lm.name)
        path += [("lm", of_baseline(counts))]
        path += [("plan", of_baseline(plan.stage((counts.name,))))]
        path += [("generate", of_baseline(generate.STAGE))]
        path += [("filter", of_baseline(filters.STAGE))]
    written = {REVIEWED: review_rows(config), WARMED: chosen_rows(config)}
    path += [("merge", merge.stage(name, written.get(name, ()))) for name in shards]
    if augment:
        path += [("merge", privacy.STAGE)]
        path += [("merge", fidelity.STAGE)]
    path += [("train", train.stage(arm, config)) for arm in arms]
    path += [("evaluate", evaluate.stage(tuple(arms)))]
    path += [("gate", gate.stage(audited=augment and SHARDS[config.gate.arm] == AUGMENTED))]
    if publishing:
        path += [("publish", publish.STAGE)]
        path += [("recommend", recommend.STAGE)]
    path += [("recommend", each) for each in rerank_stages(config, publishing)]
    path += [("recommend", each) for each in explain_stages(config, publishing)]
    path += [("report", report.stage(tuple(stage.name for _, stage in path)))]
    return path


def run(
    config: Config,
    storage: Storage,
    run_id: str,
    until: str = "report",
    progress: Callable[[Callable[[dict], None]], Progress] | None = None,
    publishing: bool = True,
    verify: bool = False,
    wait_s: float = 0.0,
) -> dict[str, Any]:
    """Run the job up to and with step `until`; finished stages are skipped, others resumed, and
    those whose files are missing or cut short made anew (with `verify`, whose bytes changed).

    wait_s: how long to wait for logs of `ingest.complete_days` that have not come.
    `progress` makes the Progress from the function that puts its state to storage.
    Returns the manifests by stage name. Raises UserError for what the user can mend.
    """
    if until not in STEPS:
        raise UserError(f"no step '{until}'; steps are: {', '.join(STEPS)}")
    wanted = STEPS[: STEPS.index(until) + 1]
    path = [stage for step, stage in stages(config, publishing) if step in wanted]
    run_id, folder = check_name(run_id, "run id"), run_folder(run_id)
    if "vocabulary" in wanted:
        check_packages(config, storage)  # before hours of ingest
    check_key(config)
    check_engines(config, path)
    _refuse_others(storage, folder)
    put = _Throttled(lambda state: storage.write_json(state, folder, "progress.json"))
    shown = progress(put) if progress else Progress(publish=put)
    with Lease(storage, folder, tell=shown.note) as lease:
        shown.plan([stage.name for stage in path])
        context = Context(storage, config, run_id, shown, lease, verify=verify)
        storage.write_json(
            {**RUN.stamp, "run_id": run_id, "config": config.model_dump(mode="json"),
             "until": until, "stages": [stage.name for stage in path]},
            folder, "run.json",
        )  # fmt: skip
        if read_manifest(storage, context.folder(ingest.STAGE.name)) is None:
            wait_for_logs(storage, config.ingest, wait_s, shown.note)
        return {stage.name: run_stage(stage, context) for stage in path}


def check_engines(config: Config, path: Sequence[Stage]) -> None:
    """Before anything is paid: raises UserError where what needs a GPU can never have one, be it
    up or not, and where vLLM does not know an argument.

    Ray is started or joined only where something asks for a GPU whatever the cluster has.
    """
    needed = ""
    texts = bool(config.text.tasks) and config.text.engine == "vllm"
    if texts or (generate.STAGE in path and runs_vllm(config)):
        check_engine_args(config.generate)
        if vllm_build() == "gpu":
            needed = "the vLLM that is installed runs on GPUs alone"
        elif config.generate.num_devices > 1:
            needed = f"one engine spreads over {config.generate.num_devices} GPUs"
    asks_anyway = any(ask.gpus for stage in path for ask in stage.asks(config, False))
    if not (needed or asks_anyway or config.ray.gpus == "required"):
        return
    cluster = machines(config.ray)
    on_gpus = wanted(config.ray, cluster)
    asked = [
        (stage.name, ask if ask.together else replace(ask, num=1))
        for stage in path
        for ask in stage.asks(config, on_gpus)
        if ask.gpus
    ]
    if found := misfits(asked, cluster):
        raise UserError(found[0])
    own = text_engines(config, on_gpus) if texts else engines(config, on_gpus)
    if needed and not own.gpus:
        why = "generate.num_gpus is 0" if on_gpus else none_can_come(cluster)
        raise UserError(
            f"{needed}, and the engines would have none: {why}. On a cluster without GPUs install "
            "llmaug[cpu]"
        )


@contextmanager
def reopened(
    storage: Storage,
    run_id: str,
    progress: Callable[[Callable[[dict], None]], Progress] | None = None,
    renewed: Sequence[str] = (),
    verify: bool = False,
) -> Iterator[Context]:
    """A run that was made before, with its own config, held by us meanwhile. Raises UserError
    when there is none, or files of a stage are missing or damaged: `renewed` are left aside, the
    caller runs them."""
    run_id, folder = check_name(run_id, "run id"), run_folder(run_id)
    run, config = read_run(storage, run_id), read_config(storage, run_id)
    shown = progress(lambda state: None) if progress else Progress()
    with Lease(storage, folder, tell=shown.note) as lease:
        for name in run.get("stages", []):
            if name not in renewed:
                check_stage(storage, run_id, name, verify)
        yield Context(storage, config, run_id, shown, lease, verify=verify)


def _refuse_others(storage: Storage, folder: str) -> None:
    """Stages empty their folders: `folder` must be a run, or nothing yet."""
    if {"run.json", "lease.json"} & set(storage.names(folder)):
        return
    if set(storage.sizes(folder)) - {"lease.json.lock"}:  # of the lease of a run that was deleted
        raise UserError(
            f"{storage.uri(folder)}: holds files and is no run of llmaug (no run.json); choose "
            "another --run-id or --root"
        )


class _Throttled:
    """Calls `put` at most every two seconds: progress must not cost storage calls."""

    def __init__(self, put: Callable[[dict], None], every_s: float = 2.0) -> None:
        self._put, self._every_s, self._last = put, every_s, 0.0

    def __call__(self, state: dict[str, Any]) -> None:
        if time.monotonic() - self._last >= self._every_s:
            self._last = time.monotonic()
            self._put(state)
