"""Articles live for a day: none is generated, recommended or ranked when it is not there.

Three items from hour 0: `old` is gone at hour 10, `new` comes at hour 20, `ever` has no limit.
"""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch

from llmaug.config import VocabularyConfig
from llmaug.core.storage import Storage
from llmaug.evaluate.stage import num_there
from llmaug.filter.times import History, times_alive
from llmaug.ingest.item_fields import FIELDS
from llmaug.items.catalogue import catalogue as catalogue_of
from llmaug.items.lives import LIFE_COLUMNS, write_lives
from llmaug.items.vocabulary import BOS, Statistics, Vocabulary
from llmaug.lm.language import Language
from llmaug.publish.recommend import top_k
from llmaug.schema import ITEM
from llmaug.testing.tables import START, catalogue, hour
from llmaug.training.ranking import rank_targets, target_ranks
from tests.nights import make_night, without_ray
from tests.tables import VllmConfig, seen

EVER, NEW, OLD = range(3, 6)
NOTHING: tuple[datetime | None, datetime | None] = (None, None)


def words(**lives: tuple[datetime | None, datetime | None]) -> Vocabulary:
    """A catalogue whose items are there from and to these times."""
    known = catalogue(sorted(lives))
    items = known.items
    for place, name in enumerate(LIFE_COLUMNS):
        column = pa.array([lives[i][place] for i in known.item_ids], pa.timestamp("us", "UTC"))
        items = items.set_column(items.column_names.index(name), name, column)
    return replace(known, items=items)


WORDS = words(old=(None, hour(10)), new=(hour(20), None), ever=NOTHING)
LIVES = WORDS.lives
STATISTICS = Statistics(
    gap_s=[60.0], start_s=[START.timestamp()], history_len=[1.0],
    window_end_s=hour(30).timestamp(), actions=["read"],
)  # fmt: skip


def s(hours: float) -> float:
    return hour(hours).timestamp()


# -- where it comes from -------------------------------------------------------------------


def test_a_life_begins_with_the_first_training_event_unless_the_catalogue_says_when() -> None:
    side = pa.Table.from_pylist(
        [
            {"item_id": "dated", "origin": "real", "available_from": hour(7)},
            {"item_id": "offer", "origin": "real", "available_until": hour(2)},
            {"item_id": "unread", "origin": "real"},
        ],
        schema=ITEM,
    )
    taken = seen(read=2, dated=1, offer=1)
    taken = taken.set_column(2, "first_s", pa.array([s(5), s(9), s(1)]))
    items = catalogue_of(taken, side, VocabularyConfig(item_life_h=3))
    assert {row["item_id"]: (row["available_from"], row["available_until"])
            for row in items.to_pylist()} == {
        "read": (hour(5), hour(8)), "dated": (hour(7), hour(10)), "offer": (hour(1), hour(2)),
        "unread": NOTHING,
    }  # fmt: skip


def test_without_a_life_in_config_or_catalogue_everything_is_always_there() -> None:
    side = pa.Table.from_pylist([{"item_id": "a", "origin": "real"}], schema=ITEM)
    items = catalogue_of(seen(a=1), side, VocabularyConfig())
    assert items["available_until"].null_count == 1
    assert catalogue("ab").lives is None


def test_times_of_the_catalogue_are_read_as_those_of_the_logs() -> None:
    column = pa.chunked_array([["2026-01-01T00:00:00Z", "soon", None]])
    found, bad = FIELDS["available_until"](column, "available_until", "items.csv", ())
    assert found.to_pylist() == [datetime.fromisoformat("2026-01-01T00:00:00+00:00"), None, None]
    assert bad.tolist() == [False, True, False]


# -- ranking and recommending --------------------------------------------------------------


def score(users: list[str], histories: list[list[int]]) -> torch.Tensor:
    """`old` is best of all, `new` comes next, `ever` last."""
    return torch.tensor([[0.0, 0.0, 0.0, 1.0, 2.0, 3.0]]).repeat(len(users), 1)


@pytest.mark.parametrize(("at", "rank"), [(5, 1), (15, 0), (25, 1)], ids=["old", "none", "new"])
def test_only_what_was_there_competes(at: float, rank: int) -> None:
    assert target_ranks(score, ["u"], [[]], [EVER], lives=LIVES, times=[s(at)]).tolist() == [rank]
    assert num_there(WORDS, set(), EVER, s(at)) == rank + 1


def test_several_targets_each_stand_among_what_was_there_at_their_time() -> None:
    ranks, best = rank_targets(
        score, ["u", "v"], [[], []], [[EVER, NEW], [EVER]], num_best=3, lives=LIVES,
        times=[[s(5), s(25)], [s(25)]],
    )  # fmt: skip
    assert ranks.tolist() == [1, 0, 1]
    assert best.tolist() == [[OLD, EVER, -1], [NEW, EVER, -1]]  # at the time of the first


def test_a_late_click_on_what_is_gone_still_counts_and_what_was_seen_does_not() -> None:
    assert target_ranks(score, ["u"], [[]], [OLD], lives=LIVES, times=[s(25)]).tolist() == [0]
    assert num_there(WORDS, set(), OLD, s(25)) == 3
    assert num_there(WORDS, {NEW, OLD}, EVER, s(25)) == 1


class Scores(torch.nn.Module):
    def score(self, users: list[str], histories: list[list[int]]) -> torch.Tensor:
        return score(users, histories)

    def probability(self, scores: torch.Tensor) -> torch.Tensor:
        return scores.sigmoid()


def test_what_is_gone_is_not_recommended() -> None:
    at = {hours: top_k(Scores(), WORDS, ["u"], [[]], 3, s(hours)) for hours in (5, 15, 25)}
    names = {hours: [item for item, _ in own] for hours, [own] in at.items()}
    assert names == {5: ["old", "ever"], 15: ["ever"], 25: ["new", "ever"]}


# -- generated events ----------------------------------------------------------------------


def test_generated_events_happen_while_their_items_are_there() -> None:
    for seed in range(30):
        rng = np.random.default_rng(seed)
        old, ever, new = times_alive(rng, [OLD, EVER, NEW], None, None, STATISTICS, LIVES)
        assert old and ever and new
        assert START <= old <= hour(10) and old <= ever and hour(20) <= new <= hour(30)


def test_what_could_be_at_no_time_has_none_and_holds_up_nothing() -> None:
    rng = np.random.default_rng(0)
    new, old, ever = times_alive(rng, [NEW, OLD, EVER], None, None, STATISTICS, LIVES)
    assert new and old is None and ever and new <= ever
    # Between two events of a history.
    before_new = times_alive(rng, [NEW, EVER], hour(11), hour(12), STATISTICS, LIVES)
    assert before_new[0] is None and hour(11) <= before_new[1] <= hour(12)


def test_a_substitute_takes_the_time_of_what_it_replaces_or_none() -> None:
    history = History([EVER, EVER], [hour(5), hour(25)])
    rng = np.random.default_rng(0)
    found = history.times_of([OLD, OLD], [0, 1], True, rng, STATISTICS, LIVES)
    assert list(found) == [hour(5), None]


def test_lives_go_with_the_items_into_the_tokens_of_another_catalogue() -> None:
    theirs = LIVES.of_items(np.array([OLD, -1]), 3, 2)  # `old` and an unknown item, two actions
    assert theirs.end.tolist() == [np.inf] * 3 + [s(10), np.inf] * 2
    assert theirs.span(999) == (-np.inf, np.inf)


def test_decoding_goes_on_with_what_was_not_gone_before_the_last_item_came(
    tmp_path: Path,
) -> None:
    """The processor against random logits, asked as vLLM asks it: after `new`, no `old`; where
    nothing may follow, the filter judges what does."""
    from vllm import SamplingParams
    from vllm.v1.sample.logits_processor import BatchUpdate

    from llmaug.lm.causal.item_logits import ItemLogits
    from llmaug.lm.folder import NOTES

    language = Language(num_words=6)
    (tmp_path / NOTES).write_text(json.dumps({"language": language.as_json()}))
    write_lives(Storage(str(tmp_path)), LIVES)
    config: Any = VllmConfig(str(tmp_path), language.num_tokens)

    def allowed(prompt: list[int], output: list[int], **extra: Any) -> list[int]:
        processor = ItemLogits(config, torch.device("cpu"), False)
        asked = SamplingParams(max_tokens=1, extra_args={"in_order": True, **extra})
        update = BatchUpdate(1, removed=[], added=[(0, asked, prompt, output)], moved=[])
        processor.update_state(update)
        logits = processor.apply(torch.zeros(1, language.num_tokens))
        return torch.isfinite(logits[0]).nonzero().flatten().tolist()

    assert allowed([BOS], []) == [EVER, NEW, OLD]
    assert allowed([BOS], [OLD]) == [EVER, NEW, OLD]
    assert allowed([BOS, NEW], []) == allowed([BOS], [NEW]) == [EVER, NEW]
    assert allowed([BOS], [NEW], in_order=False) == [EVER, NEW, OLD]  # backwards, or in a gap
    assert allowed([BOS], [NEW], forbid_repeats=True) == [EVER]
    assert allowed([BOS], [NEW, EVER], forbid_repeats=True) == [EVER, NEW, OLD]


# -- the whole way -------------------------------------------------------------------------


def test_a_night_with_articles_of_three_hours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """a is read from hour 0 on and b from hour 3: at hour 4 the model that was published
    recommends b alone."""
    without_ray(monkeypatch)
    rows = [
        (user, item, at)
        for user in ("u1", "u2", "u3")
        for item, at in (("a", 0.0), ("b", 3.0), ("a", 3.5), ("b", 3.8))
    ]
    make_night(
        tmp_path / "root", tmp_path, rows, vocabulary={"item_life_h": 3.2},
        recommend={"at": hour(4).isoformat(), "include_seen": True, "k": 3},
    )  # fmt: skip
    storage, folder = Storage(str(tmp_path / "root")), "runs/night/recommendations"
    parts = [storage.read_part(folder, part) for part in storage.parts(folder)]
    assert {row["item_id"] for part in parts for row in part.to_pylist()} == {"b"}
    # Of the two items the only one that was there at hour 3.8 is ranked first, against nobody.
    ranks = storage.read_part("runs/night/evaluation/real-seed-1", "part-00000").to_pylist()
    assert {(row["rank"], row["num_ranked"]) for row in ranks} == {(0, 1)}
