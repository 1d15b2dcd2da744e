"""What people read beside the model: the figures of the run, and whatever others wrote as text."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llmaug.core.stage import Context
from llmaug.publish.model_card import data_card, model_card
from tests.report.test_report import FEW, manifests, without_generator
from tests.tables import write_finished

MakeContext = Callable[..., Context]
Found = dict[str, dict[str, Any]]
CARD: dict[str, Any] = {
    "arm": "augmented", "seed": 1, "run_id": "monday", "model_digest": "0123", "forced": None,
    "llmaug_version": "9.8",
    "gate": {"passed": True, "arm": "augmented", "reasons": ["a | lift <b>"], "segments": []},
}  # fmt: skip


def night(make_context: MakeContext, found: Found | None = None) -> Context:
    context = make_context("monday", publish={"name": "films"})
    for stage, manifest in (found or manifests(FEW)).items():
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


def test_what_a_chat_model_wrote_is_synthetic_though_no_generator_ran(
    make_context: MakeContext,
) -> None:
    """A night of `train.arms: [real, warmed]` has no stages `filtered` and `privacy`."""
    context, card = night(make_context, without_generator("warmed")), {**CARD, "arm": "warmed"}
    model, data = model_card(context, card), data_card(context, card)
    assert "- real events: 900\n- synthetic events: 300\n" in model
    assert "Its 300 synthetic events were not audited" in model and "not audited" in data
    assert "- synthetic events: 300\n- written by: a chat model (text tasks cold_items" in data
    assert "real events alone." not in data and "Trained on real events alone" not in model


def test_the_generator_is_no_part_of_an_arm_that_saw_none_of_its_events(
    make_context: MakeContext,
) -> None:
    """`fusion` beside `augmented`: what was generated and audited went into the other arm."""
    context = night(make_context, manifests(("real", "fusion", "augmented")))
    card = {**CARD, "arm": "fusion"}
    model, data = model_card(context, card), data_card(context, card)
    assert "None: this arm was trained on real events alone." in data and "accepted" not in data
    for text in (model, data):
        assert "Trained on real events alone" in text and "synthetic histories" not in text
