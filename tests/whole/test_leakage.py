"""Two items that only held-out events have: nothing that generates or trains may know of them.

All files of the run are read, but for the clean logs and the held-out events themselves.
"""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest

from llmaug import pipeline
from llmaug.config import parse_config
from llmaug.core.storage import Storage
from tests.jobs import SMALL, changed, write_logs

PLANTED = ("planted-in-validation", "planted-in-test")
MAY_KNOW = ("ingest", "split/validation", "split/test")
CONFIG = changed(
    SMALL,
    lm={"model": "ngram"},
    plan={"strategies": [{"kind": "new_users", "num_users": 20, "num_events": 5},
                         {"kind": "continue", "num_events": 3}]},
)  # fmt: skip


def plant(root: Path, num_users: int = 20) -> None:
    """The last two events of some users are of items that nobody else has."""
    logs = root / "logs" / "events"
    events = ds.dataset(logs, partitioning="hive").to_table().to_pylist()
    last = max(events, key=lambda event: event["timestamp"])
    rows = []
    for user in sorted({event["user_id"] for event in events})[:num_users]:
        for number, item in enumerate(PLANTED, start=1):
            when = last["timestamp"] + timedelta(seconds=number)
            rows.append({**last, "user_id": user, "item_id": item, "timestamp": when})
    table = pa.Table.from_pylist([{k: v for k, v in row.items() if k != "dt"} for row in rows])
    pq.write_table(table, logs / f"dt={last['timestamp']:%Y-%m-%d}" / "planted.parquet")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, ray_session: None) -> Path:
    root = tmp_path_factory.mktemp("root")
    write_logs(str(root))
    plant(root)
    pipeline.run(parse_config(CONFIG), Storage(str(root)), "small", until="merge")
    return root / "runs" / "small"


def mentions(file: Path) -> list[str]:
    text: Any = file.read_text() if file.suffix == ".json" else str(pq.read_table(file).to_pylist())
    return [item for item in PLANTED if item in text]


def test_the_planted_items_were_held_out(run: Path) -> None:
    for fold, item in zip(("validation", "test"), PLANTED, strict=True):
        found = [mentions(file) for file in (run / "split" / fold).glob("*.parquet")]
        assert any(item in names for names in found)


def test_nothing_else_knows_of_them(run: Path) -> None:
    files = [file for file in run.rglob("*") if file.suffix in (".json", ".parquet")]
    others = [f for f in files if not str(f.relative_to(run)).startswith(MAY_KNOW)]
    stages = {file.relative_to(run).parts[0] for file in others}
    assert {"split", "vocabulary", "lm", "plan", "outcomes", "filtered", "merged"} <= stages
    assert {str(file): names for file in others if (names := mentions(file))} == {}
