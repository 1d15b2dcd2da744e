"""What people read beside the model: the figures of the run, and whatever others wrote as text."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llmaug.core.stage import Context
from llmaug.publish.model_card import data_card, model_card
from tests.report.test_report import FEW, manifests
from tests.tables import write_finished

MakeContext = Callable[..., Context]
CARD: dict[str, Any] = {
    "arm": "augmented", "seed": 1, "run_id": "monday", "model_digest": "0123", "forced": None,
    "llmaug_version": "9.8",
    "gate": {"passed": True, "arm": "augmented", "reasons": ["a | lift <b>"], "segments": []},
}  # fmt: skip


def night(make_context: MakeContext) -> Context:
    context = make_context("monday", publish={"name": "films"})
    for stage, manifest in manifests(FEW).items():
        write_finished(context, stage, **manifest["counts"])
    return context


def test_the_model_card_says_what_it_learned_from_how_well_and_for_whom(
    make_context: MakeContext,
) -> None:
    text = model_card(night(make_context), CARD)
    assert text.startswith("# Model card: films\n")
    assert "- real events: 900\n- synthetic events: 300\n" in text
    assert "On held-out real events of 300 users" in text
    assert "| metric | augmented | low | high | real events alone | low | high |" in text
    assert "- ndcg@10 over real: " in text and "| history 4-7 | 300 |" in text
    assert "- 0 of 39 synthetic histories" in text and "AUC of 0.613" in text
    assert "- a \\| lift &lt;b>" in text
    assert text.endswith("- model digest: 0123\n- llmaug: 9.8\n")


def test_the_model_card_says_what_the_generator_spent_and_what_that_does_not_cover(
    make_context: MakeContext,
) -> None:
    context = night(make_context)
    spent = {"epsilon": 7.996, "delta": 1e-5, "unit": "user", "accountant": "RDP (opacus 1.6.0)"}
    write_finished(context, "lm/causal", private=spent)
    text = model_card(context, CARD)
    assert "trained by DP-SGD: epsilon 8.00 at delta 1e-05 for each user" in text
    assert "The recommender itself read the real events, and nothing is guaranteed of it." in text


def test_why_the_gate_was_overruled_stands_in_the_card(make_context: MakeContext) -> None:
    forced = {"reason": "the fair\nopens", "refused": [], "forced_utc": "2026-01-31", "gate": ""}
    refused = {**CARD["gate"], "passed": False}
    text = model_card(night(make_context), {**CARD, "forced": forced, "gate": refused})
    assert (
        "The gate refused the arm in question. It was overruled on 2026-01-31: the fair opens"
        in text
    )


def test_the_data_card_counts_what_came_in_and_what_was_generated(
    make_context: MakeContext,
) -> None:
    text = data_card(night(make_context), CARD)
    assert "- rows read: 1,000\n" in text and "- split: train: 900\n" in text
    assert (
        "- accepted: 39\n- rejected: 1\n" in text
        and "- events dropped.unwanted tag: 12,345" in text
    )


def test_a_model_of_real_events_alone_says_so(make_context: MakeContext) -> None:
    context, card = night(make_context), {**CARD, "arm": "real"}
    assert "real events alone" in data_card(context, card)
    assert "identify" not in model_card(context, card)
    assert "- synthetic events: 0\n" in model_card(context, card)
