"""The page and the tables of a run, for few arms and for many."""

from __future__ import annotations

import io
import json
import re
from html.parser import HTMLParser
from typing import Any

import numpy as np
import pytest

from llmaug.cli import summary
from llmaug.config import Config
from llmaug.core.terminal import Terminal
from llmaug.evaluate import gate
from llmaug.evaluate.comparison import Lists, figures, segments, sum_ranks
from llmaug.report import stage as report
from llmaug.report.page import render
from llmaug.report.plots import plain
from llmaug.report.sentences import unfinished
from tests.evaluate.test_comparison import random_ranks

FEW = ("real", "augmented")
MANY = ("real", "oversampled", "duplicate", "fusion", "augmented", "augmented_fusion")
CONFIG = Config()
TRAIN_EVENTS = np.array([4, 2, 2, 1, 1, 0])


def manifests(arms: tuple[str, ...], seeds: tuple[int, ...] = (1,)) -> dict[str, dict[str, Any]]:
    """Those of a finished run of 300 test users whose ranks are random."""
    models = [(arm, seed) for arm in arms for seed in seeds]
    tables = [random_ranks(300, number) for number in range(len(models))]
    sums = sum_ranks(tables, segments(TRAIN_EVENTS), CONFIG.evaluate, seed=7)
    lists = {(m, k): Lists(np.array([9, 3, 1, 0, 0, 0])) for m in models for k in (10, 20)}
    found = figures(sums, lists, models, TRAIN_EVENTS, CONFIG.evaluate, seed=7)
    found["satisfaction"], found["labels"] = {}, {}
    trained = {"model_digest": "0", "num_targets": 900, "steps": 800, "best_step": 500,
               "validation_ndcg": 0.1}  # fmt: skip
    counts: dict[str, dict[str, Any]] = {
        "ingest": {"rows_read": 1000},
        "split": {"train": 900},
        "filtered": {
            "units": 40,
            "accepted": 39,
            "rejected": 1,
            "rejected.copied": 1,
            "events_dropped.unwanted_tag": 12345,
        },  # a filter from elsewhere
        "outcomes": {"output_tokens_per_s": 100.0, "engine_seconds": 2.0},
        "merged/real": {"real": 900},
        "merged/oversampled": {"real": 1200},
        "merged/duplicate": {"real": 900, "synthetic": 900},
        "merged/augmented": {"real": 900, "synthetic": 300},
        **{f"model/{arm}": {f"seed-{seed}": trained for seed in seeds} for arm in arms},
        "evaluation": found,
        "privacy": {
            "synthetic": 39,
            "identifying": 0,
            "identifying_share": 0.0,
            "run_len": 5,
            "min_run_users": 5,
            "membership": {"pairs": 300, "auc": 0.613, "low": 0.57, "high": 0.656, "tpr": 0.04},
        },
        "gate": gate.decide(found, CONFIG.gate, CONFIG.evaluate),
        "publish": {
            "run_id": "r",
            "version": "v",
            "uri": "file:///tmp/published",
            "arm": "real",
            "forced": None,
        },
    }
    stage = {"seconds": 1.0, "peak_rss_mb": 100, "fingerprint": "0123456789abcdef"}
    return {name: {**stage, "counts": own} for name, own in counts.items()}


def without_generator(arm: str) -> dict[str, dict[str, Any]]:
    """Those of a night in which a chat model wrote the 300 events that `arm` adds, and nothing
    else was generated."""
    found = manifests(FEW)
    for name in ("outcomes", "filtered", "privacy", "merged/oversampled", "merged/duplicate"):
        del found[name]
    renamed = json.dumps(found).replace('"augmented"', f'"{arm}"')
    return dict(json.loads(renamed.replace("/augmented", f"/{arm}")))


VOID = ("meta", "input")


class Cells(HTMLParser):
    """The rows of a page's tables, and whether all tags are closed in order."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.rows: list[list[str]] = []
        self._open: list[str] = []
        self.feed(page)
        assert not self._open

    def handle_starttag(self, tag: str, attributes: Any) -> None:
        if tag not in VOID:
            self._open.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if {"td", "th"} & set(self._open):
            self.rows[-1][-1] += data


def page_of(found: dict[str, dict[str, Any]]) -> str:
    return render(CONFIG, "r", report.collect(found, set()), found)


@pytest.mark.parametrize("arms", [("real",), FEW, MANY])
def test_every_arm_has_its_row_in_every_table(arms: tuple[str, ...]) -> None:
    found = manifests(arms)
    metrics = report.collect(found, skipped=set())
    tables = tables_of(render(CONFIG, "r", metrics, found))
    for name in ("arms", "metrics", "lists", "plot-arms-numbers"):
        assert [row[0] for row in tables[name][1:]] == list(arms), name
    lifts = [row[-1] for row in tables["arms"][1:]]
    assert lifts[0] == "" and all("%" in lift for lift in lifts[1:])
    of_segments = [(row[0], row[2]) for row in tables["segments"][1:]]
    assert of_segments == [(own["segment"], own["arm"]) for own in metrics["segments"]]
    assert tables["reasons"][1:] == [
        ["events_dropped.unwanted_tag", "12,345"], ["rejected.copied", "1"]
    ]  # fmt: skip


def tables_of(page: str) -> dict[str, list[list[str]]]:
    """By id: the rows of a page's tables, headings first."""
    return {
        name: Cells(f"<table>{body}</table>").rows
        for name, body in re.findall(r'<table class="data" id="([\w-]+)">(.*?)</table>', page, re.S)
    }


def test_the_control_is_compared_with_in_words() -> None:
    compared = [row[:2] for row in tables_of(page_of(manifests(MANY)))["compared"]]
    assert ["augmented", "oversampled"] in compared
    assert ["augmented_fusion", "fusion"] in compared


@pytest.mark.parametrize(
    ("seeds", "words"),
    [((1,), "do not cover the choice of seed"), ((1, 2, 3), "over users and over the 3 seeds")],
)
def test_the_page_says_what_the_intervals_cover(seeds: tuple[int, ...], words: str) -> None:
    found = manifests(FEW, seeds)
    assert words in page_of(found)


def test_metrics_hold_what_each_arm_was_trained_on() -> None:
    training = report.collect(manifests(MANY, (1, 2)), set())["training"]
    assert (training["oversampled"]["real"], training["oversampled"]["synthetic"]) == (1200, 0)
    assert (training["fusion"]["real"], training["fusion"]["synthetic"]) == (900, 0)
    assert training["augmented_fusion"]["synthetic"] == 300
    assert [seed["seed"] for seed in training["real"]["seeds"]] == ["1", "2"]


@pytest.mark.parametrize(
    ("ndcg", "words"), [(0.12, "synthetic events can teach"), (0.1, "expect little")]
)
def test_the_page_says_whether_the_generator_knows_more_than_the_recommender(
    ndcg: float, words: str
) -> None:
    found = manifests(FEW, (1, 2))
    found["lm/causal"] = {**found["model/real"], "counts": {"validation_ndcg": ndcg}}
    metrics = report.collect(found, set())
    assert metrics["generator"]["real_validation_ndcg"] == pytest.approx(0.1)
    page = render(CONFIG, "r", metrics, found)
    assert f"NDCG@10 {ndcg:.4f}" in page and words in page


def test_a_generator_that_was_not_measured_is_not_compared() -> None:
    found = manifests(FEW)
    found["lm/ngram"] = {**found["model/real"], "counts": {}}
    metrics = report.collect(found, set())
    assert metrics["generator"] is None
    assert "The generator itself" not in render(CONFIG, "r", metrics, found)


def test_satisfaction_is_a_table_that_says_what_it_cannot_say() -> None:
    found = manifests(FEW)
    for arm, rating in zip(FEW, (3.25, 3.5), strict=True):
        share = {"mean": 0.0625, "low": 0.05, "high": 0.075}
        found["evaluation"]["counts"]["satisfaction"][arm] = {
            "num_users": 300, "num_users_with_ratings": 290, "num_users_rated": 20,
            "num_users_with_own_mean": 0, "num_rated": 21, "rated_share": share,
            "rating": {"mean": rating, "low": 3.0, "high": 4.0}, "liked_share": share,
            "held_out_rating": share, "at_least_own_mean_share": None, "over_own_mean": None,
        }  # fmt: skip
    metrics = report.collect(found, set())
    assert metrics["satisfaction"]["augmented"]["rating"]["mean"] == 3.5
    page = render(CONFIG, "r", metrics, found)
    rows = {row[0]: row for row in tables_of(page)["satisfaction"][1:]}
    assert [(arm, row[1]) for arm, row in rows.items()] == [("real", "290"), ("augmented", "290")]
    assert rows["augmented"][4].startswith("3.50") and rows["augmented"][6] == "n/a"
    assert "not as a proof" in page


def test_probabilities_of_pairs_have_a_table_of_their_own() -> None:
    found = manifests(FEW)
    share = {"mean": 0.4321, "low": 0.4, "high": 0.5}
    found["evaluation"]["counts"]["labels"]["real"] = {"log_loss": share, "rmse": share}
    metrics = report.collect(found, set())
    assert metrics["labels"]["real"]["rmse"]["mean"] == 0.4321
    rows = tables_of(render(CONFIG, "r", metrics, found))["labels"]
    assert rows[1:] == [["real", "0.4321 (0.4000 to 0.5000)", "0.4321 (0.4000 to 0.5000)"]]


def test_without_ratings_the_page_says_so_and_shows_no_table() -> None:
    found = manifests(FEW)
    page = page_of(found)
    assert "carry no ratings" in page
    assert "users who rated later" not in page


@pytest.mark.parametrize("arms", [("real",), FEW, MANY])
def test_the_summary_has_a_row_for_each_arm_on_80_columns(arms: tuple[str, ...]) -> None:
    metrics = report.collect(manifests(arms), set())
    first, second = (
        [line.split() for line in shown(make(metrics)).splitlines()]
        for make in (summary._arms, summary._lifts)
    )
    assert [row[0] for row in first if row[0] in arms] == list(arms)
    compared = [(row[0], row[1]) for row in second if row[0] in arms and "%" in row[-1]]
    assert {arm for arm, _ in compared} == set(arms) - {"real"}
    assert (("augmented", "oversampled") in compared) == ("oversampled" in arms)


def shown(table: Any) -> str:
    console = Terminal(width=80, record=True, file=io.StringIO())
    console.print(table)
    return console.export_text()


def test_passes_over_real_histories_count_what_is_mixed_and_what_is_not() -> None:
    """60 steps of 8 of 48 sequences, half of them real, then 20 steps of real ones alone."""
    facts = {
        "model_digest": "d", "num_targets": 100, "steps": 80, "best_step": 70,
        "validation_ndcg": 0.1, "batch_size": 8, "sequences": 48, "real_sequences": 16,
        "finetune_after": 60,
    }  # fmt: skip
    assert report._seed("1", facts)["real_passes"] == 20.0
    assert report._seed("1", {**facts, "finetune_after": None})["real_passes"] == 13.3


def test_a_real_arm_that_was_best_at_its_last_step_is_told() -> None:
    def training(best: int) -> dict[str, Any]:
        return {"real": {"seeds": [{"seed": "1", "steps": 80, "best_step": best}]}}

    assert unfinished(training(70)) is None
    assert "seed 1" in str(unfinished(training(80)))


@pytest.mark.parametrize(
    ("stopped_by", "values", "axis"),
    [("ndcg", [0.01, 0.02], "NDCG@10 of validation"),
     ("negative_rmse", [-1.1, -0.95], "minus RMSE of validation")],
)  # fmt: skip
def test_a_learning_curve_is_of_what_stopped_the_training(
    stopped_by: str, values: list[float], axis: str
) -> None:
    """`linear_rating` stops by the RMSE of the validation ratings."""
    found = manifests(("real",))
    (seed,) = found["model/real"]["counts"].values()
    curve = [{"step": 100 * n, "loss": 1.0, "value": v} for n, v in enumerate(values, start=1)]
    seed |= {"curve": curve, f"validation_{stopped_by}": max(values)}
    numbers = tables_of(page_of(found))["plot-learning-numbers"]
    assert axis in numbers[0] and numbers[-1][-1] == plain(values[-1])
