"""What text tasks wrote, as events of the arms `reviewed` and `warmed`."""

from __future__ import annotations

import pyarrow as pa

from llmaug.schema import EVENT, validate


def written_events(rows: pa.Table, task: str, action: str, weight: float) -> pa.Table:
    """Rows of schema REVIEW as events with a value, whose texts stay where they are; those of
    CHOSEN as a run of events, one for each item. action: of what was chosen."""
    is_review = "review" in rows.column_names
    events = rows.drop_columns(["review"]) if is_review else _runs(rows, action)
    for name, value in (("weight", weight), ("strategy", task)):
        events = events.append_column(name, pa.repeat(value, events.num_rows))
    return validate(events, EVENT, task)


def _runs(rows: pa.Table, action: str) -> pa.Table:
    made = [
        {
            **{name: value for name, value in row.items() if name != "item_ids"},
            "user_id": row["user_id"] or f"synthetic:{row['unit_id']}",
            "item_id": item_id,
            "action": action,
            "position": position,
        }
        for row in rows.to_pylist()
        for position, item_id in enumerate(row["item_ids"])
    ]
    names = {*rows.column_names, "item_id", "action", "position"}
    return pa.Table.from_pylist(made, pa.schema([own for own in EVENT if own.name in names]))
