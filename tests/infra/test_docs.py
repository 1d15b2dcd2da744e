"""The pages say what is there: links, config fields, options, folders and reasons."""

from __future__ import annotations

import ast
import re
import shlex
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from typer.main import get_command

from llmaug.cli.app import app
from llmaug.config import FILTERS, Config, name_of
from llmaug.ingest.item_fields import FIELDS
from llmaug.ingest.ledger import NOTED
from llmaug.live.experiment import EXPOSURE_FATES, FEEDBACK_FATES
from scripts.config_reference import models_in, reference

ROOT = Path(__file__).parents[2]
DOCS = sorted((ROOT / "docs").rglob("*.md"))
PAGES = [
    ROOT / "README.md",
    ROOT / "README.zh.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "infra" / "README.md",
    *DOCS,
]
MADE = ROOT / "docs" / "reference" / "config.md"  # by scripts/config_reference.py
EACH_PAGE = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))


def test_the_readme_is_read_in_one_go() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= 200


def test_the_readme_has_every_folder_of_the_package_in_the_order_of_the_rooms() -> None:
    tree = (ROOT / "README.md").read_text().split("## Folders")[1]
    named = re.findall(r"^  (\w+)/ ", tree, re.MULTILINE)
    there = {path.parent.name for path in (ROOT / "llmaug").glob("*/__init__.py")}
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]
    rooms = [room for room in reversed(contracts["contracts"][0]["layers"]) if room in there]
    assert set(named) == there
    assert named == rooms
    top = re.findall(r"^(\w+)/ ", tree, re.MULTILINE)
    assert top and all((ROOT / name).is_dir() for name in top)


def test_the_chinese_readme_keeps_step_with_the_english_one() -> None:
    """The same commands and configs, figures, links and sections (the tree of folders is left to
    the English one)."""
    english, chinese = ((ROOT / name).read_text() for name in ("README.md", "README.zh.md"))
    english = english.split("## Folders")[0]
    assert _code(english) == _code(chinese)
    for found in (r"^#+ ", r"[+-]\d[\d.]*%", r"^\|", r"^- "):
        ours, theirs = (len(re.findall(found, text, re.MULTILINE)) for text in (english, chinese))
        assert ours == theirs, found
    numbers = [sorted(re.findall(r"\d[\d.]*%", text)) for text in (english, chinese)]
    assert numbers[0] == numbers[1]
    links = [set(re.findall(r"\]\(([^)]+)\)", text)) for text in (english, chinese)]
    assert links[0] - {"README.zh.md"} == links[1] - {"README.md", "LICENSE"}


def _code(page: str) -> list[str]:
    """Fenced and indented blocks, line by line."""
    fenced = "\n".join(re.findall(r"^```.*?^```", page, re.MULTILINE | re.DOTALL))
    return [*fenced.splitlines(), *re.findall(r"^ {4}\S.*$", page, re.MULTILINE)]


def test_every_alert_has_a_page_that_says_what_to_do() -> None:
    alerts = yaml.safe_load((ROOT / "infra/prometheus/alerts.yaml").read_text())
    fired = {rule["alert"] for group in alerts["groups"] for rule in group["rules"]}
    page = (ROOT / "docs/operations.md").read_text()
    assert fired == set(re.findall(r"^## (Llmaug\w+)$", page, re.MULTILINE))


@EACH_PAGE
def test_links_lead_somewhere(page: Path) -> None:
    for link in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", _prose(page)):
        target = (page.parent / link).resolve()
        assert "://" in link or target.exists() or target == MADE, link


@EACH_PAGE
def test_files_that_are_named_are_there(page: Path) -> None:
    folders = "llmaug|configs|jobs|examples|benchmarks|scripts|tests|infra"
    for name in re.findall(rf"`((?:{folders})/[\w./-]+)`", page.read_text()):
        assert (ROOT / name).exists() or "NAME" in name, name


@EACH_PAGE
def test_config_fields_that_are_named_exist(page: Path) -> None:
    """`section.field`, in prose and in code."""
    known = _fields()
    sections = "|".join({name.split(".")[0] for name in known})
    ends = "py|yaml|json|md|parquet"
    for name in re.findall(rf"`((?:{sections})\.[a-z_]+)\b(?!\.(?:{ends}))", page.read_text()):
        if name.split(".")[1] not in ends.split("|"):
            assert name in known, name


@EACH_PAGE
def test_commands_that_are_shown_have_these_options(page: Path) -> None:
    for line in re.findall(r"^ {4}(?:\$ )?(llmaug .*)$", page.read_text(), re.MULTILINE):
        words = shlex.split(line, comments=True)[1:]
        command = get_command(app)
        while words and words[0] in getattr(command, "commands", {}):
            command = command.commands[words.pop(0)]
        assert not hasattr(command, "commands"), f"no such command: {line}"
        known = {option for each in command.params for option in each.opts} | {"--help"}
        assert {word for word in words if word.startswith("-")} <= known, line


def test_every_page_stands_in_the_menu_and_nothing_else_does() -> None:
    settings = yaml.safe_load((ROOT / "mkdocs.yml").read_text())
    menu = set(re.findall(r"[\w/-]+\.md", str(settings["nav"])))
    pages = {str(page.relative_to(ROOT / "docs")) for page in [*DOCS, MADE]}
    assert menu == pages


def test_the_config_reference_has_every_field_with_its_meaning() -> None:
    page = reference()
    for name in _fields():
        section, field = name.split(".", 1)
        rows = page.split(f"\n## {section}\n")[1].split("\n## ")[0]
        (row, *_) = re.findall(rf"^\| `{field}` \|.*\| (.*) \|$", rows, re.MULTILINE)
        assert row.strip(), f"{name} is not described"
    assert "### plan: NewUsersConfig" in page


def test_every_reason_is_explained() -> None:
    listed = set(re.findall(r"`(\w+)`", (ROOT / "docs" / "reasons.md").read_text()))
    found = set(_reasons())
    assert {"bad_csv", "null_item_id", "bot", "k_core", "copied", "engine_crashed", "unparsable",
            "refused_by_engine", "left_out", "thinned_out", "duplicate_id"} <= found  # fmt: skip
    assert found <= listed, f"not in docs/reasons.md: {sorted(found - listed)}"


def _prose(page: Path) -> str:
    return re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)


def _fields() -> set[str]:
    """`section.field` of everything in the config; of all kinds where a section has several."""
    schema = Config.model_json_schema()
    return {
        f"{section}.{name}"
        for section, field in schema["properties"].items()
        for model in models_in(field)
        for name in schema["$defs"][model]["properties"]
    }


def _reasons() -> Iterator[str]:
    """What the code puts down as the reason of a row, an event, a unit or a line of feedback."""
    yield from ("outside_catalogue", *(name_of(each, "kind") for each in FILTERS))
    yield from NOTED
    yield from (f"bad_{name}" for name in FIELDS)
    yield from (*EXPOSURE_FATES, *FEEDBACK_FATES)
    yield from ("left_out", "left_out_by_budget", "not_needed", "thinned_out")
    for path in (ROOT / "llmaug").rglob("*.py"):
        if path.parent.name == "live":  # its columns are in the last sentence of the page
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            yield from _reasons_at(node)


PLACES = {"Refused": 1, "put": 1, "_dropped": 2}
"""Functions that are handed a reason: which of their arguments it is."""


def _reasons_at(node: ast.AST) -> Iterator[str]:
    if isinstance(node, ast.Call):
        name = getattr(node.func, "attr", None) or getattr(node.func, "id", None)
        place = PLACES.get(name or "")
        if place is not None and len(node.args) > place:
            yield from _texts(node.args[place])
        for keyword in node.keywords:
            if keyword.arg == "reason":
                yield from _texts(keyword.value)
    elif isinstance(node, ast.Dict):  # of a row
        for key, value in zip(node.keys, node.values, strict=True):
            if isinstance(key, ast.Constant) and key.value == "reason":
                yield from _texts(value)
    elif isinstance(node, ast.Tuple) and len(node.elts) == 3:  # (number, reason, detail) of a unit
        yield from (text for text in _texts(node.elts[1]) if text.endswith(("_engine", "_crashed")))
    elif isinstance(node, ast.Constant) and isinstance(node.value, str):
        yield from re.findall(r"^(?:dropped|quarantined)\.(\w+)$", node.value)
        yield from re.findall(r"^([a-z]+_by_engine): ", node.value)


def _texts(node: ast.expr) -> Iterator[str]:
    """The text of a constant; `null_{name}` stands for users and items."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        yield node.value
    elif isinstance(node, ast.JoinedStr) and isinstance(node.values[0], ast.Constant):
        for name in ("user_id", "item_id"):
            yield f"{node.values[0].value}{name}"
