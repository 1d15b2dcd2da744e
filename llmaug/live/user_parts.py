"""Exposures and feedback in parts on this machine's disk, by a hash of the user.

All rows of a user are in one part, in the order in which they were read, so that an experiment of
any size is counted part by part.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType

import pyarrow as pa
import pyarrow.compute as pc

from llmaug.ingest.by_user import parts_of
from llmaug.schema import EXPOSURE, FEEDBACK

_NUM_PARTS = 64
_OPTIONS = pa.ipc.IpcWriteOptions(compression="lz4")


class UserParts:
    """Takes tables until the `with` block is left; then it is pairs of (exposures, feedback), as
    often as one likes."""

    def __init__(self, folder: Path) -> None:
        """folder: an empty one of the caller, who deletes it."""
        self._files = {
            schema: [folder / f"{name}-{n}.arrow" for n in range(_NUM_PARTS)]
            for name, schema in (("exposures", EXPOSURE), ("feedback", FEEDBACK))
        }
        self._open = ExitStack()

    def __enter__(self) -> UserParts:
        self._writers = {
            schema: [
                self._open.enter_context(pa.ipc.new_stream(file, schema, options=_OPTIONS))
                for file in files
            ]
            for schema, files in self._files.items()
        }
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._open.close()

    def add(self, table: pa.Table) -> None:
        """Rows of schema EXPOSURE or FEEDBACK."""
        part = parts_of(table["user_id"].combine_chunks(), _NUM_PARTS)
        for number in pc.unique(part).to_pylist():
            self._writers[table.schema][number].write_table(table.filter(pc.equal(part, number)))

    def __iter__(self) -> Iterator[tuple[pa.Table, pa.Table]]:
        for files in zip(*self._files.values(), strict=True):
            shown, said = (pa.ipc.open_stream(file).read_all() for file in files)
            yield shown, said
