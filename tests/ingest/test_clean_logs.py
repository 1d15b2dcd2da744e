"""Rows of log files are kept for the nights that follow, and nothing comes out otherwise for it.

`test_three_nights` is the one to read first.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from llmaug.config import load_config
from llmaug.core.forgotten import remember_to_forget
from llmaug.core.sources import Source, list_sources
from llmaug.core.stage import Context, run_stage
from llmaug.core.storage import Storage
from llmaug.errors import UserError
from llmaug.ingest import clean_logs
from llmaug.ingest.clean_logs import CleanLogs, clean_logs_of, used_by
from llmaug.ingest.file_rows import FileRows, read_file
from llmaug.ingest.people import EVERYBODY, read_people
from llmaug.ingest.stage import STAGE

MakeContext = Callable[..., Context]
NOW = datetime(2026, 3, 10, tzinfo=UTC)
LOGS: dict[str, Any] = {"path": "{root}/logs", "format": "csv", "keep_clean": True}
KEY = "a key of thirty-two characters.."


def write(root: Path, day: int, lines: list[str], file: str = "a") -> Path:
    """A file of the folder of a day in March."""
    path = root / f"logs/dt=2026-03-{day:02}/{file}.csv"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(["user_id,item_id,timestamp", *lines, ""]))
    return path


def a_day(day: int) -> list[str]:
    """What five users did, with all that a log may have: a line without a user, one of no time, the
    same event again, one of the evening before, users who are called 1 and 1.0."""
    at = f"2026-03-{day:02}T"
    lines = [
        f"u{user},i{(user + day + n) % 7},{at}1{n}:00:00Z" for user in range(5) for n in (0, 1)
    ]
    before = datetime(2026, 3, day, tzinfo=UTC) - timedelta(minutes=5)
    return [
        *lines, lines[0], f",i1,{at}09:00:00Z", f"u1,i1,{at}late", f"u2,i2,{before.isoformat()}",
        f"{'1.0' if day % 2 else '1'},i3,{at}10:00:00Z",
    ]  # fmt: skip


@pytest.mark.usefixtures("ray_session")
def test_three_nights(tmp_path: Path, make_context: MakeContext) -> None:
    """The second reads the new day and the straggler, although its window has moved, a file is
    gone, and what is asked of users is another; of the third a setting changed that rows hang on.
    """
    for day in (1, 2, 3):
        write(tmp_path, day, a_day(day))
    gone = write(tmp_path, 3, ["u9,i9,2026-03-03T10:00:00Z"], "gone")

    def night(run: str, **config: Any) -> dict[str, Any]:
        sections = {**LOGS, "max_quarantined": 0.5, "num_parts": 2, **config}
        return run_stage(STAGE, make_context(run, ingest=sections))

    first = night("first", start="2026-03-01", end="2026-03-03")["counts"]
    assert first["files.read"] == first["files"] == 4 and "files.from_cache" not in first

    write(tmp_path, 4, a_day(4))
    write(tmp_path, 2, [*a_day(2), "u1,i5,2026-03-02T20:00:00Z"])
    gone.unlink()
    second = {"start": "2026-03-02", "end": "2026-03-04", "num_parts": 3, "max_events_per_day": 9}
    found, full = night("second", **second), night("full", **second, keep_clean=False)
    assert (found["counts"]["files.read"], found["counts"]["files.from_cache"]) == (2, 1)
    assert found["counts"]["dropped.out_of_range_date"] == 1  # the evening before the first day
    assert found["counts"]["noted.twin_users"] == 1 and found["counts"]["quarantined"] == 6
    # The same fingerprint, files (events, quarantine) and ledger as without anything kept.
    assert found["fingerprint"] == full["fingerprint"] and found["content"] == full["content"]
    assert found["files"] == full["files"]
    without = {n: c for n, c in found["counts"].items() if not n.startswith("files.")}
    assert without == full["counts"]

    third = night("third", **second, default_action="click")["counts"]
    assert third["files.read"] == 3 and "files.from_cache" not in third


def rows(kept: CleanLogs, source: Source, context: Context, now: datetime = NOW) -> Any:
    """(was it read?, its rows, counts): as a worker of the next night does it, in this process."""
    kept = replace(kept, known=frozenset(kept.names.values()))
    found = kept.rows(source, now)
    place, people = Storage(f"{context.storage.root}/logs"), read_people(context)
    own = list(
        kept.keep(source, read_file(place, source, context.config.ingest, people, now))
        if found is None
        else found
    )
    counts: dict[str, int] = {}
    for each in own:
        for name, count in each.counts.items():
            counts[name] = counts.get(name, 0) + count
    return found is None, [row for each in own for row in each.table.to_pylist()], counts


def opened(context: Context) -> tuple[CleanLogs, Source]:
    """What is kept, and the first file of the logs."""
    sources = list_sources(Storage(f"{context.storage.root}/logs"), "ingest.path")
    found = clean_logs_of(context, sources, read_people(context))
    assert found is not None
    return found, sources[0]


def test_a_row_of_the_future_is_looked_at_again_when_its_time_has_come(
    tmp_path: Path, make_context: MakeContext
) -> None:
    times = ("2026-03-09T10:00:00Z", "2026-03-12T10:00:00Z", "2999-01-01T00:00:00Z")
    write(tmp_path, 9, [f"u,i,{time}" for time in times])
    context = make_context(ingest=LOGS)
    kept, source = opened(context)
    was_read, early, counts = rows(kept, source, context)
    assert kept.rows(source, NOW) is None  # this very night reads it, where a task is done again
    assert was_read and [row["reason"] is None for row in early] == [True, False, False]
    again = rows(kept, source, context, NOW + timedelta(days=1))
    assert again == (False, early, counts)  # the 12th is still more than a day ahead
    was_read, late, _ = rows(kept, source, context, NOW + timedelta(days=2))
    assert was_read and [row["reason"] is None for row in late] == [True, True, False]
    assert not rows(kept, source, context, NOW + timedelta(days=1000))[0]


def test_of_a_large_file_several_objects_are_kept_and_read_again_where_one_is_gone(
    tmp_path: Path, make_context: MakeContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(clean_logs, "OBJECT_BYTES", 1)
    write(tmp_path, 9, a_day(9))
    context = make_context(ingest=LOGS)
    kept, source = opened(context)
    place = Storage(f"{context.storage.root}/logs")
    (piece,) = read_file(place, source, context.config.ingest, EVERYBODY, NOW)
    pieces = [FileRows(piece.table[at : at + 5], {"rows_read": 5}) for at in (0, 5, 10)]
    assert list(kept.keep(source, pieces)) == pieces
    name = kept.names[source.number]
    objects = [n for n in context.storage.names(kept.folder) if n.endswith(".parquet")]
    assert objects == [f"{name}-0000{n}.parquet" for n in range(3)]
    kept, _ = opened(context)
    was_read, found, counts = rows(kept, source, context)
    assert not was_read and counts == {"rows_read": 15} and found == piece.table.to_pylist()

    whole = context.storage.read(kept.folder, objects[1])
    context.storage.write(whole[:-1] + b"X", kept.folder, objects[1])
    with pytest.raises(UserError, match="damaged.*the log file that it came from is read again"):
        list(kept.rows(source, NOW) or ())
    context.storage.delete(kept.folder, objects[1])
    assert kept.rows(source, NOW) is None
    context.storage.write(b"{", kept.folder, f"{name}.json")  # a note that was torn
    assert kept.rows(source, NOW) is None


def test_a_file_that_cannot_be_read_is_tried_again_every_night(
    tmp_path: Path, make_context: MakeContext
) -> None:
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs/a.csv.gz").write_bytes(b"\x1f\x8b torn")
    context = make_context(ingest=LOGS)
    kept, source = opened(context)
    for _ in range(2):
        was_read, (row,), _ = rows(kept, source, context)
        assert was_read and row["reason"] == "unreadable_file"


def test_who_is_forgotten_and_the_key_of_the_pseudonyms_decide_what_may_be_used(
    tmp_path: Path, make_context: MakeContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, 9, a_day(9))
    monkeypatch.setenv("LLMAUG_PSEUDONYM_KEY", KEY)
    secret = {"pseudonyms": {"keep_mapping": False}}
    contexts = [make_context(ingest=LOGS), make_context("secret", ingest=LOGS, privacy=secret)]
    folders = [opened(context)[0].folder for context in contexts]
    monkeypatch.setenv("LLMAUG_PSEUDONYM_KEY", KEY[::-1])
    folders.append(opened(contexts[1])[0].folder)
    remember_to_forget(contexts[0].storage, "u1", "receipt")
    kept, source = opened(contexts[0])
    assert len({*folders, kept.folder}) == 4
    _, found, counts = rows(kept, source, contexts[0])
    assert counts["dropped.forgotten"] == 2 and "u1" not in [row["user_id"] for row in found]
    kept, source = opened(contexts[1])
    rows(kept, source, contexts[1])
    (file,) = [n for n in contexts[1].storage.names(kept.folder) if n.endswith(".parquet")]
    table = contexts[1].storage.read_table(kept.folder, file)
    assert not {"u0", "1", "1.0"} & {v for column in table.columns for v in column.to_pylist()}
    assert used_by(contexts[0].storage, ["secret"]) == {f"{kept.folder}/{kept.names[0]}"}


def test_where_nothing_is_kept_a_note_says_why(tmp_path: Path, make_context: MakeContext) -> None:
    write(tmp_path, 9, a_day(9))
    context = make_context(ingest={**LOGS, "order": "line"})
    assert clean_logs_of(context, [], read_people(context)) is None
    assert "lines are counted over all files" in context.progress.notes[-1]  # type: ignore
    assert clean_logs_of(make_context(ingest={**LOGS, "keep_clean": False}), [], None) is None  # type: ignore


def test_a_config_of_many_nights_keeps_and_one_of_a_single_run_does_not(tmp_path: Path) -> None:
    texts = {"many": "name: shop-{date}\n", "one": "name: shop\n",
             "not": "name: shop-{date}\ningest: {keep_clean: false}\n"}  # fmt: skip
    for name, text in texts.items():
        (tmp_path / f"{name}.yaml").write_text(text)
    found = {name: load_config(tmp_path / f"{name}.yaml", NOW.date()) for name in texts}
    keeps = {name: config.ingest.keep_clean for name, config in found.items()}
    assert keeps == {"many": True, "one": False, "not": False}
