"""MODEL_CARD.md and DATA_CARD.md beside a published model, for people.

What it is for, what it was trained on, how well it does and for whom, what is known of privacy, and
where it comes from (Mitchell et al. 2019; Pushkarna et al. 2022). The figures are those of the
run's report; no user is named.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from llmaug.arms.arms import AUGMENTED, DUPLICATE, NGRAM, REAL, REVIEWED, SHARDS, WARMED
from llmaug.core.contents import read_manifest
from llmaug.core.stage import Context
from llmaug.evaluate.bootstrap import lift_text
from llmaug.evaluate.figures import identifying_text, measured_value, membership_text, private_text

MODEL_CARD, DATA_CARD = "MODEL_CARD.md", "DATA_CARD.md"
# Who wrote the synthetic events of shards that are not the generator's.
_WRITERS = {
    DUPLICATE: "nobody: every user once more",
    NGRAM: "a trigram model",
    REVIEWED: "a chat model (text task write_reviews)",
    WARMED: "a chat model (text tasks cold_items and cold_users)",
}


def cards(context: Context, card: dict[str, Any]) -> dict[str, str]:
    """{file: Markdown} of the version that `card` describes; stages that did not happen are left
    out."""
    return {MODEL_CARD: model_card(context, card), DATA_CARD: data_card(context, card)}


def model_card(context: Context, card: dict[str, Any]) -> str:
    config, figures = context.config, _counts(context, "evaluation")
    arm = card["arm"]
    lines = [
        f"# Model card: {config.publish.name}",
        f"A recommender (`{config.train.model}`) of arm `{arm}`, seed {card['seed']}: it reads "
        "what somebody did and ranks the catalogue for what comes next.",
        "## Use",
        "- For: lists of items for users of the same service, the later part of whose histories "
        "looks like the training events.",
        "- Not for: decisions about people, other catalogues, or items that it has never seen.",
        f"- `llmaug recommend --name {config.publish.name}` asks it; its items: `items.parquet`.",
        "## Trained on",
        *_trained(context, arm),
        "## How well it does",
        *_measured(figures, arm),
        "## For whom",
        *_segments(figures, arm),
        "## Why it went out",
        *_decision(card),
        "## Privacy",
        *_privacy(context, arm),
        "## Where it comes from",
        *_bullets(
            {
                "run": card["run_id"],
                "model digest": card["model_digest"],
                "llmaug": card["llmaug_version"],
            }
        ),
    ]
    return _text(lines)


def data_card(context: Context, card: dict[str, Any]) -> str:
    config = context.config
    ingest, split = _counts(context, "ingest"), _counts(context, "split")
    lines = [
        f"# Data card: what {config.publish.name} was trained on",
        "The model's folder holds no events; this says what they were.",
        "## Real events",
        *_bullets({**_numbers(ingest), **{f"split: {n}": v for n, v in _numbers(split).items()}}),
        f"- Split: `{config.split.kind}`; held-out events are never trained on.",
    ]
    shards, events = SHARDS[card["arm"]], _events(context, card["arm"])
    lines += ["## Synthetic events"]
    if not _any_synthetic(events):
        lines += ["None: this arm was trained on real events alone."]
    elif shards == AUGMENTED:
        filtered, plan = _counts(context, "filtered"), _counts(context, "plan")
        fidelity = _counts(context, "fidelity").get("found")
        measured = {
            name: value
            for name in ("popularity_js", "popularity_spearman", "length_ks", "gap_ks", "hour_js",
                         "transition_js", "tail_coverage", "classifier_auc")
            if (value := measured_value(fidelity, name)) is not None
        }  # fmt: skip
        lines += [
            *_bullets({"generator": plan.get("generator", "unknown"),
                       "strategies": ", ".join(own.kind for own in config.plan.strategies)}),
            *_bullets(_numbers(filtered)),
            "## How like the real ones",
            *_bullets({name: f"{value:.3f}" for name, value in measured.items()}),
        ]  # fmt: skip
    else:
        lines += [
            *_bullets({"synthetic events": events["synthetic"], "written by": _WRITERS[shards]}),
            "How like the real ones they are was not measured.",
        ]
    lines += ["## Privacy", *_privacy(context, card["arm"])]
    return _text(lines)


def _counts(context: Context, stage: str) -> dict[str, Any]:
    manifest = read_manifest(context.storage, context.folder(stage))
    return manifest["counts"] if manifest else {}


def _events(context: Context, arm: str) -> dict[str, Any]:
    """Counts of what the arm was trained on."""
    return _counts(context, f"merged/{SHARDS[arm]}")


def _any_synthetic(events: dict[str, Any]) -> bool:
    """Soft targets are the generator's, too."""
    return bool(events.get("synthetic") or events.get("soft"))


def _trained(context: Context, arm: str) -> list[str]:
    events = _events(context, arm)
    return _bullets({f"{name} events": events.get(name, 0) for name in ("real", "synthetic")})


def _measured(figures: dict[str, Any], arm: str) -> list[str]:
    if not figures.get("num_users") or arm not in figures["arms"]:
        return ["Nothing was held out: nothing was measured."]
    both = figures["arms"][arm], figures["arms"][REAL]
    rows = [
        (name, *(f"{own[name][end]:.4f}" for own in both for end in ("mean", "low", "high")))
        for name in both[0]
    ]
    head = ("metric", arm, "low", "high", "real events alone", "low", "high")
    lifts = [
        f"- {own['metric']} over {own['against']}: {lift_text(own)}"
        for own in figures["lifts"]
        if own["arm"] == arm and own["metric"] == next(iter(figures["arms"][arm]))
    ]
    who = f"On held-out real events of {figures['num_users']:,} users; 95% intervals."
    return [who, "\n".join([_row(head), _row(["---"] * len(head)), *map(_row, rows)]), *lifts]


def _segments(figures: dict[str, Any], arm: str) -> list[str]:
    parts = [own for own in figures.get("segments", []) if own["arm"] == arm]
    if not parts:
        return ["Segments of users were not compared."]
    rows = [
        (own["segment"], f"{own['num_users']:,}", f"{own['mean']:.4f}",
         f"{own['difference']['low']:+.4f} to {own['difference']['high']:+.4f}"
         if own.get("difference") else "")
        for own in parts
    ]  # fmt: skip
    head = ("segment", "users", parts[0]["metric"], "difference to real (95%)")
    return ["\n".join([_row(head), _row(["---"] * 4), *map(_row, rows)])]


def _decision(card: dict[str, Any]) -> list[str]:
    gate, forced = card["gate"], card["forced"]
    said = "The gate passed." if gate["passed"] else "The gate refused the arm in question."
    if forced:
        said += f" It was overruled on {forced['forced_utc']}: {_plain(forced['reason'])}"
    return [said, *(f"- {_plain(reason)}" for reason in gate["reasons"])]


def _privacy(context: Context, arm: str) -> list[str]:
    events = _events(context, arm)
    if not _any_synthetic(events):
        return ["Trained on real events alone; no guarantee is given for those who are in them."]
    audit = _counts(context, "privacy")
    if SHARDS[arm] != AUGMENTED or not audit:
        return [
            f"Its {events['synthetic']:,} synthetic events were not audited for copies; no "
            "guarantee is given for those who are in the real ones."
        ]
    told = [identifying_text(audit)]
    spent = _counts(context, f"lm/{context.config.lm.name}").get("private")
    if audit.get("membership"):
        told.append(membership_text(audit["membership"]))
    if spent:
        told.append(private_text(spent))
    bullets = [f"- {own[0].upper()}{own[1:]}." for own in told]
    if not spent:
        return [*bullets, "These are checks, no guarantee."]
    return [
        *bullets,
        "The last is a guarantee, of what the generator writes from nothing; the others are "
        "checks. The recommender itself read the real events, and nothing is guaranteed of it.",
    ]


def _numbers(counts: dict[str, Any]) -> dict[str, Any]:
    return {name: own for name, own in counts.items() if isinstance(own, int | float)}


def _bullets(facts: dict[str, Any]) -> list[str]:
    shown = {name: f"{own:,}" if isinstance(own, int) else own for name, own in facts.items()}
    return [f"- {name.replace('_', ' ')}: {_plain(str(own))}" for name, own in shown.items()]


def _row(cells: Sequence[Any]) -> str:
    return f"| {' | '.join(_plain(str(cell)) for cell in cells)} |"


def _plain(text: str) -> str:
    """On one line, and no markup."""
    return " ".join(text.split()).replace("<", "&lt;").replace("|", "\\|")


def _text(lines: Iterable[str]) -> str:
    """Paragraphs, and lists in one piece."""
    out: list[str] = []
    for line in lines:
        together = line.startswith("- ") and out and out[-1].startswith("- ")
        out += [line] if together or not out else ["", line]
    return "\n".join([*out, ""])
