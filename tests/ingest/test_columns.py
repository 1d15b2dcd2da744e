"""Columns of every type that logs come in, to ids, text, numbers and times. No Ray."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any
from uuid import UUID

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmaug.config import NULL_WORDS
from llmaug.errors import UserError
from llmaug.ingest.columns import (
    MAX_ID_BYTES,
    Ids,
    id_column,
    number_column,
    parse_times,
    text_column,
)
from llmaug.ingest.time_text import microseconds

NOON = datetime(2019, 10, 1, 15, 4, 5, tzinfo=UTC)


def column(values: Any, kind: pa.DataType | None = None) -> pa.ChunkedArray:
    array = values if isinstance(values, pa.Array) else pa.array(values, kind)
    return pa.chunked_array([array])


def ids(values: Any, kind: pa.DataType | None = None, words: tuple[str, ...] = ()) -> Ids:
    return id_column(column(values, kind), "user_id", "x", words)


def times(values: Any, unit: str | None = None, time_format: str | None = None) -> list[Any]:
    """Moments, or what is wrong with them."""
    found = parse_times(column(values), unit, "x", time_format=time_format, null_words=NULL_WORDS)
    epoch = datetime(1970, 1, 1, tzinfo=UTC)
    return [
        "null" if found.null[at] else "bad" if found.bad[at] else "beyond" if found.beyond[at]
        else epoch + timedelta(microseconds=int(us))
        for at, us in enumerate(found.us)
    ]  # fmt: skip


# -- ids ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "array",
    [
        pa.array(["1", "14"]),
        pa.array([" 1", "14\t"]),
        pa.array(["\ufeff1", "\ufeff 14"]),
        pa.array(["1", "14"], pa.large_string()),
        pa.array(["1", "14"], pa.string_view()),
        pa.array([b"1", b"14"]),
        pa.array([b"01", b"14"], pa.binary(2)),
        pa.array(["1", "14"]).dictionary_encode(),
        pa.array([1, 14]).dictionary_encode(),
        pa.array([1, 14], pa.int8()),
        pa.array([1, 14], pa.uint64()),
        pa.array([1.0, 14.0]),
        pa.array(np.array([1, 14], np.float16)),
        pa.array([Decimal(1), Decimal(14)], pa.decimal128(38, 0)),
        pa.array([Decimal(1), Decimal(14)], pa.decimal128(38, 9)),
        pa.array([Decimal(1), Decimal(14)], pa.decimal256(76, 0)),
    ],
    ids=lambda array: str(array.type),
)
def test_the_same_user_has_one_id_in_every_type(array: pa.Array) -> None:
    found = ids(array)
    assert [each.lstrip("0") for each in found.ids.to_pylist()] == ["1", "14"]
    assert not (found.bad | found.not_utf8 | found.null_word).any()


def test_text_ids_are_not_rewritten() -> None:
    strange = ["007", "7", "1e5", "1.0", "é", "e\u0301", "NaN", "null", "-0", "a b", "a\u200bb"]
    assert ids(strange).ids.to_pylist() == strange


def test_a_word_for_nothing_is_no_user() -> None:
    found = ids(["\\N", " null", "None", "nan", "u1", "", None, "nobody"], words=NULL_WORDS)
    assert found.ids.to_pylist() == [None, None, None, None, "u1", None, None, "nobody"]
    assert found.null_word.tolist() == [True] * 4 + [False] * 4
    assert ids(["null", "-"], words=("-",)).ids.to_pylist() == ["null", None]


def test_numbers_that_cannot_be_ids_are_bad_one_by_one() -> None:
    found = ids([1.0, 1.5, float("nan"), 2.0**53, float("inf"), None, -3.0])
    assert found.ids.to_pylist() == ["1", None, None, None, None, None, "-3"]
    assert found.bad.tolist() == [False, True, False, True, True, False, False]
    found = ids([Decimal("1.50"), Decimal("2.00")], pa.decimal128(10, 2))
    assert found.ids.to_pylist() == [None, "2"] and found.bad.tolist() == [True, False]
    large = 12345678901234567890123456789012345678
    assert ids([Decimal(large)], pa.decimal128(38, 0)).ids.to_pylist() == [str(large)]
    assert ids([Decimal("1E+2")], pa.decimal128(5, -2)).ids.to_pylist() == ["100"]


def test_an_id_has_an_end() -> None:
    found = ids(["x" * MAX_ID_BYTES, "é" * MAX_ID_BYTES])
    assert found.long.tolist() == [False, True] and found.ids.to_pylist()[1] is None


def test_uuids_are_written_as_people_write_them() -> None:
    uuid = UUID("12345678-1234-5678-1234-567812345678")
    assert ids([uuid.bytes, None], pa.uuid()).ids.to_pylist() == [str(uuid), None]


def test_types_without_an_id_are_named_with_the_fix() -> None:
    with pytest.raises(UserError) as caught:
        ids([{"id": "u1"}])
    assert str(caught.value) == (
        "x: column 'user_id' is struct<id: string>, not text; name the field of it in the columns "
        "of the config, such as user_id: user_id.id"
    )
    for values in ([True], [["u1"]], [NOON], [date(2019, 10, 1)], [timedelta(1)]):
        with pytest.raises(UserError, match="^x: column 'user_id' is .* columns of the config"):
            ids(values)


def test_bytes_that_are_not_utf8_are_marked() -> None:
    for kind in (pa.binary(), pa.large_binary(), pa.binary_view()):
        raw = column([b"u1", b"\xff", b" ", None], kind)
        text, broken = text_column(raw, "user_id", "x")
        assert text.to_pylist() == ["u1", None, None, None]
        assert broken.tolist() == [False, True, False, False]


# -- numbers -----------------------------------------------------------------------------


def test_numbers_of_every_type() -> None:
    for values, kind in (
        (["1.5", "0"], None),
        ([Decimal("1.5"), 0], pa.decimal128(5, 1)),
        ([Decimal("1.5"), 0], pa.decimal256(50, 1)),
        (np.array([1.5, 0], np.float16), None),
        ([b"1.5 ", b"+0e0"], None),
        (pa.array([1.5, 0.0]).dictionary_encode(), None),
    ):
        value, bad = number_column(column(values, kind), "value", "x")
        assert value.to_pylist() == [1.5, 0.0] and not bad.any()
    value, bad = number_column(column([True, None]), "value", "x")
    assert value.to_pylist() == [1.0, None] and not bad.any()


def test_what_is_no_number_is_marked() -> None:
    text = ["1.5", "", "nan", "EUR 3", "1e99", "inf", "1,5", "True", "false", "\\N"]
    value, bad = number_column(column(text), "value", "x", ("\\N",))
    assert value.to_pylist() == [1.5, None, None, None, None, None, None, 1.0, 0.0, None]
    assert bad.tolist() == [False] * 3 + [True] * 4 + [False] * 3
    with pytest.raises(UserError, match="x: column 'value' is list<item: int64>, not a number"):
        number_column(column([[1]]), "value", "x")


# -- times -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "2019-10-01 15:04:05 UTC",  # BigQuery
        "2019-10-01 15:04:05.000 GMT",
        "2019-10-01 15:04:05 +0000",  # Ruby
        "2019-10-01 17:04:05+02",  # Postgres
        "2019-10-01 15:04:05 +0000 UTC",  # Go
        "2019-10-01T15:04:05.000000000Z",
        "2019-10-01 15:04:05,000",  # Python's logging
        "2019-10-01T17:04:05+02:00[Europe/Berlin]",  # Java
        "2019/10/01 15:04:05",
        "2019-10-01 3:04:05 PM",
        "01/Oct/2019:15:04:05 +0000",  # web servers
        "Tue, 01 Oct 2019 15:04:05 GMT",
        "Tue Oct 01 15:04:05 UTC 2019",
        "Tue Oct  1 15:04:05 2019",
        "Tue Oct 01 2019 17:04:05 GMT+0200 (Central European Summer Time)",  # JavaScript
        "2019-10-1 15:4:05",
        "2019/10/1 15:04:05",
        "Oct 1, 2019, 3:04:05 PM",
        " 2019-10-01T15:04:05z ",
    ],
)
def test_a_time_that_says_which_number_is_the_day_is_read(text: str) -> None:
    assert times([text, None, "NaT", "soon"]) == [NOON, "null", "null", "bad"]


def test_a_time_that_does_not_say_so_takes_a_format() -> None:
    text = ["10/1/2019 3:04:05 PM", "2019-10-01T15:04:05Z", "31/1/2019 3:04:05 PM", None]
    assert times(text) == ["bad", NOON, "bad", "null"]
    assert times(text, time_format="%m/%d/%Y %I:%M:%S %p") == [NOON, NOON, "bad", "null"]
    zoned = times(["01.10.19 17:04:05 +0200"], time_format="%d.%m.%y %H:%M:%S %z")
    assert zoned == [NOON]
    assert times(["10/1/2019 15:04:05 UTC"], time_format="%m/%d/%Y %H:%M:%S UTC") == [NOON]
    day = datetime(2019, 10, 1, tzinfo=UTC)
    for dates in (["20191001"], [20191001]):
        assert times(dates, time_format="%Y%m%d") == [day]
    with pytest.raises(UserError, match="or ingest.time_format '%Y%m%d' if they are dates"):
        times(["20191001"])


def test_a_zone_by_name_is_refused() -> None:
    named = ["2019-10-01 15:04:05 Europe/Berlin", "2019-10-01 15:04:05 CET", "2019-10-01T15:04:05"]
    assert times(named) == ["bad", "bad", NOON]


def test_numbers_of_any_notation_are_exact() -> None:
    moment = datetime(2020, 1, 1, 12, 1, 17, 123000, tzinfo=UTC)
    text = ["1577880077123", "1.577880077123E12", "+1577880077123.0", "0", "-1", "9" * 30]
    epoch = datetime(1970, 1, 1, tzinfo=UTC)
    early = [epoch, epoch - timedelta(milliseconds=1)]
    assert times(text, "ms") == [moment] * 3 + [*early, "beyond"]
    # A number in scientific notation beside it takes no digit from another.
    exact = datetime(2020, 1, 1, 12, 1, 17, 123456, tzinfo=UTC)
    assert times(["1577880077123456789", "1e18"], "ns")[0] == exact
    for kind in (pa.decimal128(38, 0), pa.decimal128(20, 3), pa.uint64(), pa.float64()):
        values = [Decimal(1577880077123)] if pa.types.is_decimal(kind) else [1577880077123]
        assert times(pa.array(values, kind), "ms") == [moment]
    assert times(pa.array([2**64 - 1], pa.uint64()), "s") == ["beyond"]


def test_types_with_a_time_in_them() -> None:
    naive = NOON.replace(tzinfo=None)
    for kind in ("s", "ms", "us", "ns"):
        assert times(pa.array([naive, None], pa.timestamp(kind))) == [NOON, "null"]
    zoned = NOON.astimezone(timezone(timedelta(hours=9)))
    assert times(pa.array([zoned], pa.timestamp("ns", "Asia/Tokyo"))) == [NOON]
    assert times(pa.array([naive], pa.timestamp("ms")).dictionary_encode()) == [NOON]
    day = datetime(2019, 10, 1, tzinfo=UTC)
    assert times(pa.array([date(2019, 10, 1)], pa.date32())) == [day]
    assert times(pa.array([date(2019, 10, 1)], pa.date64())) == [day]
    assert times(pa.array([None, None])) == ["null", "null"]
    with pytest.raises(UserError, match="column 'timestamp' is struct<.*timestamp: timestamp.date"):
        times([{"date": "2019-10-01"}])
    with pytest.raises(UserError, match="not a time; use timestamps, ISO 8601 text or numbers"):
        times(pa.array([1], pa.time64("us")))


# -- anything ----------------------------------------------------------------------------

ANY_TEXT = st.one_of(
    st.text(),
    st.sampled_from(NULL_WORDS),
    st.from_regex(r"\d{1,4}[-/.]\d{1,2}[-/.]\d{1,4}([T ]\d\d?:\d\d(:\d\d)?)? ?\w{0,4}"),
    st.from_regex(r"[+-]?\d{1,40}\.?\d*([eE][+-]?\d{1,4})?"),
)
ANY_COLUMN = st.one_of(
    st.lists(st.none() | ANY_TEXT.map(lambda text: text.encode("utf-8", "surrogatepass"))),
    st.lists(st.none() | st.binary()),
    st.lists(st.none() | st.integers(-(2**63), 2**63 - 1)),
    st.lists(st.none() | st.floats()),
    st.lists(st.none() | st.booleans()),
    st.lists(st.none() | st.datetimes(datetime(1700, 1, 1), datetime(2200, 1, 1))),
    st.lists(st.none() | st.decimals(-(10**9), 10**9, places=3)),
    st.lists(st.none() | st.lists(st.text(st.characters(codec="utf-8")))),
)


@settings(deadline=None)
@given(ANY_COLUMN, st.sampled_from([None, "s", "ms", "us", "ns"]), st.booleans())
def test_no_column_raises_anything_but_a_sentence(values: Any, unit: Any, formatted: bool) -> None:
    """And every row is either read, null or marked."""
    time_format = "%d/%m/%Y" if formatted else None
    for read in (
        lambda c: text_column(c, "user_id", "x"),
        lambda c: id_column(c, "user_id", "x", NULL_WORDS),
        lambda c: number_column(c, "value", "x"),
        lambda c: parse_times(c, unit, "x", time_format=time_format),
    ):
        try:
            found = read(column(values))
        except UserError as error:
            assert str(error).startswith("x: column '")
            continue
        assert all(len(each) == len(values) for each in found)


@settings(deadline=None)
@given(st.lists(st.none() | st.text(st.characters(codec="utf-8", exclude_categories=["C", "Z"]))))
def test_ids_come_back_as_a_writer_wrote_them(values: list[str | None]) -> None:
    written = [value and value.strip("\ufeff\u200b") or None for value in values]
    assert ids(pa.array(values, pa.string())).ids.to_pylist() == written


@settings(deadline=None)
@given(st.lists(st.integers(-(2**53) + 1, 2**53 - 1)))
def test_whole_floats_and_integers_are_the_same_ids(values: list[int]) -> None:
    whole, floats = ids(pa.array(values, pa.int64())), ids(pa.array(values, pa.float64()))
    assert floats.ids.to_pylist() == whole.ids.to_pylist() == [str(value) for value in values]


@settings(deadline=None)
@given(
    st.datetimes(
        datetime(1900, 1, 1), datetime(2100, 1, 1),
        timezones=st.sampled_from([UTC, timezone(timedelta(hours=5, minutes=30))]),
    )
)  # fmt: skip
def test_times_come_back_as_a_writer_wrote_them(moment: datetime) -> None:
    utc = moment.astimezone(UTC)
    written = [
        moment.isoformat(), moment.isoformat(" "), f"{utc:%Y-%m-%d %H:%M:%S.%f} UTC",
        moment.strftime("%Y-%m-%d %H:%M:%S.%f %z"), f"{utc:%Y-%m-%dT%H:%M:%S.%f}000Z",
    ]  # fmt: skip
    assert times(written) == [utc] * len(written)
    assert times([f"{utc:%d/%m/%Y %H-%M-%S.%f}"], None, "%d/%m/%Y %H-%M-%S.%f") == [utc]
    assert times([str(microseconds(utc))], "us") == [utc]


@settings(deadline=None)
@given(st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False)))
def test_numbers_come_back_as_a_writer_wrote_them(values: list[float]) -> None:
    for written in (values, [repr(value) for value in values]):
        found, bad = number_column(column(written, None if written else pa.float64()), "v", "x")
        assert found.to_pylist() == values and not bad.any()
