"""Personal data in free text: what is found, and what only looks like it."""

from __future__ import annotations

from collections import Counter

import pyarrow as pa
import pytest

from llmaug import schema
from llmaug.ingest.pii import card_number, cn_id, mask_column, masked
from llmaug.ingest.side_ledger import SideTable
from llmaug.ingest.side_tables import mask_texts

FOUND = [
    ("write to anna.b@shop.example.", "write to <email>."),
    ("微信13912345678加我", "微信<cn_mobile>加我"),
    ("+86 139 1234 5678", "<cn_mobile>"),
    ("身份证11010519491231002X，电话010-62785001", "身份证<cn_id_card>，电话<phone>"),
    ("+41 44 668 18 00, (212) 555-0199 or 212-555-0199", "<phone>, <phone> or <phone>"),
    ("card 4111 1111 1111 1111, 5500-0000-0000-0004", "card <credit_card>, <credit_card>"),
    ("from 192.168.10.4 and 2001:db8::8a2e:370:7334", "from <ip_address> and <ip_address>"),
    ("see https://anna:pw@host.example/x", "see <url_credentials>"),
]
LEFT = [
    "2001: A Space Odyssey (1968)",
    "Blade Runner 2049 (2017), 1968-04-02, 12:30:45",
    "ISBN 978-3-16-148410-0, 9783161484100, EAN 4006381333931",
    "card 4111 1111 1111 1112",  # its check digit is another
    "110105194912310021 is no identity card",
    "version 1.2.3.4.5, 300.1.1.1, order 20250601123456",
    "Size 10-12-14-16, 15,000 units at 10.000.000",
    "a @ b, follow @anna",
]


@pytest.mark.parametrize(("text", "expected"), FOUND)
def test_personal_data_is_masked_by_its_type(text: str, expected: str) -> None:
    counts: Counter[str] = Counter()
    assert masked(text, counts) == expected
    assert sum(counts.values()) == expected.count("<")


@pytest.mark.parametrize("text", LEFT)
def test_what_only_looks_like_it_stays(text: str) -> None:
    counts: Counter[str] = Counter()
    assert masked(text, counts) == text and not counts


def test_check_digits_are_checked() -> None:
    """The examples of the standards; every other last digit is refused."""
    assert [d for d in "0123456789X" if cn_id(f"11010519491231002{d}")] == ["X"]
    assert [d for d in "0123456789" if card_number(f"411111111111111{d}")] == ["1"]
    assert not cn_id("110105194913310025")  # there is no thirteenth month


def test_a_column_keeps_its_length_and_its_nulls() -> None:
    counts: Counter[str] = Counter()
    column = pa.chunked_array([["a@b.example", None], ["plain", "1.2.3.4"]])
    assert mask_column(column, counts).to_pylist() == ["<email>", None, "plain", "<ip_address>"]
    assert counts == {"email": 1, "ip_address": 1}


def test_texts_of_items_and_attributes_of_users_are_masked_and_counted() -> None:
    notes: list[str] = []
    item = {"item_id": "1", "title": "Lamp by li@b.example", "origin": "real",
            "description": "call 13912345678", "tags": ["light", "+41 44 668 18 00"]}  # fmt: skip
    bare = {"item_id": "a@b.example", "origin": "real"}
    items = SideTable("items", pa.Table.from_pylist([bare, item], schema.ITEM))
    mask_texts(items, notes.append)
    kept, changed = items.rows.to_pylist()
    assert (kept["item_id"], kept["title"], kept["tags"]) == ("a@b.example", None, None)
    assert (changed["title"], changed["description"]) == ("Lamp by <email>", "call <cn_mobile>")
    assert changed["tags"] == ["light", "<phone>"]
    assert notes == [
        "ingest.items: masked in texts (privacy.mask_text): cn_mobile 1, email 1, phone 1"
    ]
    rows = [{"user_id": "u", "attributes": [("mail", "u@b.example"), ("city", "Bern")]},
            {"user_id": "v", "attributes": []}]  # fmt: skip
    users = SideTable("users", pa.Table.from_pylist(rows, schema.USER))
    mask_texts(users, notes.append)
    first, second = users.rows.to_pylist()
    assert first["attributes"] == [("mail", "<email>"), ("city", "Bern")]
    assert second["attributes"] == [] and users.masked == {"email": 1}
