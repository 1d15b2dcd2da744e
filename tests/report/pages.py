"""A page with everything on it: what a big night would show, with texts that try to be code."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import numpy as np

from llmaug.evaluate import fidelity
from llmaug.evaluate.fidelity_measures import Counts
from llmaug.report import samples
from llmaug.report import stage as report
from llmaug.report.page import render
from tests.evaluate.test_fidelity import NUM_ITEMS, walks
from tests.report.test_report import CONFIG, MANY, manifests

EVIL = "</title></text><script>document.title = 'stolen'</script><img src=x onerror=alert(1)>"


def full_page() -> str:
    found = manifests(MANY, (1, 2))
    found["fidelity"] = {**found["privacy"], "counts": {"found": _fidelity()}}
    curve = [{"second": float(s), "engines": 2, "busy": 1, "running": 4, "tokens_per_s": 4e3 + s}
             for s in range(9)]  # fmt: skip
    found["outcomes"]["counts"] |= {"utilisation": curve, "output_tokens": 5000}
    found["filtered"]["counts"] |= {f"rejected.{EVIL}": 3, "failed.engine_crashed": 1}
    for arm in MANY:
        for seed in found[f"model/{arm}"]["counts"].values():
            seed["curve"] = [
                {"step": n, "loss": 3.0, "value": n / 8000} for n in range(100, 801, 100)
            ]
    predicted = {name: {"mean": 40.0, "low": 30.0, "high": 60.0} for name in
                 ("output_tokens", "engine_seconds", "accepted")}  # fmt: skip
    metrics = {"run_id": "r", **report.collect(found, {"split"}, predicted, 2.5)}
    metrics["texts"] = {
        "explain": {
            "units": 2,
            "accepted": 1,
            "rejected": 1,
            "failed": 0,
            "by_reason": {f"rejected.{EVIL}": 1},
            "parsed_share": 0.5,
        }
    }
    return render(CONFIG, f"night {EVIL}", metrics, found, _samples())


def _fidelity() -> dict[str, Any]:
    def counts(seed: int) -> Counts:
        rng = np.random.default_rng(seed)
        return Counts(
            rng.integers(1, 99, NUM_ITEMS), np.array([70, 20, 0]), rng.integers(1, 99, 24),
            np.bincount(rng.integers(0, 20, 99), minlength=40),
            np.bincount(rng.integers(3, 60, 99)),
            np.stack([np.arange(9), rng.integers(1, 9, 9)]),
        )  # fmt: skip

    histories = {False: walks(1, 9), True: walks(2, 9)}  # too few for the classifier, to be quick
    found = fidelity.figures(
        (counts(0), counts(1), counts(2)), histories, np.arange(NUM_ITEMS, 0, -1),
        ["view", EVIL], 7,
    )  # fmt: skip
    return found | {"classifier": {"pairs": 900, "auc": 0.61, "low": 0.58, "high": 0.64}}


def _samples() -> dict[str, Any]:
    titles = {item: f"{item} {EVIL}" for item in "abcd"}
    events = [
        {"item_id": item, "action": "view", "timestamp": datetime(2025, 6, 1, hour), "keep": True,
         "reason": None} for hour, item in enumerate("abcd")
    ]  # fmt: skip
    outcome = {"unit_id": "0" * 16, "user_id": None, "strategy": "new_users", "status": "accepted",
               "reason": None, "detail": None, "events": events}  # fmt: skip
    rejected = {**outcome, "status": "rejected", "reason": "copied", "detail": EVIL}
    said = {"user_id": EVIL, "item_id": "a", "because": ["b", "c"], "sentence": f"As {EVIL} says."}
    rows = [{"user_id": EVIL, "position": n, "item_id": "a", "score": 1.0} for n in range(1, 12)]
    return {
        "histories": [samples.beside("history-1", outcome, "u1", events, titles)],
        "refused": samples.refused([rejected], titles),
        "explanations": [samples.explained("explain", "recommendations", [said], titles)],
        "recommendations": [samples.recommended(rows, titles)],
    }
