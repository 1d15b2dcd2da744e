"""The ledger of ingest as a person reads it."""

from __future__ import annotations

import io

from rich.console import Console

from llmaug.cli.ledger_table import counted_otherwise, ledger_table


def test_every_row_is_accounted_for_table_by_table() -> None:
    counts = {
        "rows_read": 1021, "accepted": 1006, "quarantined": 5, "dropped": 10,
        "quarantined.null_user_id": 5, "dropped.bot": 7, "dropped.duplicate": 3,
        "noted.twin_users": 2, "users": 3, "bot_users": 1, "items": 4, "files": 2,
        "items_table.rows_read": 9, "items_table.rows": 7, "items_table.bad_price": 1,
        "items_table.quarantined.bad_json": 1, "items_table.dropped.duplicate": 1,
        "items_table.in_logs": 3, "users_table.rows": 0,
    }  # fmt: skip
    out = io.StringIO()
    Console(file=out, width=80).print(ledger_table(counts))
    rows = [line.split() for line in out.getvalue().splitlines() if line.strip()]
    assert rows == [
        ["ledger", "of", "ingest:", "rows"],
        ["logs", "items"],
        ["read", "1,021", "9"],
        ["=", "accepted", "1,006", "7"],
        ["+", "quarantined", "5", "1"],
        ["bad_json", "0", "1"],
        ["null_user_id", "5", "0"],
        ["+", "dropped", "10", "1"],
        ["bot", "7", "0"],
        ["duplicate", "3", "1"],
    ]
    assert (
        counted_otherwise(counts) == "3 users, 4 items, 2 files; 3 of the items are in ingest.items"
    )
    counts = {"users": 3, "items": 4, "files": 2, "files.read": 1, "files.from_cache": 1}
    assert counted_otherwise(counts).endswith("2 files (1 of them read on an earlier night)")
