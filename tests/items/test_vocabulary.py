"""Items to tokens, and that nothing held out leaks into them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pyarrow as pa
import pytest

from llmaug.config import VocabularyConfig
from llmaug.core.stage import Context
from llmaug.errors import UserError
from llmaug.items import stage as vocabulary
from llmaug.items.catalogue import catalogue as catalogue_of
from llmaug.items.vocabulary import BOS, EOS, PAD, load_statistics, load_vocabulary
from llmaug.schema import ITEM
from tests.tables import catalogue, events, histories, hour, map_parts_here, seen

MakeContext = Callable[..., Context]


def test_items_become_tokens_and_come_back() -> None:
    words = catalogue("cab")
    assert words.item_ids == ["a", "b", "c"]
    assert words.num_tokens == 6
    assert words.encode(["b", "c", "a", "b"]).tolist() == [4, 5, 3, 4]
    assert [words.decode(token) for token in (3, 4, 5)] == ["a", "b", "c"]


def test_what_is_no_item_has_no_token_and_no_item_is_special() -> None:
    words = catalogue("ab")
    assert words.encode(["a", "stranger"]).tolist() == [3, -1]
    assert [words.decode(token) for token in (-1, PAD, BOS, EOS, 5)] == [None] * 5


def test_events_are_encoded_whatever_type_their_column_has() -> None:
    column = pa.array(["b", "a"]).dictionary_encode()
    assert catalogue("ab").encode(column).tolist() == [4, 3]
    assert catalogue("ab").encode(pa.chunked_array([column, column])).tolist() == [4, 3, 4, 3]


def test_another_catalogue_has_another_digest() -> None:
    assert catalogue("ab").digest == catalogue("ba").digest != catalogue("abc").digest


def test_tag_bags_by_hand() -> None:
    tags = {"a": ["old", "drama", "old"], "b": ["drama"], "d": ["rare", "old"]}
    names, flat, offsets = catalogue("abcd", tags=tags).tag_bags(min_items=2)
    assert names == ["drama", "old"]  # rare is on one item only
    #        a: drama, old | b: drama | c: nothing | d: old
    assert flat.tolist() == [0, 1, 0, 1]
    assert offsets.tolist() == [0, 2, 3, 3]


def side_items(*item_ids: str) -> pa.Table:
    rows = [{"item_id": i, "title": f"Title of {i}", "origin": "real"} for i in item_ids]
    return pa.Table.from_pylist(rows, schema=ITEM)


@pytest.mark.parametrize(("cold_items", "expected"), [(True, "abz"), (False, "ab")])
def test_items_without_an_event_have_a_token_if_the_config_says_so(
    cold_items: bool, expected: str
) -> None:
    config = VocabularyConfig(cold_items=cold_items)
    items = catalogue_of(seen(b=5, a=1), side_items("z", "b"), config)
    rows = {row["item_id"]: row for row in items.to_pylist()}
    assert list(rows) == list(expected)
    assert (rows["a"]["train_events"], rows["a"]["title"]) == (1, None)
    assert (rows["b"]["train_events"], rows["b"]["title"]) == (5, "Title of b")
    if cold_items:
        assert rows["z"]["train_events"] == 0


def test_words_of_titles_are_tags_if_the_config_says_so() -> None:
    rows = [
        {"item_id": "a", "title": "Toy Story, a STORY (1995)", "tags": ["genre:x"]},
        {"item_id": "b", "title": "L'été"},
        {"item_id": "c"},
    ]
    side = pa.Table.from_pylist([{"origin": "real", **row} for row in rows], schema=ITEM)
    config = VocabularyConfig(title_words=True)
    items = catalogue_of(seen(d=1), side, config)
    assert items["tags"].to_pylist() == [
        ["genre:x", "word:toy", "word:story", "word:1995"], ["word:été"], [], []
    ]  # fmt: skip
    plain = catalogue_of(seen(d=1), side, VocabularyConfig())
    assert plain["tags"].to_pylist() == [["genre:x"], None, None, None]


def write_split(context: Context, **rows: Any) -> None:
    for fold in ("train", "validation", "test"):
        for part, found in rows.get(fold, {}).items():
            table = events(found, action="view" if fold == "train" else "buy")
            context.storage.write_part(table, {}, f"{context.folder('split')}/{fold}", part)


def test_held_out_events_leave_no_trace(make_context: MakeContext, ray_session: None) -> None:
    """Item x is only in held-out events, which are many, late, far apart, of another action."""
    context = make_context()
    held_out = {"p0": [("u1", "x", 1000.0 * number) for number in range(1, 50)], "p1": []}
    train = {"p0": histories(u1="aba"), "p1": histories(u2="b")}
    write_split(context, train=train, validation=held_out, test=held_out)
    context.storage.write_part(
        side_items("a", "b", "new"), {}, context.folder("ingest/items"), "items"
    )

    counts = vocabulary.run(context)

    words = load_vocabulary(context.storage, context.folder("vocabulary"))
    assert words.item_ids == ["a", "b", "new"]
    assert words.encode(["x"]).tolist() == [-1]
    assert words.items["train_events"].to_pylist() == [2, 2, 0]
    assert (counts["items"], counts["cold_items"]) == (3, 1)
    statistics = load_statistics(context.storage, context.folder("vocabulary"))
    assert statistics.actions == ["view"]
    assert set(statistics.gap_s) == {3600.0}
    assert set(statistics.start_s) == {hour(0).timestamp()}
    assert (statistics.history_len[0], statistics.history_len[-1]) == (1, 3)
    assert statistics.window_end_s == hour(2).timestamp()
    assert statistics.time_step_s == 3600.0


@pytest.mark.parametrize(
    ("hours", "step_s"),
    [([0, 24, 48], 86_400.0), ([0, 24, 49], 3_600.0), ([0.5, 24], 60.0), ([1 / 7200], 0.0)],
)
def test_the_clock_of_the_logs_is_read_off_their_times(
    hours: list[float], step_s: float, make_context: MakeContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vocabulary, "map_parts", map_parts_here)
    context = make_context()
    whole, more = [("u1", "a", 0.0)], [("u2", "b", at) for at in hours]
    write_split(context, train={"p0": whole, "p1": more, "p2": []})
    vocabulary.run(context)
    found = load_statistics(context.storage, context.folder("vocabulary"))
    assert found.time_step_s == step_s


def test_a_start_from_item_vectors_is_refused_before_anything_is_trained(
    make_context: MakeContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vocabulary, "map_parts", map_parts_here)
    context = make_context(
        vocabulary={"max_atomic_items": 2}, train={"arms": ["real", "restarted", "started"]}
    )
    write_split(context, train={"p0": histories(u1="abc")})
    with pytest.raises(UserError, match=r"vocabulary\.max_atomic_items"):
        vocabulary.run(context)


def test_a_catalogue_of_one_item_cannot_be_ranked(
    make_context: MakeContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vocabulary, "map_parts", map_parts_here)
    context = make_context()
    write_split(context, train={"p0": histories(u1="aaa")})
    with pytest.raises(UserError, match=r"the catalogue has 1 item\(s\).*ingest.columns"):
        vocabulary.run(context)


def test_gaps_lie_between_the_events_of_one_user(
    make_context: MakeContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vocabulary, "map_parts", map_parts_here)
    context = make_context()
    rows = [("u1", "a", 0), ("u1", "b", 2), ("u2", "a", 50), ("u3", "a", 90), ("u3", "b", 92)]
    write_split(context, train={"p0": rows, "p1": []})
    vocabulary.run(context)
    statistics = load_statistics(context.storage, context.folder("vocabulary"))
    assert set(statistics.gap_s) == {2 * 3600.0}


def test_logs_in_which_nobody_comes_back_have_no_gaps(
    make_context: MakeContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vocabulary, "map_parts", map_parts_here)
    context = make_context()
    write_split(context, train={"p0": [("u1", "a", 0), ("u2", "b", 50)]})
    vocabulary.run(context)
    statistics = load_statistics(context.storage, context.folder("vocabulary"))
    assert set(statistics.gap_s) == {0.0}


def test_an_items_file_of_another_run_is_noticed(make_context: MakeContext) -> None:
    storage = make_context().storage
    storage.write_part(
        catalogue("ab").items, {"vocabulary_digest": catalogue("abc").digest}, "v", "items"
    )
    with pytest.raises(UserError, match="not the one its note describes"):
        load_vocabulary(storage, "v")
