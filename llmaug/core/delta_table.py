"""Delta tables: which of their files are the table today, as the table's own log says.

The folder of a table also holds files of deleted and overwritten rows until it is vacuumed.
"""

from __future__ import annotations

import os
from urllib.parse import unquote

import pyarrow as pa

from llmaug.core.storage import Storage
from llmaug.errors import UserError


def live_files(place: Storage, setting: str) -> dict[str, dict[str, str | None]]:
    """{path below the table: its partition values} of the files of the newest version.

    Raises UserError when `deltalake` is not installed or cannot read the table, or when rows
    are deleted within files (deletion vectors).
    """
    uri = place.root
    try:
        import deltalake
    except ImportError as error:
        raise UserError(
            f"{uri}: is a Delta table, in which deleted rows still lie as files; install what "
            "reads it: pip install 'llmaug[delta]'"
        ) from error
    try:
        table = deltalake.DeltaTable(uri, storage_options=_options(place))
        features = set(table.protocol().reader_features or ())
        rows = pa.table(table.get_add_actions(flatten=False)).to_pylist()
    except Exception as error:  # the library has many errors, all about the table
        why = " ".join(str(error).split())[:300]
        raise UserError(
            f"{uri}: is a Delta table that deltalake cannot read ({why}); export "
            f"the rows to plain files and set {setting} to them"
        ) from error
    beyond = features & {"deletionVectors", "columnMapping"}
    if beyond:
        raise UserError(
            f"{uri}: is a Delta table with {', '.join(sorted(beyond))}, which is not read; run "
            f"REORG TABLE ... APPLY (PURGE), or export the rows and set {setting} to them"
        )
    return {
        unquote(row["path"]): {
            key: None if value is None else str(value)
            for key, value in (row.get("partition") or {}).items()
        }
        for row in rows
    }


def _options(place: Storage) -> dict[str, str] | None:
    """Where the S3 server is; credentials come from the environment as everywhere."""
    endpoint = place.endpoint_url or os.environ.get("AWS_ENDPOINT_URL")
    if place.is_local or not endpoint:
        return None
    return {"endpoint_url": endpoint, "allow_http": str(endpoint.startswith("http://")).lower()}
