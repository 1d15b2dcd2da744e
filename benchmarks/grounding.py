"""Does anything come out that cannot be? All generated events of a finished run, checked anew.

Read from `filtered/` of the run, dropped events included, against its catalogue and its clean
logs: events outside the catalogue, of items that nobody had before the cut-off (temporal splits;
the catalogue is then what was known at the cut-off), at or past the cut-off, and repeats of what
the user had or was given before. With semantic ids, actions or a plain vocabulary alike.

    python benchmarks/grounding.py demo/runs/demo
"""

from __future__ import annotations

import json
from collections import Counter
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

import pyarrow as pa
import typer

from llmaug.core.stage import MANIFEST
from llmaug.core.storage import Storage
from llmaug.errors import UserError
from llmaug.ingest.split import TRAIN
from llmaug.items.vocabulary import load_vocabulary
from llmaug.schema import ACCEPTED


def main(run: Annotated[Path, typer.Argument(help="Folder of a finished run.")]) -> None:
    storage = Storage(str(run))
    if storage.read_json("filtered", MANIFEST) is None:
        raise UserError(f"{run}: no finished run up to `filter`")
    found = check(storage)
    for name, number in found.items():
        print(f"{name:24} {number:>10,}")
    print(json.dumps({"benchmark": "grounding", "run": run.name, **found}))


def check(storage: Storage) -> dict[str, int]:
    """{what: events}, all zero but the first two where everything is well."""
    catalogue = set(load_vocabulary(storage, "vocabulary").item_ids)
    cutoff = cutoff_of(storage)
    born = first_events(storage) if cutoff else {}
    had = histories(storage)
    found: Counter[str] = Counter()
    for part in storage.parts("filtered"):
        for outcome in storage.read_part("filtered", part).to_pylist():
            seen = set(had.get(outcome["user_id"], ()))
            found["outcomes"] += 1
            for event in outcome["events"] or []:
                item = event["item_id"]
                found["events"] += 1
                found["outside the catalogue"] += item not in catalogue
                found["repeats"] += item in seen
                found["dropped by a filter"] += bool(event["reason"])
                seen.add(item)
                if cutoff is not None:
                    found["items born after"] += item in born and born[item] >= cutoff
                    kept = outcome["status"] == ACCEPTED and event["keep"]
                    found["past the cut-off"] += kept and event["timestamp"] >= cutoff
    names = ["outcomes", "events", "outside the catalogue", "repeats", "dropped by a filter"]
    names += ["items born after", "past the cut-off"] if cutoff else []
    return {name: found[name] for name in names}


def cutoff_of(storage: Storage) -> datetime | None:
    """The end of the training time of a temporal split."""
    cutoffs = storage.read_json("split", MANIFEST)["counts"]["cutoffs_utc"]
    return datetime.fromisoformat(cutoffs[0]) if cutoffs else None


def first_events(storage: Storage) -> dict[str, datetime]:
    tables = [storage.read_part("ingest", part) for part in storage.parts("ingest")]
    events = pa.concat_tables(tables).select(["item_id", "timestamp"])
    first = events.group_by("item_id").aggregate([("timestamp", "min")])
    return dict(zip(first["item_id"].to_pylist(), first["timestamp_min"].to_pylist(), strict=True))


def histories(storage: Storage) -> dict[str, list[Any]]:
    folder = f"split/{TRAIN}"
    tables = [storage.read_part(folder, part) for part in storage.parts(folder)]
    events = pa.concat_tables(tables).select(["user_id", "item_id"])
    own = events.group_by("user_id").aggregate([("item_id", "list")])
    return dict(zip(own["user_id"].to_pylist(), own["item_id_list"].to_pylist(), strict=True))


if __name__ == "__main__":
    typer.run(main)
