"""What earlier versions stored is read, and scores as it did; what a later one stored is refused
in a sentence."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import torch

from llmaug import __version__, recommenders
from llmaug.commands.force import publish_run
from llmaug.commands.status import read_status
from llmaug.config import (
    CopiedConfig,
    FiltersConfig,
    LinearConfig,
    NgramConfig,
    PrivacyConfig,
    SasrecConfig,
    YardsticksConfig,
)
from llmaug.config.filters import RepeatedConfig, TooShortConfig
from llmaug.core import formats
from llmaug.core.contents import check_stage, read_manifest
from llmaug.core.formats import Format
from llmaug.core.storage import Storage
from llmaug.core.stored import read_config, read_note, read_run
from llmaug.errors import UserError
from llmaug.lm import folder
from llmaug.lm.folder import read_notes
from llmaug.plan.parts import read_parts
from llmaug.publish import pointer
from llmaug.publish.recommend import for_user, score_pairs
from llmaug.report.stage import load_metrics
from llmaug.schema import OUTCOME
from tests.format_corpus import KINDS, PAIRS, QUESTION, UNITS
from tests.nights import NIGHT, without_ray

CORPUS = Path(__file__).parents[1] / "corpus/formats"
NIGHT_RUN, MODEL = f"runs/{NIGHT}", "models/sasrec"
SPLIT, REPORT = f"{NIGHT_RUN}/split", f"{NIGHT_RUN}/report"
LATER = {"format_version": 99, "llmaug_version": "7.0.0"}


@pytest.fixture(params=sorted(path.name for path in CORPUS.iterdir()))
def old(request: pytest.FixtureRequest, tmp_path: Path) -> Storage:
    """A copy of what one earlier version stored."""
    shutil.copytree(CORPUS / request.param, tmp_path, dirs_exist_ok=True)
    return Storage(str(tmp_path))


def expected(storage: Storage) -> dict[str, Any]:
    return dict(storage.read_json("expected.json"))


def change(storage: Storage, edit: dict[str, Any], *names: str) -> None:
    storage.write_json({**storage.read_json(*names), **edit}, *names)


# -- earlier versions ----------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_an_old_model_scores_as_it_did(old: Storage, kind: str) -> None:
    written = expected(old)["scores"][kind]
    model, words, _ = recommenders.load_recommender(old, f"models/{kind}", written["model_digest"])
    assert words.item_ids == list("abcd")
    with torch.no_grad():
        found = model.score(*QUESTION)
    assert torch.allclose(found, torch.tensor(written["scores"]), atol=1e-6)


def test_an_old_run_is_looked_at(old: Storage) -> None:
    stages = read_status(old, NIGHT)["stages"]
    assert [stage["name"] for stage in stages][-2:] == ["recommendations", "report"]
    assert {stage["state"] for stage in stages} == {"done"}
    for stage in stages:
        check_stage(old, NIGHT, stage["name"], verify=True)
    assert load_metrics(old, NIGHT) == expected(old)["metrics"]
    assert read_config(old, NIGHT).train.model == "popularity"


def test_an_old_published_model_serves_as_it_did(old: Storage) -> None:
    lists = {user: for_user(old, "recommender", user, 3) for user in ("u1", "stranger")}
    assert json.loads(json.dumps(lists)) == expected(old)["lists"]
    assert score_pairs(old, "recommender", PAIRS) == expected(old)["pairs"]


def test_an_old_run_is_published_anew_and_rolled_back(
    old: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_ray(monkeypatch)
    before = pointer.current(old, "recommender")
    assert publish_run(old, NIGHT)["outcome"] == pointer.ALREADY_CURRENT
    version = before["version"].rpartition("/")[2]
    assert pointer.roll_back(old, "recommender", version)["held"]["reason"] == "rolled back"
    now = pointer.current(old, "recommender")
    assert (now["version"], now["format_version"]) == (before["version"], formats.CARD.version)


def test_old_plans_and_outcomes_are_read(old: Storage) -> None:
    plan, outcomes = f"runs/{UNITS}/plan", f"runs/{UNITS}/outcomes"
    found = {}
    for part in read_parts(old, plan):
        units = old.read_part(plan, part.name, ["unit_id"], formats.UNITS)
        answers = old.read_part(outcomes, part.name, stored=formats.OUTCOMES)
        assert answers["unit_id"].to_pylist() == units["unit_id"].to_pylist()
        assert set(answers.schema.names) >= set(OUTCOME.names)
        assert answers["soft_tokens"].null_count == len(answers)  # of format 1
        assert read_note(old, outcomes, part.name)["counts"]["units"] == len(units)
        found |= {row["unit_id"]: row["status"] for row in answers.to_pylist()}
    assert found == expected(old)["outcomes"]


# -- upgrades ------------------------------------------------------------------------------


def test_an_upgrade_is_done_once_for_each_format_between(tmp_path: Path) -> None:
    steps: list[Callable[[dict], dict]] = [
        lambda value: {"width": value["size"]},
        lambda value: {**value, "depth": 1},
    ]
    second, third = Format("thing", tuple(steps[:1])), Format("thing", tuple(steps))
    assert third.upgraded({"size": 4}, "here") == {"format_version": 3, "width": 4, "depth": 1}
    of_second = {**second.stamp, "width": 5}
    assert third.upgraded(of_second, "here") == {**of_second, "format_version": 3, "depth": 1}
    of_today = {**third.stamp, "width": 6, "depth": 7}
    assert third.upgraded(of_today, "here") == of_today
    with pytest.raises(UserError, match="here: damaged: no thing of format 1"):
        third.upgraded({"weight": 4}, "here")


def test_a_field_of_a_model_that_was_renamed_is_carried_over(
    old: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As if this version called `embedding_dim` what the stored one calls `width`."""
    facts = old.read_json(MODEL, "config.json")
    facts["config"]["width"] = facts["config"].pop("embedding_dim")
    old.write_json(facts, MODEL, "config.json")
    old.delete(MODEL, "files.json")

    with pytest.raises(UserError) as caught:
        recommenders.load_recommender(old, MODEL)
    assert old.uri(MODEL, "config.json") in caught.value.message
    assert "config.width: unknown key" in caught.value.message
    assert "written by llmaug" in caught.value.message

    def renamed(facts: dict[str, Any]) -> dict[str, Any]:
        config = {"embedding_dim" if k == "width" else k: v for k, v in facts["config"].items()}
        return {**facts, "config": config}

    upgrades = (*formats.MODEL.upgrades, renamed)
    monkeypatch.setattr(recommenders, "MODEL", replace(formats.MODEL, upgrades=upgrades))
    model, *_ = recommenders.load_recommender(old, MODEL)
    assert model.items.weight.shape[1] == 4


def test_a_field_of_a_runs_config_that_nobody_knows_is_a_sentence(old: Storage) -> None:
    run = old.read_json(NIGHT_RUN, "run.json")
    run["config"]["train"]["momentum"] = 1
    old.write_json(run, NIGHT_RUN, "run.json")
    with pytest.raises(UserError, match="momentum") as caught:
        read_config(old, NIGHT)
    assert "It was written by llmaug" in caught.value.message
    assert f"this is {__version__}" in caught.value.message


def test_a_column_that_was_renamed_is_carried_over(tmp_path: Path) -> None:
    storage, first = Storage(str(tmp_path)), Format("table of things")
    second = Format(first.name, (lambda table: table.rename_columns(["id", "width"]),))
    table = pa.table({"id": ["a"], "size": [1]})
    storage.write_part(table, {}, "things", "unmarked")
    storage.write_part(first.stamped(table), {}, "things", "first")
    storage.write_part(second.stamped(second.upgrades[0](table)), {}, "things", "second")
    for part in storage.parts("things"):
        read = storage.read_part("things", part, stored=second)
        assert read.to_pylist() == [{"id": "a", "width": 1}]
        assert storage.read_part("things", part, ["width"], second).column_names == ["width"]
    with pytest.raises(UserError, match=r"second.parquet: table of things of format 2, written by"):
        storage.read_part("things", "second", stored=first)


def test_sections_that_had_the_fields_of_all_kinds_keep_those_of_their_own(old: Storage) -> None:
    """An old run's other sections are those of the corpus: every field stood in each of them."""
    run = old.read_json(NIGHT_RUN, "run.json")
    run["config"]["train"] |= {"model": "linear", "loss": None, "ease_l2": 2.0, "num_negatives": 1}
    run["config"]["lm"] |= {"model": "ngram", "order": 2}
    run["config"]["filters"] |= {"min_events": 3, "repeats": "allow", "copied_ngram": 4}
    run["config"]["gate"]["min_run_users"] = 6
    old.write_json(run, NIGHT_RUN, "run.json")
    config = read_config(old, NIGHT)
    assert config.train == LinearConfig(num_negatives=1, yardsticks=YardsticksConfig(ease_l2=2.0))
    assert config.lm == NgramConfig(order=2, name="causal")
    assert config.filters == FiltersConfig(
        repeats="allow", rules=[RepeatedConfig(), TooShortConfig(min_events=3), CopiedConfig()]
    )
    assert config.privacy == PrivacyConfig(run_len=4, min_run_users=6)


@pytest.mark.parametrize("lm", ["causal", "masked", "ngram", "instruct"])
@pytest.mark.parametrize("train", ["sasrec", "two_tower", "linear", "ease", "popularity"])
def test_an_old_run_of_any_kind_is_read(old: Storage, train: str, lm: str) -> None:
    run = old.read_json(NIGHT_RUN, "run.json")
    run["config"]["train"]["model"], run["config"]["lm"]["model"] = train, lm
    if lm == "instruct":
        run["config"]["lm"] |= {"folder": "{root}/chat", "context_len": 512}
    old.write_json(run, NIGHT_RUN, "run.json")
    config = read_config(old, NIGHT)
    assert (config.train.model, config.lm.model) == (train, lm)


# -- later versions ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("place", "read"),
    [
        ((NIGHT_RUN, "run.json"), lambda s: read_run(s, NIGHT)),
        ((NIGHT_RUN, "run.json"), lambda s: read_config(s, NIGHT)),
        ((SPLIT, "_manifest.json"), lambda s: read_manifest(s, SPLIT)),
        ((SPLIT, "_manifest.json"), lambda s: read_status(s, NIGHT)),
        ((REPORT, "_manifest.json"), lambda s: load_metrics(s, NIGHT)),
        (("published/recommender", "CURRENT"), lambda s: pointer.current(s, "recommender")),
        (("published/recommender", "CURRENT"), lambda s: pointer.roll_back(s, "recommender")),
        (
            (f"runs/{UNITS}/outcomes", "1-new-users-00000.json"),
            lambda s: read_note(s, f"runs/{UNITS}/outcomes", "1-new-users-00000"),
        ),
    ],
)  # fmt: skip
def test_what_a_later_version_wrote_is_refused(
    old: Storage, place: tuple[str, str], read: Callable[[Storage], Any]
) -> None:
    change(old, LATER, *place)
    with pytest.raises(UserError) as caught:
        read(old)
    assert caught.value.message.startswith(old.uri(*place))
    assert "of format 99, written by llmaug 7.0.0" in caught.value.message
    assert "install llmaug 7.0.0 or later" in caught.value.message


def test_a_model_of_a_later_version_is_refused(old: Storage) -> None:
    change(old, LATER, MODEL, "config.json")
    old.delete(MODEL, "files.json")
    with pytest.raises(UserError, match="recommender of format 99, written by llmaug 7.0.0"):
        recommenders.load_recommender(old, MODEL)


@pytest.mark.parametrize("kind", ["causal", "masked", "ngram", "instruct"])
def test_a_behaviour_model_of_a_later_version_is_refused(tmp_path: Path, kind: str) -> None:
    storage = Storage(str(tmp_path))
    storage.write_json({**LATER, "family": kind}, "lm", "llmaug.json")  # other names by then
    with pytest.raises(UserError) as caught:
        read_notes(storage, "lm", kind)
    assert caught.value.message.startswith(storage.uri("lm", "llmaug.json"))
    assert "behaviour model of format 99, written by llmaug 7.0.0" in caught.value.message


def test_a_behaviour_model_of_an_earlier_version_is_upgraded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that says no format, as if this version called `most` what it called `order`."""
    storage = Storage(str(tmp_path))
    storage.write_json({"model": "ngram", "order": 3}, "lm", "llmaug.json")
    assert read_notes(storage, "lm", "ngram")["order"] == 3
    renamed = Format("behaviour model", (lambda notes: {**notes, "most": notes["order"]},))
    monkeypatch.setattr(folder, "LANGUAGE_MODEL", renamed)
    assert read_notes(storage, "lm", "ngram")["most"] == 3


def test_after_a_downgrade_one_can_roll_back(old: Storage) -> None:
    """CURRENT, and the version that it points to, are a later llmaug's."""
    version = pointer.current(old, "recommender")["version"]
    newest = "published/recommender/versions/tomorrow-1"
    card = {**old.read_json(version, "published.json"), **LATER, "version": newest}
    old.write_json(card, newest, "published.json")
    old.write_json(card, "published/recommender", "CURRENT")
    pointer.roll_back(old, "recommender", version.rpartition("/")[2])
    assert pointer.current(old, "recommender")["version"] == version


@pytest.mark.parametrize("said", [None, "2", 0, 1.5, True, []])
def test_a_format_that_is_no_number_is_damage(old: Storage, said: Any) -> None:
    change(old, {"format_version": said}, NIGHT_RUN, "run.json")
    with pytest.raises(UserError, match="run.json: damaged: format_version is"):
        read_run(old, NIGHT)


# -- today ---------------------------------------------------------------------------------


def test_what_is_written_today_says_so(old: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    without_ray(monkeypatch)
    publish_run(old, NIGHT)
    manifest = read_manifest(old, f"{NIGHT_RUN}/publish") or {}
    part = read_note(old, f"{NIGHT_RUN}/recommendations", "part-00000")
    model, words, _ = recommenders.load_recommender(old, MODEL)
    config = SasrecConfig(embedding_dim=4)
    recommenders.save_recommender(old, "again", model, config, words)
    written = {
        formats.MANIFEST: manifest,
        formats.NOTE: part,
        formats.MODEL: old.read_json("again", "config.json"),
    }
    for of, value in written.items():
        assert value.items() >= of.stamp.items()
