"""A config file as plain data: strict YAML, and the `base` that a variant builds on.

What is read may come from anybody: it is data of bounded size and depth, or a UserError that
names the file and the line. Contents of a file that is no config are never repeated.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from llmaug.config.kinds import Kinds
from llmaug.config.lm import BEHAVIOUR_MODELS
from llmaug.config.paths import located
from llmaug.config.train import RECOMMENDERS
from llmaug.errors import UserError
from llmaug.urls import ADVICE, has_password

SECTION_KINDS: dict[str, Kinds[Any]] = {"lm": BEHAVIOUR_MODELS, "train": RECOMMENDERS}
"""Sections that are of one of several kinds each."""

_MAX_BYTES = 1 << 20
_MAX_DEPTH = 40
_MAX_VALUES = 100_000  # aliases and merges count with all that they stand for
_MAX_BASES = 20


def read_config_file(path: Path) -> dict[str, Any]:
    """The sections of a config file, those of its `base` (and its base's) below them."""
    return _read(path, path.parent, ())


def plain_yaml(text: str, where: str) -> Any:
    """A YAML document of plain values: no tags, no key twice, nothing that grows by aliases."""
    loader = _StrictLoader("")
    try:
        loader = _StrictLoader(text)
        node = loader.get_single_node()
        if node is None:
            return None
        _num_values(node, {}, ())
        return loader.construct_document(node)  # type: ignore[no-untyped-call]
    except yaml.MarkedYAMLError as error:
        line = f"line {error.problem_mark.line + 1}: " if error.problem_mark else ""
        raise UserError(f"{where}: not a YAML file: {line}{error.problem}") from error
    except yaml.reader.ReaderError as error:
        found = f"character {error.character:#x} at position {error.position + 1}"
        raise UserError(f"{where}: not a YAML file: {found}: {error.reason}") from error
    except (ValueError, OverflowError) as error:  # 2026-02-30, a number of 5,000 digits
        raise UserError(f"{where}: not a YAML file: {error}") from error
    finally:
        loader.dispose()  # type: ignore[no-untyped-call]


def unusable_texts(raw: Any) -> Iterator[tuple[str, str]]:
    """(field, what is wrong) of texts that no file system takes, or that hold a password."""
    queue: list[tuple[str, Any]] = [("", raw)]
    while queue:
        field, value = queue.pop()
        if hasattr(value, "model_dump"):  # a section that was made already
            value = value.model_dump()
        if isinstance(value, dict):
            for key, below in value.items():
                queue += [(f"{field}.{key}".lstrip("."), below), ("a key", key)]
        elif isinstance(value, list | tuple):
            queue += [(f"{field}.{number}", below) for number, below in enumerate(value)]
        elif isinstance(value, str):
            if "\0" in value or not _encodes(value):
                wrong = "a text with a NUL or half of a surrogate pair"
                yield field, f"{wrong} cannot be a folder's name, a path or a column"
            elif has_password(value) and field.rpartition(".")[2] != "pattern":  # reads URLs
                yield field, ADVICE


def _read(path: Path, home: Path, above: tuple[Path, ...]) -> dict[str, Any]:
    found = Path(os.path.realpath(path))
    if found in above:
        raise UserError(f"{path}: its `base` leads back to itself")
    if len(above) > _MAX_BASES:
        raise UserError(f"{path}: more than {_MAX_BASES} configs build on each other")
    if above and not found.is_relative_to(os.path.realpath(home)):
        raise UserError(
            f"{above[-1]}: base {path} lies outside {home}, the folder of the config; "
            "put the base beside it or below"
        )
    raw = plain_yaml(_text(path, is_base=bool(above)), str(path))
    if raw is None:
        return {}
    if not isinstance(raw, dict):
        raise UserError(f"{path}: a config is a mapping of sections, not a {type(raw).__name__}")
    raw = located(raw, path)
    base = raw.pop("base", None)
    if base is None:
        return raw
    if not isinstance(base, str) or not base or any(unusable_texts(base)):
        raise UserError(f"{path}: base is the path of another config, such as demo.yaml")
    below = _read(path.parent / base, home, (*above, found))
    for section, kinds in SECTION_KINDS.items():
        if isinstance(below.get(section), dict) and isinstance(raw.get(section), dict):
            below[section] = kinds.kept(below[section], raw[section])
    return _merged(below, raw)


def _text(path: Path, is_base: bool) -> str:
    try:
        if is_base and path.exists() and not path.is_file():
            raise UserError(f"{path}: base is a config file, not a folder or a device")
        with path.open("rb") as file:
            data = file.read(_MAX_BYTES + 1)
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such config file; examples are in configs/") from error
    except OSError as error:
        why = error.strerror or "cannot be opened"
        raise UserError(f"{path}: cannot be read as a config file: {why}") from error
    if len(data) > _MAX_BYTES:
        raise UserError(f"{path}: larger than {_MAX_BYTES >> 20} MiB; this is no config file")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise UserError(
            f"{path}: line {line} is not UTF-8 (byte {data[error.start]:#04x}); save the file "
            "as UTF-8"
        ) from error


def _merged(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    out = dict(base)
    for key, value in changes.items():
        both = isinstance(value, dict) and isinstance(out.get(key), dict)
        out[key] = _merged(out[key], value) if both else value
    return out


def _encodes(text: str) -> bool:
    try:
        return bool(text.encode()) or not text
    except UnicodeEncodeError:
        return False


class _StrictLoader(yaml.SafeLoader):
    """SafeLoader that refuses tags, deep nesting and a key given twice."""

    _depth = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        event: Any = self.peek_event()  # type: ignore[no-untyped-call]
        if getattr(event, "tag", None):
            tag = str(event.tag).replace("tag:yaml.org,2002:", "!!")
            self._refuse(f"the tag {tag}; a config holds plain values", event)
        if self._depth == _MAX_DEPTH:
            self._refuse(f"nested deeper than {_MAX_DEPTH} levels", event)
        self._depth += 1
        try:
            return super().compose_node(parent, index)  # type: ignore[no-untyped-call]
        finally:
            self._depth -= 1

    def compose_mapping_node(self, anchor: Any) -> Any:
        node = super().compose_mapping_node(anchor)  # type: ignore[no-untyped-call]
        lines: dict[tuple[str, str], int] = {}
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                self._refuse("a key that is a list or a mapping", key)
            name = (key.tag, key.value)
            if name in lines:
                self._refuse(f"{key.value!r} was given in line {lines[name]} already", key)
            lines[name] = key.start_mark.line + 1
        return node

    @staticmethod
    def _refuse(problem: str, place: Any) -> None:
        raise yaml.constructor.ConstructorError(None, None, problem, place.start_mark)


def _num_values(node: yaml.Node, known: dict[int, int], above: tuple[int, ...]) -> int:
    """Values that the node stands for, aliases followed: each node is counted once."""
    if id(node) in above:
        _StrictLoader._refuse("an alias inside of what it stands for", node)
    if id(node) not in known:
        below: list[yaml.Node] = []
        if isinstance(node, yaml.MappingNode):
            below = [part for pair in node.value for part in pair]
        elif isinstance(node, yaml.SequenceNode):
            below = node.value
        path = (*above, id(node))
        known[id(node)] = 1 + sum(_num_values(part, known, path) for part in below)
    if known[id(node)] > _MAX_VALUES:
        _StrictLoader._refuse(
            f"more than {_MAX_VALUES} values (aliases count with all that they stand for)", node
        )
    return known[id(node)]
