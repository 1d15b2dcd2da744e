"""The versioned model folder, and the stage that publishes it.

`published/<name>/versions/<run_id>-<digest>/` is named after its content, written whole and never
changed; then `CURRENT` is moved to it (pointer.py). A reader sees the old model or the new one,
whatever is killed in between. A forced model (force.py) is another content, and another version.
"""

from __future__ import annotations

from typing import Any

from llmaug.core.formats import CARD, utc_now
from llmaug.core.stage import Context, Stage
from llmaug.core.storage import FILES, digest
from llmaug.core.stored import Forced, Trained, need_record, read_record
from llmaug.errors import UserError
from llmaug.evaluate.figures import candidate_of
from llmaug.publish import drift, pointer
from llmaug.publish.card import LEFT, Card, Published
from llmaug.publish.model_card import cards

FORCED = "forced.json"


def run(context: Context, by_force: str | None = None) -> dict[str, Any]:
    published = publish(context, by_force)
    context.progress.note(said(published))
    return published


def publish(context: Context, by_force: str | None = None) -> dict[str, Any]:
    """Write the version of a run that has come to the gate, and move CURRENT to it.

    by_force: the reason for which CURRENT may move although a newer night is current. Returns its
    card with `uri`, `outcome`, `current` and `why` (see `pointer.advance`).
    """
    storage, name = context.storage, context.config.publish.name
    card = card_of(context)
    written = _write(context, card, cards(context, card))
    context.confirm_lease()
    # The same content may be that of a later night: what is on disk keeps its first.
    done = pointer.advance(
        storage, name, {**written, "night": card["night"]}, by_force, drift.objection(context)
    )
    return Published.keeps({**written, **done, "uri": storage.uri(card["version"])})


def card_of(context: Context) -> dict[str, Any]:
    """What is published of a run that has come to the gate: the model, why, and its version."""
    decision, force = context.manifest("gate")["counts"], forced(context)
    arm = candidate_of(decision) if force else decision["arm"]
    seed = context.config.train.seeds[0]
    source = _source(context, arm, seed)
    files = {
        file: digest(context.storage.read(source, file))
        for file in context.storage.names(source)
        if file[0] not in "_."  # notes, and what a write that was killed has left
    }
    facts = need_record(context.storage, Trained, source, "_trained.json")
    # The list of the files (`Storage.put_folder`) goes with them and is none of them.
    if digest({file: of for file, of in files.items() if file != FILES}) != facts["model_digest"]:
        folder = context.storage.uri(context.folder(f"model/{arm}"))
        raise UserError(
            f"{context.storage.uri(source)}: not the files that training wrote; remove {folder} "
            "and run the job again: this arm is trained anew"
        )
    content = {
        "run_id": context.run_id,
        "model_digest": facts["model_digest"],
        "files": files,
        "arm": arm,
        "seed": seed,
        "gate": decision,
        "forced": force,
    }
    folder = pointer.versions_folder(context.config.publish.name)
    version = f"{folder}/{context.run_id}-{digest(content)[:16]}"
    return {
        **CARD.stamp,
        **content,
        "version": version,
        "night": night_of(context),
        "published_utc": utc_now(),
    }


def night_of(context: Context) -> list[str]:
    """What orders nights: how far the logs of a run can reach, when they were read, its id."""
    # The earlier of both: a stage that was damaged and made anew since is no newer night.
    read = min(context.manifest(stage)["finished_utc"] for stage in ("ingest", "split"))
    end = context.config.ingest.end
    return [min(f"{end}T24:00:00Z", read) if end else read, read, context.run_id]


def forced(context: Context) -> dict[str, Any] | None:
    """{reason, refused, forced_utc, gate} when the gate's present decision was overruled."""
    record = read_record(context.storage, Forced, f"runs/{context.run_id}", FORCED)
    return record if record and record["gate"] == context.manifest("gate")["fingerprint"] else None


def said(published: dict[str, Any]) -> str:
    """In words, what became of a version: it was published, was current already, or was left."""
    arm, uri, outcome = published["arm"], published["uri"], published["outcome"]
    by_force = " by force" if published["forced"] else ""
    if outcome != LEFT:
        return f"{outcome}: arm {arm}{by_force}, {uri}"
    name = uri.rpartition("/")[2]
    return (
        f"not published, CURRENT is left as it was: {published['why']}. Arm {arm}{by_force} is "
        f"kept at {uri}; to serve it: `llmaug publish --rollback --to {name}`, or `llmaug publish "
        f"{published['run_id']} --force --reason ...`"
    )


def _source(context: Context, arm: str, seed: int) -> str:
    return context.folder(f"model/{arm}/seed-{seed}")


def _write(context: Context, card: dict[str, Any], texts: dict[str, str]) -> dict[str, Any]:
    """The version's files, what people read about it, then its card; what is there already is left.
    Returns the card there."""
    storage, version = context.storage, card["version"]
    source = _source(context, card["arm"], card["seed"])
    there = storage.names(version)
    for file in card["files"]:
        if file not in there:
            storage.write(storage.read(source, file), version, file)
    for file, text in texts.items():
        if file not in there:
            storage.write(text.encode(), version, file)
    storage.create(Card.keeps(card), version, pointer.CARD)
    return pointer.read_version(storage, context.config.publish.name, version.rpartition("/")[2])


def _outside(context: Context) -> dict[str, Any]:
    """Whether the gate is overruled, the model that goes out: one that was trained anew may be
    judged as the one before it was; and what a run that measured drift has against it."""
    force = forced(context)
    decision = context.manifest("gate")["counts"]
    arm = candidate_of(decision) if force else decision["arm"]
    source = _source(context, arm, context.config.train.seeds[0])
    trained = read_record(context.storage, Trained, source, "_trained.json") or {}
    return {"forced": force, "model_digest": trained.get("model_digest"),
            "objection": drift.objection(context)}  # fmt: skip


STAGE = Stage(
    name="publish",
    run=run,
    inputs=("gate",),
    settings=lambda config: [config.publish, config.train.seeds],
    outside=_outside,
)
