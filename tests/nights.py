"""A finished night made in a second: the real pipeline, without Ray and engines."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from llmaug.config import load_config
from llmaug.core.stage import MANIFEST, Context, fingerprint
from llmaug.core.storage import Storage
from llmaug.filter import real_runs
from llmaug.ingest import stage as ingest
from llmaug.ingest.user_parts import clean_parts
from llmaug.pipeline import run as run_pipeline
from llmaug.recommenders import train
from tests.serial_ray import read_here
from tests.tables import Row, events, histories, map_parts_here, share_here

NIGHT = "night"
CONFIG: dict[str, Any] = {
    "name": NIGHT,
    "ingest": {"format": "csv", "num_parts": 2},
    "split": {"kind": "leave_one_out"},
    "plan": {"strategies": []},
    "train": {"model": "popularity"},
    "evaluate": {"num_bootstrap": 100},
}
USERS = {"u1": "abc", "u2": "bca", "u3": "cab", "u4": "abcd"}


def without_ray(patch: pytest.MonkeyPatch) -> None:
    """Parts are done here, one after the other; what would start Ray fails the test."""
    for name, module in list(sys.modules.items()):
        if name.startswith("llmaug.") and hasattr(module, "map_parts"):
            patch.setattr(module, "map_parts", map_parts_here)
    patch.setattr(ingest, "clean_parts", clean_parts_here)
    patch.setattr(real_runs, "share", share_here)
    patch.setattr(train, "_solve", lambda context, *arguments: train.solve(*arguments))


def clean_parts_here(*arguments: Any) -> None:
    """Logs are read here, too; only engines are left to Ray Data."""
    with pytest.MonkeyPatch.context() as patch:
        read_here(patch)
        clean_parts(*arguments)


def fit_here(patch: pytest.MonkeyPatch) -> None:
    """What is trained by steps is trained in this process: Ray Train's local mode."""
    import ray.train

    scaling = ray.train.ScalingConfig
    patch.setattr(ray.train, "ScalingConfig", lambda **_: scaling(num_workers=0))


def make_night(
    root: Path, home: Path, rows: list[Row] | None = None, **sections: dict[str, Any]
) -> Path:
    """A run and its published model below `root`; its logs and its config, which is returned,
    are in `home`."""
    config_path = home / "config.yaml"
    config = {**CONFIG, "ingest": {**CONFIG["ingest"], "path": str(home / "events.csv")}}
    config_path.write_text(yaml.safe_dump(config | sections), encoding="utf-8")
    rows = rows or histories(**USERS)
    lines = [f"{user},{item},{hour}" for user, item, hour in rows]
    text = "\n".join(["user_id,item_id,timestamp", *lines, ""])
    (home / "events.csv").write_text(text, encoding="utf-8")
    config, storage = load_config(config_path), Storage(str(root))
    context = Context(storage, config, NIGHT)
    storage.write_json({}, f"runs/{NIGHT}", "run.json")  # or the run would be nobody's
    write_ingest(context, rows)
    run_pipeline(config, storage, NIGHT)
    return config_path


def write_ingest(
    context: Context, rows: list[Row], values: list[float | None] | None = None
) -> None:
    """What stage `ingest` leaves behind; values: of the rows, such as ratings."""
    import pyarrow as pa

    from llmaug.ingest.cleaning import id_hash

    folder, parts, num_users = context.folder("ingest"), 2, len({user for user, _, _ in rows})
    for part in range(parts):
        own = [row for row in rows if id_hash(pa.array([row[0]]))[0] % parts == part]
        counts = {"users": len({row[0] for row in own})}
        table = events(own)
        if values is not None:
            value = dict(zip(rows, values, strict=True))
            column = pa.array([value[row] for row in own], pa.float32())
            table = table.set_column(table.schema.get_field_index("value"), "value", column)
        context.storage.write_part(table, counts, folder, f"part-{part:05d}")
    manifest = {
        **fingerprint(ingest.STAGE, context),
        "counts": {"rows_read": len(rows), "accepted": len(rows), "users": num_users},
        "parts": [{"rows": 1}], "seconds": 1.0, "peak_rss_mb": 1,
        "finished_utc": "2026-01-31T04:00:00Z",
    }  # fmt: skip
    context.storage.write_json({}, f"runs/{NIGHT}", "run.json")
    context.storage.write_json(manifest, folder, MANIFEST)
