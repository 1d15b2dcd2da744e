"""An edit runs those stages again whose results it may change, and no others.

Each module in turn gets a statement more, in a copy of the package; what every stage of a night
is made of is asked before and after. What is expected stands here in words of its own.
"""

from __future__ import annotations

import shutil
import zipfile
from functools import cache
from pathlib import Path
from typing import Any

import pytest

import llmaug
from llmaug.config import Config, parse_config
from llmaug.core.code_version import CHOSEN, CUT, code_version, reached
from llmaug.pipeline import stages

HOME = Path(llmaug.__file__).parent
MODULES = {
    ".".join(["llmaug", *path.relative_to(HOME).with_suffix("").parts]).removesuffix(".__init__")
    for path in HOME.rglob("*.py")
}

ARMS = ["real", "ngram", "augmented"]
MODELS = {f"model/{arm}" for arm in ARMS}
READERS = {"evaluation", "recommendations"}  # of trained models
ASKING = {"plan", "outcomes", "filtered"}  # of the generator, or reading its answers
BASELINE = {f"ngram/{name}" for name in (*ASKING, "lm/ngram")}
CHAT = {"folder": "{root}/chat", "context_len": 512}


MOOD = {"kind": "custom", "name": "mood", "template": "{{ title }}?",
        "json_schema": {"type": "object", "properties": {"mood": {"type": "string"}}}}  # fmt: skip
OF_TEXT = {f"text/{task}/{stage}" for task in ("describe_items", "mood")
           for stage in ("plan", "outcomes", "filtered", "rows")}  # fmt: skip


@cache
def night(
    lm: str = "causal",
    model: str = "sasrec",
    arms: str = "",
    asked: str = "continue",
    **generate: Any,
) -> Config:
    quota, from_run = generate.pop("quota", None), generate.pop("from_run", None)
    texts, reviews = generate.pop("texts", False), "reviewed" in arms
    images = generate.pop("images", False)
    shown = {"folder": "{root}/chat", "image_root": "i", "tasks": [{"kind": "caption_items"}]}
    told = [{"kind": "write_reviews"}, {"kind": "rerank"}, {"kind": "explain"}]
    cold = {"folder": "{root}/chat", "tasks": [{"kind": "cold_items"}, {"kind": "cold_users"}]}
    strategy: dict[str, Any] = {"kind": asked}
    of_all = ["real", "augmented"] if asked == "soft_events" else ARMS
    if lm == "instruct":
        strategy = {"kind": "choose"}
    if asked == "continue" and lm != "instruct":
        strategy["num_events"] = 2
    strategy["accepted_per_user"] = quota
    return parse_config(
        {
            "ingest": {"path": "logs", "items": {"path": "items"}, "users": {"path": "users"}},
            "lm": {"model": lm, "from_run": from_run, **(CHAT if lm == "instruct" else {})},
            "plan": {"strategies": [strategy]},
            "generate": generate,
            "text": {"folder": "{root}/chat", "tasks": [{"kind": "describe_items"}, MOOD]}
            if texts
            else {"folder": "{root}/chat", "tasks": told}
            if reviews
            else cold
            if "warmed" in arms
            else shown
            if images
            else {},
            "train": {"model": model, "arms": [*of_all, *arms.split()]},
        },
        "night",
    )


def versions(config: Config, package: Path) -> dict[str, str]:
    return {stage.name: code_version(stage.modules(config), package) for _, stage in stages(config)}


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    package = tmp_path_factory.mktemp("copy") / "llmaug"
    shutil.copytree(HOME, package, ignore=shutil.ignore_patterns("__pycache__"))
    return package


def run_again(copy: Path, module: str, config: Config, more: str = "\nedited = 1\n") -> set[str]:
    """Names of the stages that an edit of `module` runs again."""
    before = versions(config, copy)
    path = copy.joinpath(*module.split(".")[1:])
    path = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    text = path.read_text(encoding="utf-8")
    path.write_text(text + more, encoding="utf-8")
    try:
        after = versions(config, copy)
    finally:
        path.write_text(text, encoding="utf-8")
    return {name for name in before if before[name] != after[name]}


@pytest.mark.parametrize(
    ("module", "again"),
    [
        ("ingest.kcore", {"ingest"}),
        ("evaluate.significance", {"gate", "report"}),
        ("evaluate.metrics", {"evaluation"}),
        ("recommenders", MODELS | READERS),
        ("recommenders.sasrec", MODELS | READERS),
        ("recommenders.ease", set()),
        ("training.trainer", MODELS | {"lm/causal"}),
        ("training.validation", MODELS | {"lm/causal"}),
        ("training.ranking", MODELS | READERS | {"lm/causal"}),
        ("training.losses", MODELS | READERS | {"lm/causal"}),
        ("lm.folder", {"lm/causal"} | ASKING | BASELINE),
        ("lm.generator", ASKING | BASELINE - {"ngram/lm/ngram"}),
        ("lm.ngram.sampling", {"ngram/lm/ngram", "ngram/outcomes"}),
        ("lm.ngram.counts", {"ngram/lm/ngram", "ngram/outcomes"}),
        ("lm.causal.documents", {"lm/causal"}),
        ("lm.causal.item_logits", {"outcomes"}),
        ("config.plan", {"plan", "filtered", "ngram/plan", "ngram/filtered"}),
        ("lm.language", {"lm/causal"} | ASKING | BASELINE - {"ngram/lm/ngram"}),
        ("lm.masked.masking", set()),
        ("lm.chat.choices", set()),
        ("generate.engine_loop", {"outcomes", "ngram/outcomes"}),
        ("filter.stage", {"filtered", "ngram/filtered"}),
        ("filter.rules", {"filtered", "ngram/filtered"}),
        ("filter.real_runs", {"real_runs", "filtered", "ngram/filtered", "privacy"}),
        ("arms.baseline", BASELINE),
        ("arms.merge", {"merged/real", "merged/ngram", "merged/augmented"}),
        ("arms.shard_events", {"merged/real", "merged/ngram", "merged/augmented"}),
        ("publish.pointer", {"drift", "publish", "recommendations"}),
        ("report.stage", {"report"}),
    ],
)  # fmt: skip
def test_an_edit_runs_again_what_it_may_change(copy: Path, module: str, again: set[str]) -> None:
    assert run_again(copy, f"llmaug.{module}", night()) == again


@pytest.mark.parametrize(
    ("module", "config", "again"),
    [
        ("lm.masked.completion", night(lm="masked"), {"outcomes"}),
        ("lm.masked.model", night(lm="masked"), {"lm/masked"}),
        ("lm.ngram.sampling", night(lm="masked"), {"outcomes", "ngram/outcomes", "ngram/lm/ngram"}),
        ("lm.causal.model", night(lm="masked"), set()),
        ("lm.chat.choices", night(lm="instruct"), {"lm/instruct"} | ASKING),
        ("lm.chat.render_template", night(lm="instruct"), {"lm/instruct"}),
        ("lm.causal.model", night(engine="uniform"), set()),
        ("lm.causal.chances", night(), set()),
        ("lm.causal.chances", night(asked="soft_events"), {"outcomes"}),
        ("filter.rules", night(quota=1), {"outcomes", "filtered"} | {
            "ngram/outcomes", "ngram/filtered"}),
        ("text.custom", night(texts=True), {name for name in OF_TEXT if "mood" in name}),
        ("text.filters", night(texts=True),
         {"text/describe_items/filtered", "text/mood/filtered", "report"}),
        ("text.rows", night(texts=True), {"text/describe_items/rows", "text/mood/rows"}),
        ("text.endpoint", night(texts=True),
         {"text/describe_items/outcomes", "text/mood/outcomes"}),
        ("lm.chat.template", night(texts=True), {"text/model"}),
        ("text.write_reviews", night(model="linear_rating", arms="reviewed"),
         {f"text/write_reviews/{stage}" for stage in ("plan", "outcomes", "filtered", "rows")}),
        ("text.explain_pairs", night(model="linear_rating", arms="reviewed"),
         {"text/explain/candidates"}),
        ("text.titles", night(model="linear_rating", arms="reviewed"),
         {f"text/explain/{stage}" for stage in ("plan", "outcomes", "filtered", "rows")}),
        ("text.cold_users", night(arms="warmed"),
         {f"text/cold_users/{stage}" for stage in ("candidates", "plan", "outcomes", "filtered",
          "judge/plan", "judge/outcomes", "judge/filtered", "rows")}),
        ("arms.written", night(arms="warmed"),
         {"merged/real", "merged/ngram", "merged/augmented", "merged/warmed"}),
        ("evaluate.ratings", night(), {"evaluation"}),
        ("recommenders.ease", night(model="ease"), MODELS | READERS),
        ("recommenders.sasrec", night(model="ease"), set()),
        ("recommenders.ease", night(arms="ease"), {"model/ease"} | READERS),
        ("recommenders.popularity", night(arms="popularity"), {"model/popularity"} | READERS),
    ],
)  # fmt: skip
def test_the_kind_that_the_config_asks_for_is_what_counts(
    copy: Path, module: str, config: Config, again: set[str]
) -> None:
    assert run_again(copy, f"llmaug.{module}", config) == again


def test_every_module_decides_a_result_or_is_said_not_to() -> None:
    """Nothing that stages are made of is out of reach: found by import, named as a root, or cut
    with a reason."""
    nights = [night(lm=lm, arms="ease popularity", quota=1) for lm in ("masked", "causal")]
    nights += [night(lm="instruct"), night(model="linear"), night(model="two_tower")]
    nights += [night(from_run="earlier"), night(asked="soft_events"), night(texts=True)]
    nights += [night(model="linear_rating", arms="reviewed"), night(arms="warmed")]
    nights += [night(images=True)]
    found: set[str] = set()
    for config in nights:
        for _, stage in stages(config):
            found |= set(reached(stage.modules(config)))
    apart = (
        "llmaug.cli",
        "llmaug.commands",
        "llmaug.live",
        "llmaug.pipeline",
        "llmaug.testing",
        "llmaug.__main__",
    )
    left = {module for module in MODULES - found if not module.startswith((*apart, *CUT))}
    assert {module for module in left if not is_empty(module)} == {"llmaug"}


def is_empty(module: str) -> bool:
    folder = HOME.joinpath(*module.split(".")[1:])
    return folder.is_dir() and not (folder / "__init__.py").read_text(encoding="utf-8")


def test_the_place_of_the_package_does_not_count(copy: Path, tmp_path: Path) -> None:
    archive = shutil.make_archive(str(tmp_path / "wheel"), "zip", copy.parent)
    for _, stage in stages(night()):
        roots = stage.modules(night())
        assert code_version(roots) == code_version(roots, zipfile.Path(archive, "llmaug/"))


def test_what_is_cut_or_chosen_exists() -> None:
    assert set(CUT) | set(CHOSEN) <= MODULES


def test_every_kind_is_chosen() -> None:
    kinds = {
        "recommenders": ["ease", "linear", "linear_rating", "popularity", "sasrec", "two_tower"],
        "lm": ["causal", "chat", "masked", "ngram"],
        "filter": ["rules"],
    }
    assert set(CHOSEN) == {
        f"llmaug.{room}.{name}" for room, names in kinds.items() for name in names
    }


@pytest.mark.parametrize("module", ["cli.app", "commands.doctor", "pipeline", *sorted(
    module.removeprefix("llmaug.") for module in CUT)])  # fmt: skip
def test_what_is_around_the_stages_runs_none_again(copy: Path, module: str) -> None:
    assert run_again(copy, f"llmaug.{module}", night()) == set()


@pytest.mark.parametrize(
    ("edit", "counts"),
    [
        ("# why", False),
        ('"""What a name above it means."""', False),
        ("if TYPE_CHECKING:\n    from llmaug.report import stage", True),
        ("LIMIT = 2", True),
        ('def told():\n    "text"\n    return "text"', True),
    ],
)
def test_words_about_the_code_do_not_count(copy: Path, edit: str, counts: bool) -> None:
    again = run_again(copy, "llmaug.evaluate.gate", night(), f"\n{edit}\n")
    assert again == ({"gate", "report"} if counts else set())


def test_an_import_in_a_function_counts_and_one_for_type_checkers_does_not(
    copy: Path,
) -> None:
    gate = copy / "evaluate" / "gate.py"
    text = gate.read_text(encoding="utf-8")
    lazy = "\ndef late():\n    from llmaug.ingest.kcore import survivors\n"
    typed = "\nif TYPE_CHECKING:\n    from llmaug.ingest.kcore import survivors\n"
    for more, reaches in ((lazy, True), (typed, False)):
        gate.write_text(text + more, encoding="utf-8")
        try:
            assert ("llmaug.ingest.kcore" in reached(["llmaug.evaluate.gate"], copy)) == reaches
        finally:
            gate.write_text(text, encoding="utf-8")
