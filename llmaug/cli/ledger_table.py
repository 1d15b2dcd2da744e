"""The ledger of ingest for people: where every row went, of the logs and the tables beside them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from rich.table import Table

from llmaug.ingest.ledger import below

_TABLES = {"logs": "", "items": "items_table.", "users": "users_table."}


def ledger_table(counts: dict[str, Any]) -> Table:
    """rows read = accepted + quarantined + dropped, with the reasons; `counts` of the manifest."""
    sides = {
        name: {n.removeprefix(prefix): c for n, c in counts.items() if n.startswith(prefix)}
        for name, prefix in _TABLES.items()
        if counts.get(f"{prefix}rows_read")
    }
    table = Table("", title="ledger of ingest: rows", box=None)
    for name in sides:
        table.add_column(name, justify="right")

    def add(label: str, numbers: Iterable[int], style: str | None = "bold") -> None:
        table.add_row(label, *(f"{number:,}" for number in numbers), style=style)

    add("read", (side["rows_read"] for side in sides.values()))
    kept = [side["accepted"] if "accepted" in side else side["rows"] for side in sides.values()]
    add("= accepted", kept)
    for kind in ("quarantined", "dropped"):
        found = [below(side, kind) for side in sides.values()]
        add(f"+ {kind}", (sum(side.values()) for side in found))
        for reason in sorted({name for side in found for name in side}):
            numbers = (side.get(reason, 0) for side in found)
            add(f"    {reason.removeprefix(f'{kind}.')}", numbers, None)
    return table


def counted_otherwise(counts: dict[str, Any]) -> str:
    """What the ledger counts besides rows, on one line."""
    text = f"{counts['users']:,} users, {counts['items']:,} items, {counts['files']:,} files"
    if kept := counts.get("files.from_cache"):
        text += f" ({kept:,} of them read on an earlier night)"
    if "items_table.in_logs" in counts:
        text += f"; {counts['items_table.in_logs']:,} of the items are in ingest.items"
    return text
