"""llmaug.commands.datasets: MovieLens-100K as logs."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from llmaug.commands import datasets
from llmaug.core.storage import Storage
from llmaug.errors import UserError


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Storage:
    storage = Storage(str(tmp_path_factory.mktemp("ml")))
    written = datasets.write_ml_100k(storage, max_users=20)
    assert written["users"] == 20 and written["files_written"] == written["days"] + 2
    return storage


def _events(storage: Storage) -> pa.Table:
    days = storage.names("events")
    return pa.concat_tables(storage.read_table("events", day, "part-0.parquet") for day in days)


def test_events_are_all_there_and_on_the_day_that_their_folder_says(small: Storage) -> None:
    raw = datasets._read((datasets._source() / "ml-100k.inter").read_bytes())
    expected = sum(int(user) <= 20 for user in raw["user_id"].to_pylist())
    assert _events(small).num_rows == expected
    assert _events(small).schema.names == ["user_id", "item_id", "action", "rating", "timestamp"]
    for day in small.names("events"):
        table = small.read_table("events", day, "part-0.parquet")
        assert table.schema.field("timestamp").type == pa.timestamp("us", "UTC")
        dates = {f"dt={when.date()}" for when in table["timestamp"].to_pylist()}
        assert dates == {day}


def test_tied_events_keep_the_order_of_the_source(small: Storage) -> None:
    raw = datasets._read((datasets._source() / "ml-100k.inter").read_bytes()).to_pylist()
    history = [row for row in raw if row["user_id"] == "1"]
    expected = [row["item_id"] for row in sorted(history, key=lambda r: int(r["timestamp"]))]
    ours = [row for row in _events(small).to_pylist() if row["user_id"] == "1"]
    assert [row["item_id"] for row in sorted(ours, key=lambda r: r["timestamp"])] == expected
    assert len({row["timestamp"] for row in ours}) < len(ours)  # there are ties


def test_item_tags(small: Storage) -> None:
    items = {row["item_id"]: row for row in small.read_table("items", "items.parquet").to_pylist()}
    assert len(items) == 1682
    assert items["1"]["title"] == "Toy Story"
    assert items["1"]["tags"] == [
        "genre:Animation",
        "genre:Children's",
        "genre:Comedy",
        "year:1995",
        "decade:1990s",
    ]
    assert items["267"] == {"item_id": "267", "title": None, "tags": []}  # 'unkonwn' in the source
    assert items["1412"]["tags"] == ["genre:Animation", "genre:Children's"]  # its year is 'V'
    genres = {tag for row in items.values() for tag in row["tags"] if tag.startswith("genre:")}
    assert len(genres) == 18 and {"genre:Sci-Fi", "genre:Film-Noir"} <= genres


def test_users_carry_no_zip_code(small: Storage) -> None:
    users = small.read_table("users", "users.parquet")
    assert users.column_names == ["user_id", "age", "gender", "occupation"]
    assert users.slice(0, 1).to_pylist() == [
        {"user_id": "1", "age": "18-24", "gender": "M", "occupation": "technician"}
    ]
    assert datasets._age_bucket(17) == "under 18" and datasets._age_bucket(55) == "55 and over"


def test_a_second_call_writes_nothing_and_a_damaged_copy_is_mended(tmp_path: Path) -> None:
    storage = Storage(str(tmp_path))
    first = datasets.write_ml_100k(str(tmp_path), max_users=3)
    stamp = Path(storage.path("items", "items.parquet")).stat().st_mtime_ns
    second = datasets.write_ml_100k(str(tmp_path), max_users=3)
    assert second == {**first, "files_written": 0}
    assert Path(storage.path("items", "items.parquet")).stat().st_mtime_ns == stamp
    storage.delete("events", min(storage.sizes("events")))
    assert datasets.write_ml_100k(storage, max_users=3) == first
    assert datasets.write_ml_100k(storage, max_users=2)["users"] == 2
    assert set(_events(storage)["user_id"].to_pylist()) == {"1", "2"}


def test_a_file_that_somebody_put_into_our_copy_is_not_replaced(tmp_path: Path) -> None:
    first = datasets.write_ml_100k(str(tmp_path), max_users=2)
    theirs = tmp_path / "events" / "dt=2026-01-31" / "clicks.parquet"
    theirs.parent.mkdir()
    theirs.write_bytes(b"theirs")
    with pytest.raises(UserError, match="clicks.parquet: this command did not write it"):
        datasets.write_ml_100k(str(tmp_path), max_users=3)
    assert theirs.read_bytes() == b"theirs"
    assert len(Storage(str(tmp_path)).sizes("events")) == first["days"] + 1


def test_somebody_elses_logs_are_refused(tmp_path: Path) -> None:
    theirs = tmp_path / "events" / "theirs.parquet"
    theirs.parent.mkdir()
    pq.write_table(pa.table({"user_id": ["a"]}), theirs)
    with pytest.raises(UserError, match="did not write"):
        datasets.write_ml_100k(str(tmp_path))
    assert theirs.exists()


def test_missing_package_names_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets, "package_folder", lambda *names: None)
    with pytest.raises(UserError, match="pip install --no-deps recbole==1.2.1"):
        datasets.write_ml_100k(str(tmp_path))
