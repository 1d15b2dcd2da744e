"""Ray Data's steps one after another in this process: whole stages over files in milliseconds.

For tests of what files say. That Ray itself does these steps is seen in test_ingest.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pytest


class Dataset:
    """Rows that are there, and steps over them."""

    def __init__(self, rows: Iterable[dict[str, Any]]) -> None:
        self._rows = list(rows)
        self.context = SimpleNamespace()  # settings of Ray's

    def map(self, work: Callable[[dict], dict], **options: Any) -> Dataset:
        return Dataset(work(row) for row in self._rows)

    def map_batches(self, work: Callable[[pa.Table], Any], **options: Any) -> Tables:
        tables = []
        for row in self._rows:
            given = work(pa.Table.from_pylist([row]))
            tables += [given] if isinstance(given, pa.Table) else list(given)
        return Tables(tables)

    def iter_rows(self) -> Iterator[dict[str, Any]]:
        return iter(self._rows)


class Tables:
    def __init__(self, tables: list[pa.Table]) -> None:
        self._tables = tables

    def groupby(self, key: str, **options: Any) -> Groups:
        return Groups(pa.concat_tables(self._tables), key)

    def iter_batches(self, **options: Any) -> Iterator[pa.Table]:
        return iter(self._tables)


class Groups:
    def __init__(self, table: pa.Table, key: str) -> None:
        self._table, self._key = table, key

    def map_groups(self, work: Callable[[pa.Table], pa.Table], **options: Any) -> Dataset:
        keys = self._table[self._key]
        groups = (self._table.filter(pa.compute.equal(keys, key)) for key in keys.unique())
        return Dataset(row for group in groups for row in work(group).to_pylist())


def read_here(patch: pytest.MonkeyPatch) -> None:
    """Ray Data's entry point gives Datasets of this module."""
    import ray.data

    patch.setattr(ray.data, "from_items", lambda rows, **options: Dataset(rows))


@pytest.fixture
def serial_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of Ray is started."""
    read_here(monkeypatch)
    monkeypatch.setattr("llmaug.core.cluster.connect", lambda config: None)
