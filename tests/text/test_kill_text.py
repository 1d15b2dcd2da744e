"""A text task in vLLM is killed with -9, and goes on: one with words, and one with images."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from llmaug.core.stage import MANIFEST
from llmaug.core.storage import Storage
from tests.jobs import SMALL, changed, llmaug, start, wait_until, write_config, write_logs
from tests.tables import read_rows
from tests.text.chat import write_byte_model, write_seeing_model
from tests.text.pictures import picture

pytestmark = [
    pytest.mark.soak, pytest.mark.faults, pytest.mark.slow, pytest.mark.usefixtures("shared_ray"),
]  # fmt: skip

NUM_ITEMS, PER_PART, KILLED_AT = 400, 10, (3, 12, 25)
COMMON = {"context_len": 2560, "units_per_part": PER_PART}


def words(root: Path) -> dict[str, Any]:
    """Section `text` of a task that asks with words alone."""
    write_byte_model(root / "chat-model")
    describe = {"kind": "describe_items", "max_rows": NUM_ITEMS, "max_new_tokens": 96}
    return {"folder": "{root}/chat-model", "tasks": [describe], **COMMON}


def images(root: Path) -> dict[str, Any]:
    """Section `text` of a task that shows an image of each item."""
    write_seeing_model(root / "chat-model")
    (root / "images").mkdir()
    [path] = (root / "logs/items").glob("*.parquet")
    table = pq.read_table(path)
    uris = [f"{number}.png" for number in range(table.num_rows)]
    for number, uri in enumerate(uris):
        data = picture(f"hsl({number % 360}, 80%, 50%)", "PNG")
        (root / "images" / uri).write_bytes(data)
    pq.write_table(table.append_column("image_uri", pa.array(uris)), path)
    caption = {"kind": "caption_items", "max_rows": NUM_ITEMS, "max_new_tokens": 96}
    return {
        "folder": "{root}/chat-model", "image_root": "{root}/images", "tasks": [caption], **COMMON,
    }  # fmt: skip


@pytest.mark.parametrize("section", [words, images], ids=["words", "images"])
def test_kill_9_costs_what_was_in_flight(tmp_path: Path, section: Any) -> None:
    write_logs(str(tmp_path))
    text = section(tmp_path)
    track = f"runs/small/text/{text['tasks'][0]['kind']}"
    path = write_config(tmp_path, changed(SMALL, text=text))
    command = ("run", "--config", str(path), "--root", str(tmp_path), "--until", "text")
    storage = Storage(str(tmp_path))
    for at_least in KILLED_AT:
        run = start(*command)
        wait_until(lambda: len(storage.parts(f"{track}/outcomes")) >= at_least, run)  # noqa: B023
        time.sleep(0.1)
        run.kill()
        run.wait()
        assert not storage.exists(f"{track}/outcomes", MANIFEST)
    done = llmaug(*command)
    assert done.returncode == 0, done.stderr

    asked = {row["unit_id"] for row in read_rows(storage, f"{track}/plan")}
    answered = [row["unit_id"] for row in read_rows(storage, f"{track}/outcomes")]
    assert len(asked) == NUM_ITEMS and sorted(answered) == sorted(asked)
    counts = storage.read_json(f"{track}/outcomes", MANIFEST)["counts"]
    parts_in_flight = 3 * len(KILLED_AT)
    assert counts["repeated"] <= parts_in_flight and counts["failed"] == 0
    ledger = storage.read_json(f"{track}/rows", MANIFEST)["counts"]
    assert ledger["units"] == NUM_ITEMS
    assert ledger["units"] == ledger["accepted"] + ledger["rejected"] + ledger["failed"]
