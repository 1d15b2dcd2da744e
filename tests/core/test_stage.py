"""Stages: skipped when unchanged, emptied when changed, resumed when killed."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from llmaug.core.progress import Progress
from llmaug.core.stage import MANIFEST, STARTED, Context, Stage, map_parts, run_stage, total_counts
from llmaug.core.storage import Storage
from llmaug.errors import UserError

pytestmark = pytest.mark.usefixtures("ray_session")
MakeContext = Callable[..., Context]
PARTS = ["part-00000", "part-00001", "part-00002"]


def square_stage(desk: Path) -> Stage:
    """A toy stage: part n becomes one row with n squared.

    Every finished part is logged on the `desk`. While a file named `fuse` lies there, the
    last part waits for the others and dies.
    """

    # Nested, so that Ray ships the function itself: its workers cannot import this file.
    def work(storage: Storage, folder: str, part: str) -> dict[str, Any]:
        number = int(part[-1])
        if number == 2 and (desk / "fuse").exists():
            deadline = time.monotonic() + 30
            while len(list((desk / "log").iterdir())) < 2 and time.monotonic() < deadline:
                time.sleep(0.02)
            raise RuntimeError("power cut")
        table = pa.table({"square": [number**2]})
        counts = {"sum": number**2, f"reason-{number}": 1}
        storage.write_part(table, counts, folder, part)
        (desk / "log" / f"{part}-{time.time_ns()}").touch()
        return counts

    def run(context: Context) -> dict[str, Any]:
        folder = context.folder("squares")
        assert not context.storage.exists(folder, MANIFEST)
        return dict(map_parts(context, folder, PARTS, partial(work, context.storage, folder)))

    (desk / "log").mkdir(exist_ok=True, parents=True)
    return Stage(name="squares", run=run, settings=lambda config: config.split)


def worked_on(desk: Path) -> list[str]:
    """Parts that were finished, once for each time."""
    return sorted(path.name.rsplit("-", 1)[0] for path in (desk / "log").iterdir())


EXPECTED = {"rows": 3, "sum": 0 + 1 + 4, "reason-0": 1, "reason-1": 1, "reason-2": 1}


def test_an_unchanged_stage_is_skipped(make_context: MakeContext, tmp_path: Path) -> None:
    context, desk = make_context(), tmp_path / "desk"
    first = run_stage(square_stage(desk), context)
    assert first["counts"] == EXPECTED and not first["skipped"]
    assert [part["part"] for part in first["parts"]] == PARTS

    again = run_stage(square_stage(desk), context)
    assert again == {**first, "skipped": True}
    assert worked_on(desk) == PARTS
    assert context.skipped == {"squares"}


def test_a_changed_config_empties_the_folder_and_runs_again(
    make_context: MakeContext, tmp_path: Path
) -> None:
    desk = tmp_path / "desk"
    context = make_context()
    before = run_stage(square_stage(desk), context)
    run_stage(square_stage(desk), make_context(train={"num_steps": 3}))  # not this stage's
    assert worked_on(desk) == PARTS

    context.storage.write_part(pa.table({"square": [7]}), {}, context.folder("squares"), "old")
    after = run_stage(square_stage(desk), make_context(split={"kind": "none"}))
    assert worked_on(desk) == sorted(2 * PARTS)
    assert after["fingerprint"] != before["fingerprint"]
    assert context.storage.parts(context.folder("squares")) == PARTS


def test_more_of_the_same_keeps_what_is_there(make_context: MakeContext) -> None:
    """One more seed does not train the others again; another setting does."""
    trained = []

    def run(context: Context) -> dict[str, Any]:
        folder = context.folder("model")
        assert not context.storage.exists(folder, MANIFEST)
        for seed in context.config.train.seeds:
            if not context.storage.exists(folder, f"seed-{seed}.json"):
                trained.append(seed)
                context.storage.write_json({}, folder, f"seed-{seed}.json")
        return {"seeds": len(context.config.train.seeds)}

    stage = Stage(
        "model", run, settings=lambda config: config.split, extends=lambda c: c.train.seeds
    )
    first = run_stage(stage, make_context(train={"seeds": [1]}))
    more = run_stage(stage, make_context(train={"seeds": [1, 2]}))
    assert trained == [1, 2] and more["counts"] == {"seeds": 2}
    assert more["fingerprint"] != first["fingerprint"]  # what follows is done again
    assert run_stage(stage, make_context(train={"seeds": [1, 2]}))["skipped"]

    run_stage(stage, make_context(train={"seeds": [1, 2]}, split={"kind": "none"}))
    assert trained == [1, 2, 1, 2]


def test_a_killed_stage_goes_on_from_its_finished_parts(
    make_context: MakeContext, tmp_path: Path
) -> None:
    context, desk = make_context(), tmp_path / "desk"
    stage, folder = square_stage(desk), context.folder("squares")
    (desk / "fuse").touch()
    with pytest.raises(Exception, match="power cut"):
        run_stage(stage, context)
    assert context.storage.parts(folder) == PARTS[:2]
    assert context.storage.exists(folder, STARTED)
    assert not context.storage.exists(folder, MANIFEST)  # it has not happened
    assert context.storage.read_json(folder, f"{PARTS[0]}.json")["rows"] == 1

    (desk / "fuse").unlink()
    resumed = run_stage(stage, context)
    assert resumed["counts"] == EXPECTED
    assert worked_on(desk) == PARTS


def test_the_ledger_is_the_sum_of_the_notes_of_all_parts(make_context: MakeContext) -> None:
    context = make_context()
    for part, counts in {"a": {"kept": 2}, "b": {"kept": 3, "dropped": 1}}.items():
        rows = pa.table({"n": range(sum(counts.values()))})
        context.storage.write_part(rows, counts, "folder", part)
    context.storage.write_table(rows, "folder", "unfinished.parquet")
    assert total_counts(context.storage, "folder") == {"rows": 6, "kept": 5, "dropped": 1}


def test_what_the_user_can_mend_reaches_the_caller_as_it_was_raised(
    make_context: MakeContext,
) -> None:
    def work(part: str) -> dict[str, Any]:
        raise UserError(f"{part}.csv row 3: mend this")

    def run(context: Context) -> dict[str, Any]:
        return dict(map_parts(context, context.folder("bad"), ["part"], work))

    with pytest.raises(UserError) as caught:
        run_stage(Stage(name="bad", run=run), make_context())
    assert type(caught.value) is UserError
    assert str(caught.value) == caught.value.message == "part.csv row 3: mend this"


class FakeLease:
    lost = False

    def confirm(self) -> None:
        if self.lost:
            raise UserError("run lease lost")


def test_a_stage_that_lost_its_lease_commits_nothing(make_context: MakeContext) -> None:
    made, lease = make_context(), FakeLease()
    context = Context(made.storage, made.config, "test", lease=lease)  # type: ignore[arg-type]

    def run(context: Context) -> dict[str, Any]:
        lease.lost = True
        return {}

    with pytest.raises(UserError, match="lease lost"):
        run_stage(Stage(name="late", run=run), context)
    assert not context.storage.exists(context.folder("late"), MANIFEST)


def test_a_run_that_lost_its_lease_deletes_nothing(make_context: MakeContext) -> None:
    made, lease = make_context(), FakeLease()
    run_stage(Stage(name="late", run=lambda context: {}, settings=lambda config: 1), made)
    lease.lost = True
    context = Context(made.storage, made.config, "test", lease=lease)  # type: ignore[arg-type]
    with pytest.raises(UserError, match="lease lost"):
        run_stage(Stage(name="late", run=lambda context: {}, settings=lambda config: 2), context)
    assert context.storage.exists(context.folder("late"), MANIFEST)


def test_a_later_stage_runs_again_when_its_input_has_changed(make_context: MakeContext) -> None:
    runs: list[str] = []

    def noted(name: str) -> Callable[[Context], dict[str, Any]]:
        def run(context: Context) -> dict[str, Any]:
            runs.append(name)
            return {"files": len(outside)}

        return run

    logs = Stage(name="logs", run=noted("logs"), outside=lambda context: len(outside))
    model = Stage(name="model", run=noted("model"), inputs=("logs",))
    outside = ["monday.csv"]
    for _ in range(2):
        run_stage(logs, make_context())
        run_stage(model, make_context())
    assert runs == ["logs", "model"]
    outside.append("tuesday.csv")
    run_stage(logs, make_context())
    run_stage(model, make_context())
    assert runs == ["logs", "model", "logs", "model"]


def test_progress_never_passes_its_total(make_context: MakeContext) -> None:
    """Parts that another call wrote into the same folder are not this call's."""
    made, states = make_context(), list[dict[str, Any]]()
    context = Context(made.storage, made.config, "test", Progress(publish=states.append))
    for name in ("a", "b", "c"):
        made.storage.write_part(pa.table({"n": [1]}), {}, "folder", name)

    def work(storage: Storage, part: str) -> dict[str, Any]:
        storage.write_part(pa.table({"n": [1]}), {"n": 1}, "folder", part)
        return {"n": 1}

    work_here = partial(work, made.storage)
    assert map_parts(context, "folder", ["c", "d"], lambda part: work_here(part))["rows"] == 4
    assert [(state["done"], state["total"]) for state in states] == [(2, 2)]
