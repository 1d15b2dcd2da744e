"""A message to a webhook when a job ends. It never fails a night: what goes wrong is said."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from llmaug.config.notify import NotifyConfig, Told
from llmaug.evaluate.bootstrap import lift_text
from llmaug.publish import pointer

_TIMEOUT_S, _TRIES = 10.0, 4
_AGAIN = (429, 500, 502, 503, 504)


def message(
    run_id: str,
    manifests: dict[str, Any] | None,
    metrics: dict[str, Any] | None,
    error: str | None = None,
) -> dict[str, Any]:
    """What is told of a job: {text, run_id, status, error, arm, gate, lift, ledger,
    alarms, version}.

    manifests: of `pipeline.run`; None where it failed. metrics: those of the report, if there is
    one.
    """
    stages = manifests or {}
    published = stages.get("publish", {}).get("counts", {})
    gate = stages.get("gate", {}).get("counts", {})
    status = _status(published, gate, error)
    lift = (metrics or {}).get("lift", {})
    words = [f"llmaug {run_id}: {status}"]
    if published:
        words.append(f"arm {published['arm']} is current" if status != "left" else published["why"])
    for name, each in lift.items():
        words.append(f"{name} {lift_text(each)} over {each.get('against', 'real')}")
    words += gate.get("reasons", []) if status == "refused" else []
    drift = ((metrics or {}).get("drift") or {}).get("alarms", [])
    words += [alarm for alarm in drift if alarm not in published.get("why", "")]
    words += [error] if error else []
    return {
        "text": "; ".join(words),
        "run_id": run_id,
        "status": status,
        "error": error,
        "arm": published.get("arm"),
        "gate": {name: gate.get(name) for name in ("passed", "candidate", "reasons")},
        "lift": lift,
        "ledger": (metrics or {}).get("ledger"),
        "alarms": drift,
        "version": published.get("uri"),
    }


def _status(published: dict[str, Any], gate: dict[str, Any], error: str | None) -> Told:
    if error:
        return "failed"
    if not published:
        return "finished"
    if published["outcome"] == pointer.LEFT:
        return "left"
    passed = gate.get("passed") or published.get("forced")
    return "published" if passed else "refused"


def notify(config: NotifyConfig, told: dict[str, Any], say: Callable[[str], None]) -> bool:
    """Post `told` to the webhook of the config, if it wants to hear of this; whether it arrived.

    say: called with what went wrong, which never has the URL in it.
    """
    import urllib3

    if config.webhook_env is None or told["status"] not in config.when:
        return False
    url = os.environ.get(config.webhook_env, "")
    if not url.startswith(("https://", "http://")):
        say(f"nobody was told: {config.webhook_env} of the environment holds no http(s) URL")
        return False
    retries = urllib3.Retry(
        total=_TRIES - 1, backoff_factor=0.5, status_forcelist=_AGAIN,
        allowed_methods=None, raise_on_status=False,
    )  # fmt: skip
    try:
        answer = urllib3.request(
            "POST", url, json=told, retries=retries, timeout=_TIMEOUT_S, redirect=False
        )
    except (urllib3.exceptions.HTTPError, ValueError, OSError) as error:
        say(f"nobody was told: the webhook of {config.webhook_env}: {type(error).__name__}")
        return False
    if answer.status >= 300:
        say(f"nobody was told: the webhook of {config.webhook_env} answered {answer.status}")
        return False
    return True
