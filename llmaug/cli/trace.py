"""`llmaug trace`."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from rich.table import Table

from llmaug.cli.options import AS_JSON, ENDPOINT, NAME, ROOT, open_storage
from llmaug.core.terminal import Terminal, emit_json


def trace(
    unit: Annotated[
        str | None, typer.Argument(help="UNIT_ID, or UNIT_ID:POSITION of an event.")
    ] = None,
    run: Annotated[str | None, typer.Option(help="Run that made it.")] = None,
    model: Annotated[str | None, typer.Option(help="Published version, or `current`.")] = None,
    name: NAME = "recommender",
    root: ROOT = None,
    endpoint_url: ENDPOINT = None,
    as_json: AS_JSON = False,
) -> None:
    """Where a synthetic event or a published model comes from.

    Of an event: the user it continues, with the history, the question by its digest, the model, the
    seed, the verdict of each filter, and whether it was trained on. Of a model: its data, what it
    replaced, and why the gate let it.

    Example: `llmaug trace 3f1a9c --run demo`, or `llmaug trace --model current`
    """
    if (unit is None) == (model is None) or (unit is None) != (run is None):
        raise typer.BadParameter("give a unit with --run, or --model")
    from llmaug.commands.trace import trace_model, trace_unit

    storage = open_storage(None, root, endpoint_url)
    if unit is not None and run is not None:
        found = trace_unit(storage, run, unit)
        return emit_json(found) if as_json else _show_unit(found)
    assert model is not None
    found = trace_model(storage, model, name)
    return emit_json(found) if as_json else _show_model(found)


def _show_unit(found: dict[str, Any]) -> None:
    console = Terminal()
    facts = Table("", "", box=None, show_header=False)
    answer, verdict = found["answer"] or {}, found["verdict"] or {}
    for label, value in (
        ("unit", found["unit_id"]),
        ("run", f"{found['run']}, config {found['config_digest']}"),
        ("user", found["user_id"] or "new: nobody's history was continued"),
        ("strategy", f"{found['strategy']}, sample {found['sample']}, seed {found['seed']}"),
        ("question", f"{found['prompt_tokens']} tokens, digest {found['prompt_digest']}"),
        ("generator", f"{found['generator']}, model digest {found['model_digest']}"),
        ("answer", _said(answer)),
        ("verdict", _said(verdict)),
        ("trained on", _count(found["trained_on"])),
    ):
        facts.add_row(label, str(value))
    console.print(facts)
    _show_events(console, "history", found["history"])
    _show_events(console, "generated", found["events"])


def _said(row: dict[str, Any]) -> str:
    words = [row.get("status") or "not yet", row.get("reason"), row.get("detail")]
    return ", ".join(word for word in words if word)


def _count(number: int | None) -> str:
    return "not merged yet" if number is None else f"{number} events"


def _show_events(console: Terminal, heading: str, events: list[dict[str, Any]]) -> None:
    if not events:
        return
    table = Table(heading, "item", "title", "action", "verdict", box=None)
    for event in events:
        keep = event.get("keep")
        kept = "" if keep is None else "kept" if keep else f"dropped: {event['reason']}"
        table.add_row(
            f"{event['timestamp']:%Y-%m-%d %H:%M}" if event["timestamp"] else "",
            event["item_id"] or "", event["title"] or "", event["action"] or "", kept,
        )  # fmt: skip
    console.print(table)


def _show_model(found: dict[str, Any]) -> None:
    console, data, gate = Terminal(), found["data"], found["gate"]
    facts = Table("", "", box=None, show_header=False)
    current = "current" if found["is_current"] else "not current"
    gone = "" if found["run_is_there"] else ", whose folder is gone"
    verdict = "passed" if gate["passed"] else f"refused {gate['candidate']}"
    for label, value in (
        ("version", f"{found['version']}, {current}, published {found['published_utc']}"),
        ("run", f"{found['run']}{gone}, arm {found['arm']}, seed {found['seed']}"),
        ("replaced", found["replaced"] or "nothing that is remembered"),
        ("logs", data["logs"] or "unknown"),
        ("users", _number(data["users"])),
        ("real events", _number(data["real_events"])),
        ("synthetic events", _number(data["synthetic_events"])),
        ("generator", data["generator"] or "none"),
        ("gate", verdict),
        *(("", f"- {reason}") for reason in gate["reasons"]),
        *((("forced", found["forced"]["reason"]),) if found["forced"] else ()),
        *((("retrain", "a user in its data asked to be forgotten"),) if found["retrain"] else ()),
    ):
        facts.add_row(label, value)
    console.print(facts)


def _number(value: int | None) -> str:
    return "unknown" if value is None else f"{value:,}"
