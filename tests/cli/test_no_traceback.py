"""Whatever is wrong with the user's data, config or storage: a sentence, never a traceback."""

from __future__ import annotations

import errno
import io
import json
import os
import shutil
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import typer

from llmaug.cli import app as cli
from llmaug.commands import doctor
from llmaug.core import lease
from llmaug.errors import UserError
from tests.core.test_terminal import HOSTILE, OBEYED
from tests.nights import NIGHT, make_night, without_ray
from tests.soak import NIGHTS

ROOT = Path(__file__).parents[2]
# {root}, {config} and {pairs} are filled in.
ARGUMENTS = {
    "run": "-c {config} --root {root}",
    "status": "night --root {root}",
    "report": "night --root {root}",
    "forecast": "-c {config} --root {root}",
    "plan-cluster": f"-c {{config}} --root {{root}} --cluster {ROOT / 'cluster.yaml'}",
    "tune": "-c {config} --root {root} --minutes 0 --to tuned.yaml",
    "retry-failed": "night --root {root}",
    "evaluate": "--datasets {config} --root {root}",
    "publish": "night --root {root}",
    "recommend": "--root {root} --to tonight",
    "recommend --user": "u1 --root {root}",
    "score": "--pairs {pairs} --root {root}",
    "gc": "--root {root}",
    "submit": "-c {config}",
    "logs": "night",
    "stop": "night",
    "trace": "--model current --root {root}",
    "influence": "--run night --root {root}",
    "forget": "--user u1 --root {root}",
    "ab": "--exposures {pairs} --feedback {pairs} --control old --click click",
    "counterfactual": "--log {pairs}",
    "datasets": "ml-100k --to {root}/data --max-users 2",
    "config schema": "",
    "config check": "-c {config}",
    "schema": "metrics",
    "doctor": "--root {root}",
}
RUN_READERS = ("run", "status", "retry-failed", "publish")
MODEL_READERS = ("recommend --user", "score", "recommend", "publish")
READERS = ("run", "recommend --user", "publish", "evaluate", *RUN_READERS, *MODEL_READERS)
EVERY_PAIR = NIGHTS > 0  # each command after each damage: five minutes
NIGHT_FILES = f"runs/{NIGHT}"
MANIFEST = "_manifest.json"


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder `root` of a night; beside it its config, and pairs to score."""
    home = tmp_path_factory.mktemp("finished")
    with pytest.MonkeyPatch.context() as patch:
        without_ray(patch)
        make_night(home / "root", home)
    (home / "pairs.csv").write_text("user_id,item_id\nu1,a\nnobody,z\n", encoding="utf-8")
    return home / "root"


@pytest.fixture(autouse=True)
def no_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    """Commands run in this process: they must not touch the Ray of other tests."""
    without_ray(monkeypatch)

    def refuse(*_: object) -> None:
        raise UserError("this would start Ray")

    for name, module in list(sys.modules.items()):
        if name.startswith("llmaug.") and hasattr(module, "disconnect"):
            monkeypatch.setattr(module, "disconnect", lambda: None)
        if name.startswith("llmaug.") and hasattr(module, "connect"):
            monkeypatch.setattr(module, "connect", refuse)
    # A lease of another machine is watched for a minute; the one in the copies never moves.
    monkeypatch.setattr(lease.Lease, "_watch", lambda *_: True, raising=False)
    monkeypatch.setattr(doctor, "_PROBE", """print('{"broken": [], "cuda": false}')""")


@pytest.fixture
def call(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, finished: Path
) -> Callable[..., tuple[int, str]]:
    """`call("status", root)`: exit code and all that was printed; an exception goes through."""
    monkeypatch.chdir(tmp_path)

    def run(command: str, root: Path | str, **other: Path | str) -> tuple[int, str]:
        out, home = io.StringIO(), finished.parent
        places = {"root": root, "config": home / "config.yaml", "pairs": home / "pairs.csv"}
        given = [word.format(**places | other) for word in ARGUMENTS[command].split()]
        argv = [*command.split(), *given]
        with monkeypatch.context() as patch:
            patch.setattr(sys, "stdout", out)
            patch.setattr(sys, "stderr", out)
            try:
                cli.guarded(lambda: cli.app(argv))
            except SystemExit as end:
                return int(end.code or 0), out.getvalue()
        raise AssertionError("the command did not exit")

    return run


def commands(group: click.Group, above: str = "") -> Iterator[str]:
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from commands(command, f"{above}{name} ")  # type: ignore[arg-type]
        else:
            yield f"{above}{name}"


def test_every_command_is_in_the_corpus() -> None:
    known = set(commands(typer.main.get_command(cli.app)))  # type: ignore[arg-type]
    assert known == {name.split(" --")[0] for name in ARGUMENTS}


@pytest.mark.parametrize("command", ARGUMENTS)
def test_a_whole_night_is_read_by_every_command(
    command: str, finished: Path, tmp_path: Path, call: Callable[..., tuple[int, str]]
) -> None:
    """Without it the tests below would pass on anything."""
    root = copy(finished, tmp_path)
    code, said = call(command, root)
    refused = ("forecast", "tune", "influence", "retry-failed", "ab", "counterfactual")
    refused += ("submit", "logs", "stop")
    assert (code == 0) == (command not in refused), said


@pytest.mark.parametrize("as_json", [False, True])
def test_ids_that_a_terminal_would_obey(
    as_json: bool, tmp_path: Path, finished: Path, call: Callable[..., tuple[int, str]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    names = list(HOSTILE.values())
    rows = [(f"user {name}", item, hour) for name in names for hour, item in enumerate(names[-4:])]
    rows += [(f"user {name}", name, 9.0) for name in names]
    home, root = tmp_path / "home", tmp_path / "home/root"
    home.mkdir()
    make_night(root, home, rows=rows)
    options = {"config": home / "config.yaml"}
    for command in (*READERS[:4], "status", "score"):
        monkeypatch.setitem(ARGUMENTS, command, ARGUMENTS[command] + " --json" * as_json)
        if command == "score" and not as_json:
            continue  # its CSV is data
        if command == "recommend --user":
            monkeypatch.setitem(ARGUMENTS, command, ARGUMENTS[command].replace("u1", "{user}"))
        for user in names if command == "recommend --user" else names[:1]:
            code, said = call(command, root, user=f"user {user}", **options)
            assert not code, f"{command}: {said}"
            assert not [char for char in OBEYED if char in said], f"{command}: {ascii(said)}"
            assert "is not in the logs" not in said
    for page in (*root.glob("runs/night/report/*.html"), root / "datasets/datasets.html"):
        assert "<script>alert" not in page.read_text(encoding="utf-8")


# -- damage to what lies in storage ----------------------------------------------------------


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def as_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def full_folder(path: Path) -> None:
    as_folder(path)
    (path / "x").write_text("x")


def dangling(path: Path) -> None:
    path.unlink()
    path.symlink_to("/nowhere/at/all")


def circle(path: Path) -> None:
    path.unlink()
    path.symlink_to(path.name)


def binary(path: Path) -> None:
    path.write_bytes(bytes(range(256)) * 4)


def gone(path: Path) -> None:
    path.unlink()


def text(content: str) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        path.write_text(content, encoding="utf-8")

    write.__name__ = content[:12]
    return write


def other_types(path: Path) -> None:
    """Each value becomes one of another type."""
    value = json.loads(path.read_text(encoding="utf-8"))
    swapped = {key: {"x": 1} if not isinstance(v, dict) else [1] for key, v in value.items()}
    path.write_text(json.dumps(swapped), encoding="utf-8")


def other_table(path: Path) -> None:
    pq.write_table(pa.table({"other": [1, 2]}), path)


ANY_FILE = [gone, empty, cut, binary, as_folder, full_folder, dangling, circle]
JSONS = [*ANY_FILE, text("null"), text("[]"), text("{}"), text("[1, 2]"), text('"text"'), text("7"),
         text("[" * 100_000), text('{"a": 1}{"b": 2}'), text('\ufeff{"stages": []}'),
         text('{"stages": null, "config": 5, "parts": [null], "counts": [], "seconds": "x"}'),
         text('{"stages": [5], "config": {"lm": 5}, "parts": {}, "version": "../../etc"}'),
         other_types]  # fmt: skip
TABLES = [*ANY_FILE, text("no table"), text("PAR1PAR1"), other_table]
# Files that commands read before anything else: all kinds. Others: each kind comes round.
FIRST_READ = {
    f"{NIGHT_FILES}/run.json": (*RUN_READERS, "recommend --user"),
    f"{NIGHT_FILES}/progress.json": ("status",),
    f"{NIGHT_FILES}/lease.json": RUN_READERS,
    f"{NIGHT_FILES}/ingest/{MANIFEST}": ("run", "status", "publish"),
    f"{NIGHT_FILES}/gate/{MANIFEST}": ("run", "status", "publish"),
    f"{NIGHT_FILES}/report/metrics.json": ("run", "evaluate"),
    "published/recommender/CURRENT": MODEL_READERS,
    "published/recommender/versions/*/config.json": ("recommend --user", "score", "recommend"),
}


def copy(finished: Path, to: Path) -> Path:
    root = to / "root"
    shutil.copytree(finished, root, symlinks=True, copy_function=os.link)
    holder = {"host": "elsewhere", "pid": 1, "heartbeat": 0.0, "token": "x"}
    (root / NIGHT_FILES / "lease.json").write_text(json.dumps(holder))
    return root


def wrong(code: int, said: str) -> str | None:
    """What is wrong with an answer: it must have gone well, or say what to mend."""
    if code not in (0, 1, 2):
        return f"exit code {code}"
    words = ("error", "failed:", "wrong")  # the last is the doctor's
    if "Traceback" in said or (code and not any(word in said.lower() for word in words)):
        return said[-500:]
    return None


def attack(
    finished: Path, to: Path, path: str, kind: Callable[[Path], None], command: str, call: Callable
) -> list[str]:
    """What went wrong: nothing should have."""
    root = copy(finished, to)
    data = (root / path).read_bytes()
    (root / path).unlink()  # the copy is made of links
    (root / path).write_bytes(data)
    kind(root / path)
    try:
        found = wrong(*call(command, root))
    except Exception as error:
        step = traceback.extract_tb(error.__traceback__)[-1]
        found = f"{type(error).__name__}: {error} ({step.filename}:{step.lineno})"
    shutil.rmtree(root)
    return [f"{command} after {kind.__name__} of {path}: {found}"] if found else []


@pytest.mark.parametrize("path", FIRST_READ)
def test_damaged_files_that_commands_begin_with(
    path: str, finished: Path, tmp_path: Path, call: Callable[..., tuple[int, str]]
) -> None:
    failures, readers = [], FIRST_READ[path]
    path = str(next(finished.glob(path)).relative_to(finished)) if "*" in path else path
    for number, kind in enumerate(JSONS):
        for command in readers if EVERY_PAIR else [readers[number % len(readers)]]:
            failures += attack(finished, tmp_path, path, kind, command, call)
    assert not failures, "\n".join(failures)


def test_any_damaged_file_of_a_night(
    finished: Path, tmp_path: Path, call: Callable[..., tuple[int, str]]
) -> None:
    files = sorted(str(p.relative_to(finished)) for p in finished.rglob("*") if p.is_file())
    failures = []
    for number, path in enumerate(path for path in files if path not in FIRST_READ):
        kinds = JSONS if path.endswith(".json") else TABLES
        readers = MODEL_READERS if path.startswith("published") else READERS
        for command in READERS if EVERY_PAIR else [readers[number % len(readers)]]:
            failures += attack(finished, tmp_path, path, kinds[number % len(kinds)], command, call)
    assert not failures, "\n".join(failures)


# -- places, names and files that users give -------------------------------------------------

ROOTS = {
    "s3a://bucket/logs": "write s3://bucket/logs",
    "s3n://bucket/logs": "write s3://bucket/logs",
    "S3://bucket/logs": "write s3://bucket/logs",
    "gs://bucket/logs": "through its S3 interface",
    "hdfs://name/logs": "folders or s3://bucket/prefix",
    "abfss://account/logs": "folders or s3://bucket/prefix",
    "http://example.org/x": "folders or s3://bucket/prefix",
    "://": "folders or s3://bucket/prefix",
    "nights/*": "not a pattern",
    "s3://bucket/*/x": "not a pattern",
    "night[12]": "not a pattern",
    "no/such/place": "",
    "/proc/self/mem": "",
    "/dev/null": "",
    "x" * 300: "",
    "a" * 300 + "/" + "b" * 5000: "",
    "[/x]\x1b[2J\u202e": "",
}


@pytest.mark.parametrize("root", ROOTS)
def test_roots_that_are_none(root: str, call: Callable[..., tuple[int, str]]) -> None:
    for command in ARGUMENTS:
        if "{root}" not in ARGUMENTS[command] or command == "datasets" and not ROOTS[root]:
            continue
        code, said = call(command, root)
        assert not (found := wrong(code, said)), f"{command}: {found}"
        if command != "doctor" and ROOTS[root]:
            assert (code, ROOTS[root] in said) == (1, True), f"{command}: {said}"
        assert "\x1b" not in said and "\u202e" not in said


@pytest.mark.parametrize(
    "run_id",
    ["x" * 300, "..", ".", "", "a/b", "/etc", "[/x]", "\x1b[31m", "日本", "a b", "*", "\udcff"],
)
def test_run_ids_that_are_none(
    run_id: str, finished: Path, tmp_path: Path, call: Callable[..., tuple[int, str]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    root = copy(finished, tmp_path)
    for command in ("run", "status", "retry-failed", "publish", "forecast", "plan-cluster"):
        monkeypatch.setitem(ARGUMENTS, command, "{id} --root {root}")
        if command in ("run", "forecast", "plan-cluster"):
            monkeypatch.setitem(ARGUMENTS, command, "-c {config} --root {root} --run-id {id}")
        assert not (found := wrong(*call(command, root, id=run_id))), f"{command}: {found}"


@pytest.mark.parametrize("name", ["x" * 300, "..", "nobody", "[/x]", "a/b"])
def test_names_of_models_that_are_none(
    name: str, finished: Path, tmp_path: Path, call: Callable[..., tuple[int, str]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    root = copy(finished, tmp_path)
    for command in MODEL_READERS[:3]:
        monkeypatch.setitem(ARGUMENTS, command, ARGUMENTS[command] + " --name {name}")
        code, said = call(command, root, name=name)
        assert code == 1 and not wrong(code, said), f"{command}: {said}"


def test_storage_that_may_not_be_read_or_written(
    finished: Path, tmp_path: Path, call: Callable[..., tuple[int, str]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """Whoever runs the tests may be root, whom no mode stops."""
    root = copy(finished, tmp_path)
    read, make = Path.read_bytes, tempfile.mkstemp
    for forbidden in ("runs", "published"):

        def read_bytes(path: Path, forbidden: str = forbidden) -> bytes:
            if f"/{forbidden}/" in str(path):
                raise PermissionError(errno.EACCES, "Permission denied", str(path))
            return read(path)

        def mkstemp(*arguments: Any, **options: Any) -> Any:
            raise OSError(errno.EROFS, "Read-only file system")

        monkeypatch.setattr(Path, "read_bytes", read_bytes)
        for command in READERS:
            assert not (found := wrong(*call(command, root))), f"{command}: {found}"
        monkeypatch.setattr(Path, "read_bytes", read)
        monkeypatch.setattr(tempfile, "mkstemp", mkstemp)
        for command in READERS:
            assert not (found := wrong(*call(command, root))), f"{command}: {found}"
        monkeypatch.setattr(tempfile, "mkstemp", make)


FILES = {
    "empty": b"",
    "header": b"user_id,variant,timestamp,item_id,action\n",
    "binary": bytes(range(256)),
    "not csv": b'user_id,item_id\n"u1',
    "json": b'[{"user_id": 1}]',
    "nul": b"user_id,item_id\n\0,\0\n",
    "latin": "user_id,item_id\nJos\u00e9,a\n".encode("latin-1"),
    "utf16": "user_id\nx\n".encode("utf-16"),
    "hostile": b"user_id,item_id\n[/x],\x1b[2J\n",
    "other columns": b"a,b\n1,2\n",
    "long": b"user_id,item_id\n" + b"x" * 200_000 + b",a\n",
    "times": b"user_id,variant,timestamp,item_id,action\nu,old,never,a,click\n",
}  # fmt: skip


@pytest.mark.parametrize("ending", ["csv", "jsonl", "parquet", "csv.gz", "txt"])
@pytest.mark.parametrize("content", FILES)
def test_tables_that_are_none(
    content: str, ending: str, tmp_path: Path, finished: Path,
    call: Callable[..., tuple[int, str]],
) -> None:  # fmt: skip
    file = tmp_path / f"[x].{ending}"
    file.write_bytes(FILES[content])
    for command in ("ab", "counterfactual", "score")[: 3 if ending == "csv" else 2]:
        code, said = call(command, finished, pairs=file)
        assert not (found := wrong(code, said)), f"{command}: {found}"
        assert command == "score" or "\x1b" not in said  # a CSV file holds what it was given


@pytest.mark.parametrize("kind", [gone, as_folder, full_folder, dangling, circle])
def test_files_that_are_no_files(
    kind: Callable[[Path], None], tmp_path: Path, finished: Path,
    call: Callable[..., tuple[int, str]],
) -> None:  # fmt: skip
    given = tmp_path / "given.csv"
    for command in ("ab", "counterfactual", "score", "run", "evaluate", "forecast", "config check"):
        given.write_text("x", encoding="utf-8")
        kind(given)
        code, said = call(command, finished, pairs=given, config=given)
        assert code == 1 and not (found := wrong(code, said)), f"{command}: {found or said}"
        shutil.rmtree(given) if given.is_dir() else given.unlink(missing_ok=True)


CONFIGS = [
    "",
    "5",
    "[]",
    "text",
    "a: b: c",
    "\x00",
    "base: 5",
    "base: [1]",
    "base: .",
    "base: no.yaml",
    "base: config.yaml",
    "ingest: 5",
    "ingest: {path: 5}",
    "ingest: {items: 5}",
    "ingest: {path: [a, b]}",
    "name: 5",
    'name: "[/x]"',
    "name: ../../etc",
    "nmae: x",
    "train: {seeds: []}",
    "train: {seeds: x}",
    "plan: {strategies: [{kind: nothing}]}",
    "plan: {strategies: 5}",
    "storage: {root: 's3a://x'}",
    "storage: {root: ['x']}",
    "ray: {address: 5}",
    "split: {kind: [/x]}",
    "? [a]\n: b",
    "a: &a [*a]",
    "!!python/name:os.x",
    "ingest: {path: s3a://bucket/x}",
    "ingest: {path: 'hdfs://x/y'}",
    "ingest: {path: /no/where}",
    "{" * 2000,
    "lm: {folder: no/such}",
]


@pytest.mark.parametrize("content", CONFIGS)
def test_configs_that_are_none(
    content: str, tmp_path: Path, call: Callable[..., tuple[int, str]]
) -> None:
    config = tmp_path / "config.yaml"
    config.write_text(content, encoding="utf-8")
    for command in ("run", "forecast", "plan-cluster", "tune", "evaluate", "config check"):
        found = wrong(*call(command, tmp_path / "root", config=config))
        assert not found, f"{command}: {found}"
