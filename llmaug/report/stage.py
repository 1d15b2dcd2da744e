"""One self-contained HTML page for people and `metrics.json` for machines."""

from __future__ import annotations

from functools import partial
from typing import Any

from llmaug.arms.arms import ARMS
from llmaug.config.names import run_folder
from llmaug.core.stage import Context, Stage
from llmaug.core.storage import Storage, digest
from llmaug.core.stored import MANIFEST, Manifest, damaged, need_record, read_record
from llmaug.report.metrics import Metrics
from llmaug.report.page import render
from llmaug.report.samples import samples
from llmaug.report.sentences import arm_in_question, generator_text, unfinished
from llmaug.schema import ACCEPTED, FAILED, REJECTED
from llmaug.text.verdicts import parsed_share

FORECAST, METRICS = "forecast.json", "metrics.json"


def run(names: tuple[str, ...], context: Context) -> dict[str, Any]:
    storage, folder = context.storage, context.folder("report")
    manifests = {name: context.manifest(name) for name in names}
    predicted = storage.read_json(f"runs/{context.run_id}", FORECAST)
    price = context.config.budget.price_per_hour
    metrics = Metrics.keeps(
        {"run_id": context.run_id, **collect(manifests, context.skipped, predicted, price)}
    )
    if metrics["generator"] and not metrics["generator"]["ahead"]:
        context.progress.warn(generator_text(metrics["generator"]))
    if late := unfinished(metrics["training"]):
        context.progress.warn(late)
    storage.write_json(metrics, folder, METRICS)
    shown = samples(context, bool(metrics["published"]), "filtered" in manifests)
    page = render(context.config, context.run_id, metrics, manifests, shown)
    storage.write(page.encode(), folder, "report.html")
    return {
        "report": storage.uri(folder, "report.html"),
        "metrics_digest": digest(storage.read(folder, METRICS)),
    }


def collect(
    manifests: dict[str, dict[str, Any]],
    skipped: set[str],
    predicted: dict[str, Any] | None = None,
    price_per_hour: float = 0.0,
) -> dict[str, Any]:
    """The figures a machine reads (`Metrics`, less the run's id), from the stages' manifests."""
    evaluation = manifests["evaluation"]["counts"]
    filtered = manifests.get("filtered", {}).get("counts", {})
    outcomes = manifests.get("outcomes", {}).get("counts", {})
    training = _training(manifests)
    trained = training[arm_in_question(manifests["gate"]["counts"], training)]
    seconds = outcomes.get("engine_seconds", 0)
    kept = filtered.get("events_kept", 0)
    return {
        "ingest": manifests["ingest"]["counts"],
        "split": manifests["split"]["counts"],
        "ledger": {
            "units": filtered.get("units", 0),
            "planned": outcomes.get("planned", 0),
            **{name: outcomes.get(name, 0) for name in ("left_out", "not_needed", "cache_hits")},
            "left_out_by_budget": manifests.get("plan", {})
            .get("counts", {})
            .get("left_out_by_budget", 0),
            "stopped": outcomes.get("stopped", ""),
            **{status: filtered.get(status, 0) for status in (ACCEPTED, REJECTED, FAILED)},
            "by_reason": {
                name: count
                for name, count in filtered.items()
                if name.startswith((f"{REJECTED}.", f"{FAILED}.", "events_dropped."))
            },
        },
        "texts": text_ledgers(manifests),
        "events": {name: trained[name] for name in ("real", "synthetic", "soft")},
        "num_users": evaluation["num_users"],
        "arms": evaluation["arms"],
        "by_seed": evaluation["by_seed"],
        "lift": evaluation["lift"],
        "lifts": evaluation["lifts"],
        "interval": evaluation["interval"],
        "lists": evaluation["lists"],
        "satisfaction": evaluation["satisfaction"],
        "labels": evaluation["labels"],
        "ratings": evaluation.get("ratings", {}),
        "reranked": {
            name.split("/")[1]: m["counts"]
            for name, m in manifests.items()
            if name.startswith("text/") and name.endswith("/measured")
        },
        "training": training,
        "generator": _generator(manifests),
        "segments": evaluation["segments"],
        "gate": manifests["gate"]["counts"],
        "privacy": manifests["privacy"]["counts"] if "privacy" in manifests else None,
        "private": _private(manifests),
        "fidelity": manifests["fidelity"]["counts"]["found"] if "fidelity" in manifests else None,
        "drift": manifests["drift"]["counts"]["found"] if "drift" in manifests else None,
        "published": manifests["publish"]["counts"] if "publish" in manifests else None,
        "stages": {
            name: {
                "seconds": m["seconds"],
                "peak_rss_mb": m["peak_rss_mb"],
                "skipped": name in skipped,
            }
            for name, m in manifests.items()
        },
        "throughput": {
            "output_tokens_per_s": outcomes.get("output_tokens_per_s", 0.0),
            "events_per_s": round(kept / seconds, 1) if seconds else 0.0,
            "idle_share": outcomes.get("idle_share"),
            "engine_hours": outcomes.get("engine_hours", 0.0),
            "cost": round(outcomes.get("engine_hours", 0.0) * price_per_hour, 4),
            "restarts": outcomes.get("deaths", 0),
            "repeated_parts": outcomes.get("repeated", 0),
            "utilisation": outcomes.get("utilisation", []),
        },
        "forecast": _against_actual(predicted, outcomes, filtered) if predicted else [],
    }


def _private(manifests: dict[str, dict[str, Any]]) -> dict[str, Any] | None:
    found = [own["counts"].get("private") for name, own in manifests.items() if name[:3] == "lm/"]
    return next(filter(None, found), None)


def text_ledgers(manifests: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """{text task: where its questions went}, from the manifests of its stages."""
    found = {}
    for name in manifests:
        if name.startswith("text/") and name.endswith("/rows"):
            track = name.removesuffix("/rows")
            counts, asked, judged, planned = (
                manifests[f"{track}/{stage}"]["counts"]
                for stage in ("rows", "outcomes", "filtered", "plan")
            )
            found[track.removeprefix("text/")] = {
                **{status: counts[status] for status in ("units", ACCEPTED, REJECTED, FAILED)},
                "by_reason": {
                    reason: number
                    for reason, number in counts.items()
                    if reason.startswith((f"{REJECTED}.", f"{FAILED}."))
                },
                "parsed_share": round(parsed_share(judged), 4),
                **{n: asked[n] for n in ("prompt_tokens", "cached_prompt_tokens", "output_tokens")},
                "cut_fields": planned["cut_fields"],
            }
    return found


def _against_actual(
    predicted: dict[str, Any], outcomes: dict[str, Any], filtered: dict[str, Any]
) -> list[dict[str, Any]]:
    """What `llmaug forecast` said of this run, and what came of it. Seconds and tokens are
    those of all answers, the probe's and other cached ones as they were when generated."""
    actual = {
        "output_tokens": outcomes.get("output_tokens", 0),
        "engine_seconds": outcomes.get("engine_seconds", 0.0),
        "accepted": filtered.get(ACCEPTED, 0),
    }
    return [
        {"figure": name, **predicted[name], "actual": value,
         "ratio": round(value / predicted[name]["mean"], 3) if predicted[name]["mean"] else None}
        for name, value in actual.items()
    ]  # fmt: skip


def _training(manifests: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """What each arm was trained on, and how each of its seeds went."""
    found = {}
    for arm in ARMS:
        if f"model/{arm.name}" in manifests:
            events = manifests[f"merged/{arm.shards}"]["counts"]
            seeds = manifests[f"model/{arm.name}"]["counts"]
            found[arm.name] = {
                "real": events.get("real", 0),
                "synthetic": events.get("synthetic", 0),
                "soft": events.get("soft", 0),
                "seeds": [
                    _seed(name.removeprefix("seed-"), facts) for name, facts in seeds.items()
                ],
            }
    return found


_OF_SEED = ("model_digest", "num_targets", "steps", "best_step", "validation_ndcg", "curve")


def _seed(seed: str, facts: dict[str, Any]) -> dict[str, Any]:
    found = {"seed": seed, **{name: facts[name] for name in _OF_SEED if name in facts}}
    if "validation_negative_rmse" in facts:  # of a model of ratings
        found["curve_of"] = "minus RMSE"
    if "sequences" not in facts:
        return found
    steps, size, switch = facts["steps"], facts["batch_size"], facts["finetune_after"]
    mixed = steps if switch is None else min(steps, switch)
    passes = size * (mixed / facts["sequences"] + (steps - mixed) / facts["real_sequences"])
    return {**found, "real_passes": round(passes, 1)}


def _generator(manifests: dict[str, dict[str, Any]]) -> dict[str, Any] | None:
    """How the generator itself ranks validation events beside the arm `real`; None where it was
    not measured (n-grams, chat models, semantic ids, nothing held out)."""
    own = [m["counts"] for name, m in manifests.items() if name.startswith("lm/")]
    ndcg = own[0].get("validation_ndcg") if own else None
    seeds = [facts["validation_ndcg"] for facts in manifests["model/real"]["counts"].values()]
    if ndcg is None or None in seeds:
        return None
    real = sum(seeds) / len(seeds)
    return {"validation_ndcg": ndcg, "real_validation_ndcg": real, "ahead": ndcg > real}


def load_metrics(storage: Storage, run_id: str) -> dict[str, Any] | None:
    """None without a report. Raises UserError when the figures are not those that were
    written."""
    folder = f"{run_folder(run_id)}/report"
    manifest = read_record(storage, Manifest, folder, MANIFEST)
    if manifest is None:
        return None
    metrics = need_record(storage, dict, folder, METRICS)
    written = manifest["counts"].get("metrics_digest")
    if written not in (None, digest(storage.read(folder, METRICS))):
        raise damaged(storage, "it is not what was written", folder, METRICS)
    return dict(metrics)


def stage(names: tuple[str, ...]) -> Stage:
    """Depends on every stage before it."""
    return Stage(name="report", run=partial(run, names), inputs=names)
