"""Names: what is accepted comes back from storage as it was given, the rest is a sentence."""

from __future__ import annotations

import tempfile
import unicodedata
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmaug import pipeline
from llmaug.config import load_config, parse_config
from llmaug.config.names import check_folder, check_name, run_folder
from llmaug.core.storage import Storage
from llmaug.errors import UserError

LIKELY = st.text(st.characters(codec="utf-8", categories=("L", "M", "N")) | st.sampled_from("._-"))
ANY = LIKELY | st.text() | st.text(min_size=120, max_size=140)


@pytest.mark.parametrize(
    "name", ["n1", "2026-01-31", "a..b", "A.b_c-", "1" * 128, "夜間", "ночь", "हिन्दी"]
)
def test_ordinary_names_of_every_script_are_welcome(name: str) -> None:
    assert check_name(name) == unicodedata.normalize("NFC", name)


@pytest.mark.parametrize(
    "name",
    ["", ".", "..", "../../esc", "n1/ingest", "/etc", "-rf", "_hidden", ".hidden", "a b", "a\0b",
     "a\nb", "a\\b", "a:b", "~", "*", "%2e%2e", "½", "\u0301a", "\ud800", "夜" * 67, "1" * 129],
)  # fmt: skip
def test_what_no_folder_should_be_called_is_refused(name: str) -> None:
    with pytest.raises(UserError, match="--run-id .* begins with a letter or a digit") as caught:
        check_name(name, "--run-id")
    assert len(caught.value.message) < 500 and caught.value.message.isprintable()
    with pytest.raises(UserError):
        run_folder(name)


def test_one_look_is_one_name() -> None:
    """An accent typed apart from its letter (as macOS does in file names) is the same run."""
    assert check_name("cafe\u0301") == check_name("caf\u00e9") == "caf\u00e9"


@settings(max_examples=200, deadline=None)
@given(ANY)
def test_an_accepted_name_comes_back_from_storage(name: str) -> None:
    try:
        accepted = check_name(name)
    except UserError:
        return
    with tempfile.TemporaryDirectory() as root:
        storage = Storage(root)
        folder, digest = f"{accepted}-0123456789abcdef", "x" * 20
        storage.write(b"1", accepted, folder, f"{accepted}-{digest}")
        assert storage.names() == [accepted]
        assert storage.names(accepted) == [folder]
        assert storage.names(accepted, folder) == [f"{accepted}-{digest}"]
        assert check_name(storage.names()[0]) == accepted


@pytest.mark.parametrize("path", ["tonight", "recs/2026-01-31", "runs-of-mine", "a/runs"])
def test_output_may_lie_in_folders_of_folders(path: str) -> None:
    assert check_folder(path, "--to") == path


@pytest.mark.parametrize(
    "path",
    ["", "/", ".", "..", "../victim", "a/../b", "/tmp/x", "a//b", "a/", "runs", "Runs", "published",
     "published/m", "logs", "logs/events", "outcomes_cache", "clean_logs", "models", "datasets", "s3://b/c"],
)  # fmt: skip
def test_output_goes_neither_out_of_the_root_nor_over_what_is_ours(path: str) -> None:
    with pytest.raises(UserError, match="^--to "):
        check_folder(path, "--to")


@pytest.mark.parametrize(
    ("section", "field"),
    [({"name": "../x"}, "name"), ({"name": ""}, "name"), ({"name": "a b"}, "name"),
     ({"publish": {"name": "../y"}}, "publish.name"), ({"publish": {"name": ""}}, "publish.name"),
     ({"lm": {"name": "../../../x"}}, "lm.name"), ({"lm": {"from_run": "n1/lm"}}, "lm.from_run"),
     ({"lm": {"warm_start": ".."}}, "lm.warm_start")],
)  # fmt: skip
def test_names_in_a_config_follow_the_rule(section: dict, field: str) -> None:
    with pytest.raises(UserError, match=rf"^config: {field}: .*cannot be a folder's name"):
        parse_config(section)


@pytest.mark.parametrize("config", ["demo", "demo_thin", "three_ways", "instruct"])
def test_the_names_in_our_own_configs_do(config: str) -> None:
    assert check_name(load_config(f"configs/{config}.yaml").name)


def test_a_folder_of_somebody_elses_runs_is_not_taken_for_one_of_ours(tmp_path: Path) -> None:
    theirs = tmp_path / "runs" / "exp1" / "ingest" / "weights.pt"
    theirs.parent.mkdir(parents=True)
    theirs.write_text("months of training")
    with pytest.raises(UserError, match="runs/exp1: holds files and is no run of llmaug"):
        pipeline.run(parse_config({}), Storage(str(tmp_path)), "exp1")
    assert [p.name for p in tmp_path.rglob("*")] == ["runs", "exp1", "ingest", "weights.pt"]


def test_what_a_deleted_run_leaves_on_a_disk_does_not_keep_its_name_from_others(
    tmp_path: Path,
) -> None:
    (tmp_path / "runs" / "night" / "ingest").mkdir(parents=True)
    (tmp_path / "runs" / "night" / "lease.json.lock").touch()
    pipeline._refuse_others(Storage(str(tmp_path)), "runs/night")
