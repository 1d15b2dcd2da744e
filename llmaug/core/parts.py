"""Tables below a root, as Parquet files: one at a time, or as parts of a folder.

A part is a table and the note (JSON) beside it, which is written last: a table without one does
not count.
"""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from llmaug.core.formats import NOTE, Format
from llmaug.core.objects import Objects, digest
from llmaug.core.stored import damaged


class Tables(Objects):
    """Reads and writes tables."""

    def read_table(
        self, *names: str, columns: list[str] | None = None, stored: Format | None = None
    ) -> pa.Table:
        """stored: the format of such tables; an older one is as if it were written today."""
        # Not `pq.read_table`: its background threads may let go of our bytes after the
        # interpreter has begun to end, and that aborts the process (seen with pyarrow 26).
        try:
            data = pa.BufferReader(self.read(*names))
        except FileNotFoundError as error:
            raise damaged(self, "it is missing", *names) from error
        try:
            file = pq.ParquetFile(data, pre_buffer=False)
            if stored is None or stored.is_of_today(file.schema_arrow, self.uri(*names)):
                table = file.read(columns=columns, use_threads=False)
            else:
                whole = file.read(use_threads=False)
                table = stored.upgraded_table(whole, self.uri(*names))
                table = table.select([n for n in table.column_names if n in (columns or [n])])
        except (pa.ArrowException, OSError) as error:  # ArrowIOError is an OSError
            raise damaged(self, f"it is no Parquet file ({error})", *names) from error
        if missing := set(columns or ()) - set(table.column_names):
            raise damaged(self, f"columns are missing: {', '.join(sorted(missing))}", *names)
        return table

    def write_table(self, table: pa.Table, *names: str) -> str:
        """Write Parquet; returns the content digest of the file."""
        data = _parquet(table)
        self.write(data, *names)
        return digest(data)

    def write_part(self, table: pa.Table, counts: dict[str, Any], folder: str, part: str) -> dict:
        """Write `part` (a table), then the small JSON beside it that makes it count as done.

        The note holds rows, bytes, digest and `counts`, so that a resumed stage adds up the same
        ledger without reading the rows again.
        """
        return self.write_part_data(_parquet(table), table.num_rows, counts, folder, part)

    def write_part_data(
        self, data: bytes, num_rows: int, counts: dict[str, Any], folder: str, part: str
    ) -> dict:
        """The same of a table that is Parquet already."""
        self.write(data, folder, f"{part}.parquet")
        note = {
            **NOTE.stamp, "part": part, "rows": num_rows, "bytes": len(data),
            "digest": digest(data), "counts": counts,
        }  # fmt: skip
        self.write_json(note, folder, f"{part}.json")
        return note

    def read_part(
        self,
        folder: str,
        part: str,
        columns: list[str] | None = None,
        stored: Format | None = None,
    ) -> pa.Table:
        return self.read_table(folder, f"{part}.parquet", columns=columns, stored=stored)

    def parts(self, folder: str) -> list[str]:
        """Names of the finished parts in `folder`, in order."""
        names = self.names(folder)
        notes = {name.removesuffix(".json") for name in names if name.endswith(".json")}
        return [n[:-8] for n in names if n.endswith(".parquet") and n[:-8] in notes]


def _parquet(table: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd")
    return bytes(sink.getvalue().to_pybytes())
