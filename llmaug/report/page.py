"""The page: one file without any request, for whoever decides, builds or audits.

Everything that is not ours (titles, ids, reasons) is text: Jinja escapes it, and the policy of the
page lets no script run but the one that is written here.
"""

from __future__ import annotations

import base64
import hashlib
import json
from importlib.resources import files
from typing import Any

from markupsafe import Markup

from llmaug.config import Config
from llmaug.core.objects import digest
from llmaug.report import auditing, engineering, generation
from llmaug.report.plots import Plot
from llmaug.report.samples import SAMPLES
from llmaug.report.sentences import (
    answers,
    covers,
    generator_text,
    main_metric,
    trained_text,
    unfinished,
    verdict,
)
from llmaug.report.tables import Table

_TEMPLATES = files("llmaug.report").joinpath("templates")


def render(
    config: Config,
    run_id: str,
    metrics: dict[str, Any],
    manifests: dict[str, dict[str, Any]],
    samples: dict[str, list[Table]] | None = None,
) -> str:
    """samples: what `samples.samples` returns."""
    plain = config.model_dump(mode="json")
    main = main_metric(metrics) if metrics["num_users"] else None
    generator = metrics["generator"]
    remarks = [unfinished(metrics["training"]), generator_text(generator) if generator else None]
    drift = metrics["drift"]
    return fill(
        "report.html.j2",
        run_id=run_id,
        metrics=metrics,
        trained=trained_text(metrics),
        verdict=verdict(metrics),
        answers=answers(metrics, config),
        lift=engineering.lift_plot(metrics) if main else [],
        measured=_measured(metrics, config, main) if main else None,
        learning=engineering.learning_plots(metrics),
        remarks=[remark for remark in remarks if remark],
        alarms=drift["alarms"] if drift else [],
        texts=generation.texts(metrics) if metrics["texts"] else None,
        generated=_generated(metrics) if "outcomes" in manifests else None,
        samples={**dict.fromkeys(SAMPLES, ()), **(samples or {})},
        audit=_audit(metrics, manifests, digest(plain)),
        covers=covers(metrics["interval"]),
        seen="left out" if config.evaluate.exclude_seen else "included",
        config=json.dumps(plain, indent=1, ensure_ascii=False),
    )


def fill(template: str, script_name: str = "script.js", **values: Any) -> str:
    """A template with our style and a script of ours in it, and the policy that lets only these in;
    whoever serves the page may be asked again."""
    import jinja2

    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True,
        loader=jinja2.FunctionLoader(_read),
    )  # fmt: skip
    style, script = _read("style.css"), _read(script_name)
    policy = f"default-src 'none'; style-src '{_hash(style)}'; script-src '{_hash(script)}'; " \
             "connect-src 'self'; base-uri 'none'; form-action 'none'"  # fmt: skip
    return environment.get_template(template).render(
        style=Markup(style), script=Markup(script), policy=policy, **values
    )


def _read(name: str) -> str:
    return _TEMPLATES.joinpath(name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    """As Content Security Policy names an inline block."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _measured(metrics: dict[str, Any], config: Config, main: str) -> dict[str, Any]:
    return {
        "plots": engineering.comparison_plots(metrics, main, config.gate.min_segment_users),
        "arms": engineering.arms(metrics, main),
        "compared": engineering.compared(metrics, main),
        "segments": engineering.segments(metrics, main),
        "metrics": engineering.all_metrics(metrics),
        "labels": engineering.labels(metrics) if metrics["labels"] else None,
        "ratings": engineering.ratings(metrics) if metrics["ratings"] else None,
        "reranked": engineering.reranked(metrics) if metrics["reranked"] else None,
        "lists": engineering.lists(metrics),
        "satisfaction": engineering.satisfaction(metrics, config.evaluate)
        if metrics["satisfaction"]
        else None,
    }


def _generated(metrics: dict[str, Any]) -> dict[str, Any]:
    found, by_reason = metrics["fidelity"], metrics["ledger"]["by_reason"]
    plots: list[Plot] = generation.fidelity_plots(found) if found else []
    return {
        "fates": generation.fates(metrics),
        "reasons": generation.reasons(metrics) if by_reason else None,
        "forecast": generation.forecast(metrics) if metrics["forecast"] else None,
        "plots": generation.generation_plots(metrics),
        "fidelity": generation.fidelity(found) if found else None,
        "fidelity_plots": plots,
    }


def _audit(
    metrics: dict[str, Any], manifests: dict[str, dict[str, Any]], config_digest: str
) -> dict[str, Any]:
    skipped = {name: own["skipped"] for name, own in metrics["stages"].items()}
    audit, card = metrics["privacy"], metrics["published"]
    return {
        "privacy": auditing.privacy(audit, metrics.get("private")) if audit else None,
        "published": auditing.published(card) if card else None,
        "came_in": auditing.came_in(metrics),
        "drift": auditing.drift(metrics["drift"]) if metrics["drift"] else None,
        "lineage": auditing.lineage(manifests, skipped),
        "versions": auditing.versions(config_digest),
    }
