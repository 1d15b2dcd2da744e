"""Any file may be given as a config: it is read, or refused with a sentence.

The files of `corpus/config/` each stand for a kind: what must happen to each is said here.
"""

from __future__ import annotations

import math
import os
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from llmaug.config import Config, load_config, parse_config
from llmaug.errors import UserError

CORPUS = Path(__file__).parents[1] / "corpus" / "config"

_REFUSED = {
    "alias_of_itself": "line 1: an alias inside of what it stands for",
    "base_above": "lies outside",
    "base_abs": "base /etc/passwd lies outside",
    "base_colon": "secret_yaml.conf: no such config file",
    "base_dir": "base is a config file, not a folder",
    "base_int": "base is the path of another config",
    "base_list": "base is the path of another config",
    "base_loop": "its `base` leads back to itself",
    "base_loop2": "its `base` leads back to itself",
    "base_nul": "base is the path of another config",
    "base_zero": "base /dev/zero lies outside",
    "bomb_alias": "more than 100000 values (aliases count",
    "bomb_alias2": "more than 100000 values (aliases count",
    "bomb_merge": "more than 100000 values (aliases count",
    "deep": "line 1: nested deeper than 40 levels",
    "deepmap": "line 1: nested deeper than 40 levels",
    "dup": "line 3: 'gate' was given in line 2 already",
    "dup_flow": "line 1: 'path' was given in line 1 already",
    "inf_dates": "ingest.start: Input should be a valid date",
    "inf_text": "seed: Input should be a valid integer",
    "latin": "line 1 is not UTF-8 (byte 0xe9); save the file as UTF-8",
    "list": "a config is a mapping of sections, not a list",
    "list_as_key": "line 2: a key that is a list or a mapping",
    "long_number": "Exceeds the limit (4300 digits)",
    "nan": "ingest.sample_users: Input should be a finite number",
    "nan1": "gate.min_lift: Input should be a finite number",
    "nan2": "train.learning_rate: Input should be a finite number",
    "nan_text": "gate.min_lift: Input should be a finite number",
    "neg": "gate.min_lift: Input should be greater than or equal to -1",
    "no_anchor": "found undefined alias 'nothing'",
    "no_such_day": "day is out of range for month",
    "nul": "name: a text with a NUL",
    "numbers_as_keys": "1: Keys should be strings",
    "surrogate": "half of a surrogate pair",
    "tab": "line 2: found character '\\t'",
    "emptyname": "name: '' cannot be a folder's name",
    "names": "lm.name: '../../../x' cannot be a folder's name",
    "tag": "line 1: the tag !!python/object/apply:os.system",
    "tag_int": "line 1: the tag !!int",
    "text": "a config is a mapping of sections, not a str",
    "two_documents": "line 2: but found another document",
    "url_endpoint": "storage.endpoint_url: a URL with a password in it",
    "url_password": "storage.root: a URL with a password in it",
    "utf16": "is not UTF-8",
}
_READ = ("base_ok", "bom", "empty", "fmt", "merge_ok", "numbers", "ok", "only_a_comment", "regex")


@pytest.mark.parametrize("path", sorted(CORPUS.iterdir()), ids=lambda path: path.stem)
def test_each_config_of_the_corpus_is_read_or_refused_with_a_sentence(path: Path) -> None:
    if path.stem in _READ:
        assert isinstance(load_config(path), Config)
    else:
        with pytest.raises(UserError) as caught:
            load_config(path)
        message = caught.value.message
        assert _REFUSED[path.stem] in message
        assert len(message) < 2000
        for secret in ("wJalr", "AKIAEXAMPLE", "hunter2", "root:x:0"):
            assert secret not in message


def outcome_of(path: Path) -> Config | UserError:
    """What must happen; everything else that is raised fails the test."""
    begun = time.monotonic()
    try:
        return load_config(path)
    except UserError as error:
        assert str(path.parent) in error.message or path.name in error.message
        return error
    finally:
        assert time.monotonic() - begun < 60


def test_numbers_are_read_as_ever() -> None:
    """YAML 1.1 takes 1e-3 for a text; pydantic makes it a number."""
    config = load_config(CORPUS / "numbers.yaml")
    assert (config.train.learning_rate, config.train.yardsticks.popularity_days) == (1e-3, 10.0)


def test_a_merge_gives_what_yaml_says_and_own_keys_win() -> None:
    config = load_config(CORPUS / "merge_ok.yaml")
    assert (config.lm.num_steps, config.lm.num_layers, config.train.num_steps) == (5, 1, 5)


def test_a_base_may_lie_below_the_config_and_links_do_not_lead_out(tmp_path: Path) -> None:
    home = tmp_path / "home"
    (home / "below").mkdir(parents=True)
    (home / "below" / "base.yaml").write_text("base: ../other.yaml\nseed: 1\n")
    (home / "other.yaml").write_text("name: other\n")
    (home / "top.yaml").write_text("base: below/base.yaml\n")
    assert (load_config(home / "top.yaml").name, load_config(home / "top.yaml").seed) == (
        "other",
        1,
    )
    (tmp_path / "secret.yaml").write_text("name: secret\n")
    (home / "other.yaml").unlink()
    (home / "other.yaml").symlink_to(tmp_path / "secret.yaml")
    with pytest.raises(UserError, match="lies outside"):
        load_config(home / "top.yaml")


def test_a_config_map_whose_files_are_links_inside_it_is_read(tmp_path: Path) -> None:
    """Kubernetes mounts nightly.yaml -> ..data/nightly.yaml, and ..data -> ..2026_01_31."""
    (tmp_path / "..2026_01_31").mkdir()
    (tmp_path / "..data").symlink_to("..2026_01_31")
    for name, text in (("nightly", "base: base.yaml\n"), ("base", "name: night\n")):
        (tmp_path / "..2026_01_31" / f"{name}.yaml").write_text(text)
        (tmp_path / f"{name}.yaml").symlink_to(f"..data/{name}.yaml")
    assert load_config(tmp_path / "nightly.yaml").name == "night"


def test_what_is_no_file_is_refused_with_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "link.yaml").symlink_to("link.yaml")
    (tmp_path / "gone.yaml").symlink_to("nowhere")
    (tmp_path / "large.yaml").write_text("#" * (1 << 21))
    os.mkfifo(tmp_path / "pipe.yaml")
    (tmp_path / "on_a_pipe.yaml").write_text("base: pipe.yaml\n")
    for name in ("link.yaml", "gone.yaml", "large.yaml", "on_a_pipe.yaml", "", "x" * 5000):
        with pytest.raises(UserError, match="config file"):
            load_config(tmp_path / name)


def test_a_long_list_of_mistakes_is_cut(tmp_path: Path) -> None:
    path = tmp_path / "many.yaml"
    path.write_text("\n".join(f"key{number}: 1" for number in range(5_000)))
    with pytest.raises(UserError, match="and 4980 more"):
        load_config(path)


@settings(max_examples=200, deadline=None)
@given(data=st.binary(max_size=200))
def test_any_bytes_are_a_config_or_refused(tmp_path_factory: Any, data: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "any.yaml"
    path.write_bytes(data)
    outcome_of(path)


# Characters that mean something to YAML, and words that a config knows.
_MARKS = st.sampled_from(
    "\n \t:-?,[]{}#&*!|>'\"%@`~<=.0123456789abe\x00\\\u2028\ufeff"
)  # fmt: skip
_WORDS = st.sampled_from(
    ["name", "base", "gate", "min_lift", "plan", "strategies", "kind", ".nan", "-.inf", "1e5"]
    + ["<<:", "&a", "*a", "!!str", "!!timestamp", "2026-13-41", "0x", "0b2", "1:2:3", "yes"]
    + ["null", "---", "...", "%YAML"]
)


@settings(max_examples=300, deadline=None)
@given(parts=st.lists(st.one_of(_MARKS, _WORDS), max_size=40))
def test_anything_like_yaml_is_a_config_or_refused(tmp_path_factory: Any, parts: list[str]) -> None:
    path = tmp_path_factory.getbasetemp() / "like.yaml"
    path.write_text("".join(parts), encoding="utf-8")
    outcome_of(path)


_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.dates(),
    lambda below: st.lists(below, max_size=3) | st.dictionaries(st.text(max_size=5), below),
    max_leaves=5,
)


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_any_value_of_any_field_is_taken_or_refused(data: st.DataObject) -> None:
    section = data.draw(st.sampled_from(sorted(Config.model_fields)))
    fields = getattr(Config.model_fields[section].annotation, "model_fields", None)
    value = data.draw(_VALUES)
    if fields:
        value = {data.draw(st.sampled_from(sorted(fields))): value}
    try:
        config = parse_config({section: value}, "any")
    except UserError as error:
        assert error.message.startswith("any: ")
        return
    for number in numbers_in(config.model_dump()):
        assert math.isfinite(number)
    assert yaml.safe_load(yaml.safe_dump(config.model_dump(mode="json")))


def numbers_in(value: Any) -> list[float]:
    below = value.values() if isinstance(value, dict) else value
    if isinstance(below, int | float):
        return [below]
    if isinstance(below, str) or not hasattr(below, "__iter__"):
        return []
    return [number for part in below for number in numbers_in(part)]
