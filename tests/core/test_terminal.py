"""Printing: text of any origin is shown as it is, obeyed by nobody, and never ends a night."""

from __future__ import annotations

import ast
import csv
import io
import json
import os
import pty
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import pytest
from rich.table import Table
from rich.text import Text

from llmaug.cli import live_summary, summary
from llmaug.commands import datasets_compare as across
from llmaug.core.progress import Progress
from llmaug.core.storage import Storage
from llmaug.core.terminal import Terminal, emit, emit_json, plain
from llmaug.errors import UserError

HOSTILE = {
    "markup": "/products/[slug]",
    "closing tag": "[/x]",
    "link": "[link=http://evil]click[/link]",
    "html": "<script>alert(1)</script>",
    "backslash": "\\[bold]\\",
    "emoji code": ":smile:",
    "screen": "\x1b[2J\x1b]0;owned\x07",
    "c1": "\x9b31mred",
    "carriage": "safe\rEVIL",
    "backspace": "ab\x08\x08xx",
    "bidi": "\u202egnp.exe\u2066",
    "lines": "a\u2028b\x85c",
    "nul": "a\x00b",
    "wide": "日本語 \U0001f600",
}
OBEYED = [chr(code) for code in [*range(32), *range(0x7F, 0xA0), 0x202E, 0x2066, 0x2028]]
OBEYED = [char for char in OBEYED if char not in "\n\t"]


def printed(show: Callable[[Terminal], None], **options: Any) -> str:
    """What `show` puts into a file, which has no colours: whatever is obeyed came from data."""
    out = io.StringIO()
    show(Terminal(file=out, **{"width": 200, **options}))
    return out.getvalue()


def check(shown: str, text: str) -> None:
    assert not [char for char in OBEYED if char in shown], ascii(shown)
    assert plain(text) in shown, ascii(shown)


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
def test_what_is_printed_is_shown_and_not_obeyed(text: str) -> None:
    table = Table(text, "b", title=text, box=None)
    table.add_row("cell", text)
    check(printed(lambda console: console.print(text)), text)
    check(printed(lambda console: console.print(text, style="yellow", soft_wrap=True)), text)
    shown = printed(lambda console: console.print(table))
    assert shown.count(plain(text)) == 3, ascii(shown)
    styled = printed(lambda console: console.print(Text.assemble("run ", (text, "bold"))))
    assert not [char for char in OBEYED if char in styled]


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
def test_progress_shows_what_stages_and_notes_say(text: str) -> None:
    def show(console: Terminal) -> None:
        progress = Progress(console)
        progress.plan([f"lm/{text}"])
        progress.skipped(f"lm/{text}")
        progress.start(f"lm/{text}")
        progress.note(f"note {text}")
        progress.warn(f"warning {text}")
        with progress.track(2, "parts") as advance:
            advance(1, {"kept": 3, "last": text})
        progress.finish(f"lm/{text}", 1.0)

    shown = printed(show)
    check(shown, f"note {text}")
    check(shown, f"warning {text}")
    assert shown.count("[ 1/1] lm/") == 3


def test_a_note_of_several_lines_cannot_pass_for_another_line() -> None:
    shown = printed(lambda console: Progress(console).note("title\n[14/14] report done"))
    assert shown.splitlines() == ["      title", "      [14/14] report done"]


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
def test_the_tables_of_live_tests_and_data_sets_show_names_as_they_are(text: str) -> None:
    figure = {"value": 0.1, "low": 0.0, "high": 0.2}
    metric = {"absolute": figure, "relative": figure, "p_adjusted": 0.5, "power": None,
              "significant": True, "minimal_detectable": {"relative": 0.1}}  # fmt: skip
    side = {"users": 3, "exposures": 4, "click_through_rate": figure}
    result = {
        "control": text, "treatment": f"new {text}", "trusted": False,
        "variants": {text: side, f"new {text}": side},
        "metrics": {"click_through_rate": metric},
        "sample_ratio": {"treatment_share": 0.5, "expected_treatment_share": 0.5, "p_value": 1.0},
        "ledger": {"exposures": {text: 3}, "feedback": {"attributed": 1}},
        "warnings": [f"about {text}"],
    }  # fmt: skip
    check(printed(lambda console: live_summary.print_ab(console, result)), f"about {text}")
    row = {"dataset": text, "error": f"in {text}"}
    table = across.table({"datasets": [row]})
    check(printed(lambda console: console.print(table)), f"in {text}")


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
def test_the_summary_of_a_night_shows_users_titles_and_reasons(text: str, tmp_path: Path) -> None:
    import pyarrow as pa

    storage, version = Storage(str(tmp_path)), "published/m/versions/x"
    items = pa.table({"item_id": ["i", text], "title": [f"title {text}", None]})
    storage.write_table(items, version, "items.parquet")
    rows = pa.table({"user_id": [f"user {text}", "v"], "item_id": ["i", text],
                     "position": [1, 2], "score": [0.5, 0.4]})  # fmt: skip
    storage.write_part(rows, {}, "runs/night/recommendations", "part-00000")
    metrics = {
        "num_users": 0,
        "ledger": {"units": 1, "accepted": 1, "rejected": 0, "failed": 0, "planned": 2,
                   "left_out": 1, "stopped": text, "not_needed": 0, "cache_hits": 0,
                   "by_reason": {text: 1}},
        "events": {"real": 1, "synthetic": 1},
        "training": {"real": {}},
        "throughput": {"output_tokens_per_s": 1.0, "events_per_s": 1.0},
        "gate": {"passed": False, "reasons": [f"because {text}"]},
        "published": {"arm": "real", "forced": {"forced_utc": "now", "reason": f"forced {text}"},
                      "version": version, "uri": f"/models/{text}"},
        "stages": {"ingest": {"peak_rss_mb": 1, "seconds": 1.0, "skipped": False}},
    }  # fmt: skip
    shown = printed(lambda console: summary.print_summary(console, storage, "night", metrics))
    for part in ("user ", "title ", "because ", "/models/"):
        check(shown, f"{part}{text}")
    forced = shown.split("): forced ")[1].splitlines()[0]
    assert not [char for char in OBEYED if char in forced]


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
def test_json_is_safe_to_look_at_and_reads_back(
    text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    emit_json({text: [text, "\ud800"]})
    shown = capsys.readouterr().out
    assert json.loads(shown) == {text: [text, "\ud800"]}
    assert not [char for char in OBEYED if char in shown]


class Broken(io.StringIO):
    """A stream that fails when it is written to."""

    def __init__(self, error: Exception) -> None:
        super().__init__()
        self._error = error

    def write(self, text: str) -> int:
        raise self._error


@pytest.mark.parametrize(
    "error", [BrokenPipeError(32, "Broken pipe"), OSError(28, "No space left"), OSError(5, "EIO")]
)
def test_a_stream_that_is_gone_ends_no_night(
    error: OSError, monkeypatch: pytest.MonkeyPatch
) -> None:
    progress = Progress(Terminal(file=Broken(error)))
    progress.start("ingest")
    progress.note("still here")
    monkeypatch.setattr(sys, "stdout", Broken(error))
    Terminal().print("summary")
    if isinstance(error, BrokenPipeError):
        emit("data")  # who reads no further has had enough
    else:  # data that were cut off are not passed for whole ones
        with pytest.raises(UserError, match="cannot write to standard output"):
            emit("data")


def test_a_closed_stream_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("stdout", "stderr"):
        monkeypatch.setattr(sys, name, None)
    Terminal().print("nobody")
    Progress(Terminal(stderr=True)).start("ingest")
    emit_json({"nobody": 1})


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-16-le"])
def test_a_terminal_of_another_encoding_shows_what_it_can(encoding: str) -> None:
    raw = io.BytesIO()
    out: IO[str] = io.TextIOWrapper(raw, encoding=encoding, newline="")
    Terminal(file=out, width=200).print("users: 日本 café \udcff")
    assert raw.getvalue().decode(encoding).startswith("users: ")


@pytest.mark.parametrize("width", [1, 2, 7])
def test_a_narrow_terminal_is_no_error(width: int) -> None:
    table = Table("a", "b", title="title", box=None)
    table.add_row("日本語", "[/x]")
    assert printed(lambda console: console.print(table), width=width)
    assert printed(lambda console: Progress(console).note("日本語"), width=width)


def test_a_log_file_has_its_tables_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    """No window says how wide it is; at 80 columns figures end in dots."""
    table = Table(*(f"column {number}" for number in range(9)), box=None)
    table.add_row(*(f"figure {number}." for number in range(9)))
    monkeypatch.delenv("COLUMNS", raising=False)
    out = io.StringIO()
    Terminal(file=out).print(table)
    assert "figure 8." in out.getvalue()
    monkeypatch.setenv("COLUMNS", "40")  # who says so gets it
    Terminal(file=(narrow := io.StringIO())).print(table)
    assert max(map(len, narrow.getvalue().splitlines())) <= 40


SCRIPT = """
import sys
from llmaug.core.progress import Progress
from llmaug.core.terminal import Terminal, emit, emit_json
progress = Progress(Terminal(stderr=True))
progress.plan(["ingest"])
progress.start("ingest")
with progress.track(3, "[/parts]") as advance:
    for _ in range(3):
        advance(1, {"last": "\\x1b]0;owned\\x07[/x] \\u202e"})
progress.finish("ingest", 1.0)
for number in range(2000):
    Terminal().print(f"{number} [/x] \\u65e5\\u672c \\udcff")
    emit("data,\\u65e5\\n")
emit_json({"caf\\u00e9": 1})
"""


def test_bars_on_a_real_terminal_do_not_obey_their_data() -> None:
    parent, child = pty.openpty()
    try:
        done = subprocess.run(
            [sys.executable, "-c", SCRIPT], stdout=subprocess.DEVNULL, stderr=child,
            env={**os.environ, "TERM": "xterm", "COLUMNS": "80"},
        )  # fmt: skip
        shown = os.read(parent, 1 << 20)
    finally:
        os.close(parent)
        os.close(child)
    assert done.returncode == 0, shown
    assert b"\x1b]0;" not in shown and b"\x07" not in shown and "\u202e".encode() not in shown
    assert "3/3 [/parts], last \ufffd]0;owned[/x] \ufffd" in shown.decode()


@pytest.mark.parametrize(
    "environment", [{}, {"PYTHONIOENCODING": "ascii"}, {"PYTHONIOENCODING": "latin-1"},
                    {"COLUMNS": "1"}, {"TERM": "dumb"}, {"LC_ALL": "C", "PYTHONUTF8": "0"}]
)  # fmt: skip
def test_a_reader_that_has_seen_enough_is_no_error(environment: dict[str, str]) -> None:
    run = subprocess.Popen(
        [sys.executable, "-c", SCRIPT], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        env={**os.environ, **environment},
    )  # fmt: skip
    assert run.stdout and run.stderr
    run.stdout.readline()
    run.stdout.close()
    said = run.stderr.read().decode("utf-8", "replace")
    assert run.wait() == 0 and "Traceback" not in said and "BrokenPipe" not in said, said


def test_a_csv_answer_keeps_every_byte_in_a_file(capsys: pytest.CaptureFixture[str]) -> None:
    table = io.StringIO()
    csv.writer(table).writerow(list(HOSTILE.values()))
    emit(table.getvalue())
    assert capsys.readouterr().out == table.getvalue()


def test_nothing_is_printed_past_the_door() -> None:
    """A console of rich's own reads markup, and `print` fails where ours goes on."""
    for file in [*Path("llmaug").rglob("*.py"), *Path("jobs").glob("*.py")]:
        if file.name in ("terminal.py", "render_template.py"):  # the latter answers a process
            continue
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            where = f"{file}:{getattr(node, 'lineno', 0)}"
            if isinstance(node, ast.ImportFrom):
                assert node.module not in ("rich", "rich.console", "rich.markup"), where
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                assert node.func.id != "print", where
