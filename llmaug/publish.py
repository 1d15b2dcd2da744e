"""The versioned model folder and the pointer that serving follows.

`published/<name>/versions/<run_id>/` is written whole, then `CURRENT` is moved to it with
compare-and-swap: a reader sees the old model or the new one, never half of one. A forced model
(force.py) is a version of its own, `versions/<run_id>-forced/`.
"""

from __future__ import annotations

import time
from typing import Any

from llmaug.arms import AUGMENTED
from llmaug.errors import UserError
from llmaug.stage import Context, Stage
from llmaug.storage import Storage
from llmaug.stored import Card, Forced, Trained, checked, need_record, read_record

FORCED = "forced.json"


def run(context: Context) -> dict[str, Any]:
    config, storage = context.config, context.storage
    decision, force = context.manifest("gate")["counts"], forced(context)
    arm = AUGMENTED if force else decision["arm"]
    seed = config.train.seeds[0]
    source = context.folder(f"model/{arm}/seed-{seed}")
    # The version of the refused night may be serving: it is left as it is.
    name_of_version = f"{context.run_id}-forced" if force else context.run_id
    version = f"published/{config.publish.name}/versions/{name_of_version}"
    facts = need_record(storage, Trained, source, "_trained.json")
    for name in storage.names(source):
        if not name.startswith("_"):
            storage.write(storage.read(source, name), version, name)
    card = {
        "run_id": context.run_id,
        "version": version,
        "model_digest": facts["model_digest"],
        "arm": arm,
        "seed": seed,
        "gate": decision,
        "forced": force,
        "published_utc": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }
    storage.write_json(card, version, "published.json")
    if context.lease:
        context.lease.check()
    point_to(storage, config.publish.name, card)
    context.progress.note(f"published {storage.uri(version)}")
    return {**card, "uri": storage.uri(version)}


def forced(context: Context) -> dict[str, Any] | None:
    """{reason, refused, forced_utc, gate} when the gate's present decision was overruled."""
    record = read_record(context.storage, Forced, f"runs/{context.run_id}", FORCED)
    return record if record and record["gate"] == context.manifest("gate")["fingerprint"] else None


def point_to(storage: Storage, name: str, card: dict[str, Any]) -> None:
    """Move CURRENT of model `name` to `card`; the card it replaces is remembered in it.

    Raises UserError when others keep moving it at the same time.
    """
    place = (f"published/{name}", "CURRENT")
    for _ in range(5):
        current, version = storage.read_version(*place)
        if version is None:
            if storage.create(card, *place):
                return
            continue
        checked(storage, Card, current, *place)
        previous = current["version"] if current["version"] != card["version"] else None
        if storage.swap({**card, "previous": previous or current.get("previous")}, version, *place):
            return
    raise UserError(f"{storage.uri(*place)}: others are publishing at the same time; try again")


def current(storage: Storage, name: str) -> dict[str, Any]:
    """The card of the published model. Raises UserError when there is none."""
    card = read_record(storage, Card, f"published/{name}", "CURRENT")
    if card is None:
        raise UserError(
            f"{storage.uri('published', name)}: no published model here. Run the job first "
            "(`llmaug run --config ... --root ...`), or give the right --root and --name"
        )
    return dict(card)


STAGE = Stage(
    name="publish",
    run=run,
    inputs=("gate",),
    settings=lambda config: [config.publish, config.train.seeds],
    outside=forced,
)
