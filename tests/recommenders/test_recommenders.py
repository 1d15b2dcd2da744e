"""One contract that every recommender keeps, and what is special about each."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from llmaug import recommenders
from llmaug.arms.arms import ARMS
from llmaug.config import RECOMMENDERS, TrainConfig, parse_config
from llmaug.core.storage import Storage
from llmaug.errors import UserError
from llmaug.items.vocabulary import BOS
from llmaug.recommenders import DataFacts
from llmaug.recommenders.pair_batches import PairBatches, RatingBatches
from llmaug.recommenders.train import rated_events
from llmaug.testing.recommenders import (
    EVENTS,
    LETTERS,
    LINES,
    TAGS,
    WORDS,
    A,
    B,
    C,
    D,
    E,
    F,
    batches_of,
    check_recommender,
    ndcg_of,
    split_by_user,
    train,
)
from tests.tables import catalogue, events, histories, hour


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Threads that wait for each other cost more than these models do, on a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def config_of(model: str, **changes: Any) -> Any:
    """A small one."""
    small = {"model": model, "embedding_dim": 8, "num_heads": 2, "num_layers": 1, "history_len": 6,
             "dropout": 0.0, "batch_size": 8}  # fmt: skip
    known = RECOMMENDERS.fields_of(small)
    return RECOMMENDERS.make({name: small[name] for name in small if name in known} | changes)


VARIANTS = {
    "sasrec": config_of("sasrec"),
    "sasrec fusion": config_of("sasrec", item_features=True),
    "sasrec sampled": config_of("sasrec", loss="sampled_softmax"),
    "two_tower": config_of("two_tower"),
    "two_tower fusion": config_of("two_tower", item_features=True),
    "two_tower bpr": config_of("two_tower", loss="bpr"),
    "linear": config_of("linear"),
    "linear hadamard": config_of("linear", interaction="hadamard"),
    "linear_rating": config_of("linear_rating"),
    "linear mse": config_of("linear", loss="mse", interaction="hadamard"),
    "ease": config_of("ease", ease_l2=1.0),
    "popularity": config_of("popularity"),
    "popularity recent": config_of("popularity", popularity_days=30),
}
IN_ORDER = {name: c for name, c in VARIANTS.items() if c.model in ("sasrec", "two_tower")}
# What ranks alike for everybody knows only what is popular.
PERSONAL = {name: VARIANTS[name] for name in VARIANTS
            if "popularity" not in name and name != "linear"}  # fmt: skip


@pytest.mark.parametrize("config", VARIANTS.values(), ids=VARIANTS)
class TestContract:
    def test_it_keeps_what_all_must_keep(self, config: TrainConfig) -> None:
        check_recommender(config)

    def test_it_judges_pairs_or_does_not(self, config: TrainConfig) -> None:
        model = recommenders.build(config, DataFacts(WORDS, ["u1"]))
        assert isinstance(model, recommenders.JudgesPairs) == (config.model == "linear")

    @pytest.mark.parametrize("keep", [0, 100, -10])
    def test_damaged_weights_are_noticed(
        self, config: TrainConfig, keep: int, tmp_path: Path
    ) -> None:
        storage = Storage(str(tmp_path))
        recommenders.save_recommender(storage, "model", train(config, 1)[0], config, WORDS)
        whole = storage.read("model", "model.safetensors")
        storage.write(whole[:keep], "model", "model.safetensors")
        with pytest.raises(UserError, match="model.safetensors is damaged") as caught:
            recommenders.load_recommender(storage, "model")
        assert storage.uri("model") in caught.value.message

    def test_items_of_another_model_are_noticed(self, config: TrainConfig, tmp_path: Path) -> None:
        storage = Storage(str(tmp_path))
        recommenders.save_recommender(storage, "model", train(config, 1)[0], config, WORDS)
        others = catalogue("abcdez").items.select(["item_id", "title", "train_events"])
        pq.write_table(others, f"{tmp_path}/model/items.parquet")
        with pytest.raises(UserError, match="do not belong together"):
            recommenders.load_recommender(storage, "model")


def test_every_kind_is_among_these() -> None:
    assert {type(config) for config in VARIANTS.values()} == set(RECOMMENDERS)


@pytest.mark.parametrize("config", PERSONAL.values(), ids=PERSONAL)
def test_each_taste_gets_its_own_list(config: TrainConfig) -> None:
    model, _ = train(config, 150)
    with torch.no_grad():
        first, second = model.score(["u1", "u3"], [[A, B], [D, E]])
    assert first[C] > first[[D, E, F]].max()
    assert second[F] > second[[A, B, C]].max()


@pytest.mark.parametrize("config", IN_ORDER.values(), ids=IN_ORDER)
def test_where_order_matters_popularity_is_beaten(config: TrainConfig) -> None:
    """All items are equally popular, so only what stood before tells what comes next."""
    rows = events(histories(**{f"u{i}": line for i, line in enumerate(LINES * 3)}))
    popular, _ = train(VARIANTS["popularity"], 0, LETTERS, rows)
    model, _ = train(config, 200, LETTERS, rows)
    assert ndcg_of(model, rows) > 0.95
    assert ndcg_of(popular, rows) < 0.6


def test_a_folder_without_a_model_says_so(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="not a recommender folder"):
        recommenders.load_recommender(Storage(str(tmp_path)), "nowhere")


# -- sasrec --------------------------------------------------------------------------------


def test_sasrec_learns_what_follows_what() -> None:
    model, _ = train(config_of("sasrec"), 120)
    with torch.no_grad():
        scores = model.score(["x"] * 2, [[A, B], [E, F]])
    assert scores[0].argmax() == C and scores[1].argmax() == D


def test_sasrec_looks_at_the_newest_events_only() -> None:
    model, _ = train(config_of("sasrec", history_len=3), 5)
    with torch.no_grad():
        long, newest, other = model.score(["x"] * 3, [[F, D, A, B, C], [A, B, C], [A, B, D]])
    assert torch.equal(long, newest)
    assert not torch.equal(long, other)


def test_sasrec_does_not_see_the_future() -> None:
    """The loss of the first events is the same whatever comes after them."""
    model, _ = train(config_of("sasrec"), 5)
    weights = torch.tensor([[0.0, 1.0, 1.0, 0.0, 0.0]])
    with torch.no_grad():
        losses = [
            model.loss(torch.tensor([[BOS, A, B, *future]]), weights) for future in ([C, D], [F, A])
        ]
    assert torch.allclose(losses[0], losses[1])


@pytest.mark.parametrize("cost_of_a_pass", [0, 1000])
def test_sasrec_loss_is_that_of_each_row_alone(
    monkeypatch: pytest.MonkeyPatch, cost_of_a_pass: int
) -> None:
    """Rows of like length go through the model together: how, must not matter to the loss."""
    monkeypatch.setattr("llmaug.recommenders.sasrec._TOKENS_A_PASS", cost_of_a_pass)
    model, _ = train(config_of("sasrec"), 5)
    rows = [[BOS, A], [BOS, A, B, C, D, E, F], [BOS, C, D], [BOS, F, E, D], [BOS, B, C, A, B, D]]
    tokens = torch.tensor([row + [0] * (7 - len(row)) for row in rows])
    weights = (tokens != 0).float()
    weights[:, 0] = 0
    weights[1, 2] = 0  # context without loss
    with torch.no_grad():
        whole = model.loss(tokens, weights)
        alone = [
            model.loss(torch.tensor([row]), weights[[n], : len(row)]) * weights[n].sum()
            for n, row in enumerate(rows)
        ]
    assert whole.item() == pytest.approx((sum(alone) / weights.sum()).item(), rel=1e-5)


def test_rows_are_parted_where_padding_costs_more_than_a_pass() -> None:
    from llmaug.recommenders.sasrec import _rows_a_pass

    assert _rows_a_pass([5] * 128) == 128
    assert _rows_a_pass([50] * 128) == 128
    assert _rows_a_pass([5] * 96 + [50] * 32) == 32  # the long ones by themselves
    assert _rows_a_pass([1, 6]) == 2  # too few to matter
    assert _rows_a_pass([3]) == 1


def test_sasrec_weights_scale_an_event() -> None:
    model, _ = train(config_of("sasrec"), 5)
    tokens = torch.tensor([[BOS, A, F]])
    with torch.no_grad():
        first, second, both = (
            model.loss(tokens, torch.tensor([weights])).item()
            for weights in ([0.0, 1.0, 0.0], [0.0, 0.0, 1.0], [0.0, 3.0, 1.0])
        )
    assert both == pytest.approx((3 * first + second) / 4, rel=1e-5)


# -- item features ---------------------------------------------------------------------------


@pytest.mark.parametrize("by", ["tags", "text"])
@pytest.mark.parametrize("model_name", ["sasrec", "two_tower"])
def test_features_tell_of_items_that_nobody_has_seen(model_name: str, by: str) -> None:
    """New items, twenty of each taste, that the training events do not know."""
    new = {taste: [f"new_{taste}{number}" for number in range(20)] for taste in "xy"}
    tags = {**TAGS, **{item: [taste] for taste in "xy" for item in new[taste]}}
    words = catalogue(list(tags), tags=tags)
    if by == "text":
        directions = {"x": [1.0, 0.0, 0.0], "y": [0.0, 0.6, 0.8]}
        text = {item: directions[own[0]] for item, own in tags.items() if own[0] in directions}
        words = catalogue(list(tags), text=text)
    new_x, new_y = (words.encode(new[taste]).tolist() for taste in "xy")
    gaps = []
    for item_features in (False, True):
        config = config_of(model_name, item_features=item_features)
        model, _ = train(config, 120, words)
        with torch.no_grad():
            likes_x, likes_y = model.score(["x", "y"], [[A, B], [D, E]])
        own = torch.cat([likes_x[new_x], likes_y[new_y]])
        other = torch.cat([likes_x[new_y], likes_y[new_x]])
        gaps.append((own.mean() - other.mean()).item())
    assert gaps[1] > 1
    assert abs(gaps[0]) < gaps[1] / 4


@pytest.mark.parametrize("text", [None, {"a": [0.6, 0.8], "d": [1.0, 0.0]}], ids=str)
def test_features_are_folded_into_plain_weights(
    text: dict[str, list[float]] | None, tmp_path: Path
) -> None:
    """What is served needs neither the features nor the code that knows them."""
    storage = Storage(str(tmp_path))
    config = config_of("sasrec", item_features=True)
    words = catalogue(WORDS.item_ids, tags=TAGS, text=text)
    model = train(config, 3, words)[0]
    recommenders.save_recommender(storage, "model", model, config, words)
    recommenders.save_recommender(storage, "ids", train(config_of("sasrec"), 3)[0], config, WORDS)
    loaded, plain = (
        recommenders.load_recommender(storage, folder)[0] for folder in ("model", "ids")
    )
    assert loaded.features is None
    assert loaded.state_dict().keys() == plain.state_dict().keys()
    with torch.no_grad():
        expected, found = (m.eval().score(["x"], [[A, D, B]]) for m in (model, loaded))
    assert torch.allclose(found, expected, atol=1e-5)


def test_features_start_from_the_weights_of_the_model_without() -> None:
    torch.manual_seed(5)
    plain = recommenders.build(config_of("sasrec"), DataFacts(WORDS))
    torch.manual_seed(5)
    fusion = recommenders.build(config_of("sasrec", item_features=True), DataFacts(WORDS))
    for name, weight in plain.state_dict().items():
        assert torch.equal(weight, fusion.state_dict()[name]), name


def test_features_of_a_catalogue_without_any_are_refused() -> None:
    config = config_of("sasrec", item_features=True)
    with pytest.raises(UserError, match="vocabulary.min_tag_items"):
        recommenders.build(config, DataFacts(catalogue("abc")))
    with pytest.raises(UserError, match="no tag is shared by 4 items"):
        recommenders.build(config, DataFacts(WORDS, min_tag_items=4))


# -- two_tower -----------------------------------------------------------------------------


def test_two_tower_sees_all_of_the_history_and_its_last_item() -> None:
    model, _ = train(config_of("two_tower"), 5)
    with torch.no_grad():
        scores = model.score(["x"] * 4, [[A, B, C], [B, A, C], [A, C, B], [D, B, C]])
    assert torch.allclose(scores[0], scores[1], atol=1e-6)  # before the last one, order is lost
    assert not torch.allclose(scores[0], scores[2], atol=1e-6)
    assert not torch.allclose(scores[0], scores[3], atol=1e-6)


def test_two_tower_scores_as_it_was_trained() -> None:
    """The user after two of three events is the user who has only those two."""
    model, _ = train(config_of("two_tower"), 5)
    table = model.table()
    with torch.no_grad():
        inside = model._users(torch.tensor([[BOS, A, B, C]]), table)[0] @ table.T
        for length in range(4):
            alone = model.score(["x"], [[A, B, C][:length]])[0]
            assert torch.allclose(inside[length], alone, atol=1e-6)


def test_two_tower_looks_at_the_newest_events_only() -> None:
    model, _ = train(config_of("two_tower", history_len=2), 5)
    with torch.no_grad():
        long, newest = model.score(["x"] * 2, [[F, D, A, B], [A, B]])
    assert torch.allclose(long, newest, atol=1e-6)


# -- ease and popularity -------------------------------------------------------------------


def test_ease_is_the_solution_of_its_equation() -> None:
    """Steck (2019): least squares of X on itself with a zero diagonal, found here by descent."""
    l2 = 0.5
    model, _ = train(config_of("ease", ease_l2=l2), 0)
    x = torch.zeros(4, 6)
    for row, items in enumerate(([A, B, C], [B, C, A], [D, E, F], [E, F, D])):
        x[row, torch.tensor(items) - A] = 1
    weights = torch.zeros(6, 6, requires_grad=True)
    optimiser = torch.optim.LBFGS([weights], max_iter=500, tolerance_change=1e-12)

    def closure() -> torch.Tensor:
        optimiser.zero_grad()
        off = weights - weights.diag().diag()
        loss = ((x - x @ off) ** 2).sum() + l2 * (off**2).sum()
        loss.backward()
        return loss

    optimiser.step(closure)
    expected = (weights - weights.diag().diag()).detach()
    assert torch.allclose(model.weights, expected, atol=1e-3)
    assert (model.weights.diagonal() == 0).all()
    with torch.no_grad():
        scores = model.score(["x"], [[A, B, B]])[0]
    assert torch.allclose(scores[A:], expected[0] + expected[1], atol=1e-3)


def test_an_event_of_weight_two_counts_as_two() -> None:
    doubled = EVENTS.set_column(
        EVENTS.schema.get_field_index("weight"), "weight", pa.array([2.0] * 12, pa.float32())
    )
    config = config_of("ease", ease_l2=1.0)
    heavy, _ = train(config, 0, rows=doubled)
    twice = recommenders.build(config, DataFacts(WORDS))
    twice.fit(lambda: [EVENTS, EVENTS])
    assert torch.allclose(heavy.weights, twice.weights, atol=1e-6)


def test_ease_gives_strangers_what_is_popular() -> None:
    rows = events(histories(u1="ab", u2="b", u3="bc"))
    model, _ = train(config_of("ease"), 0, rows=rows)
    with torch.no_grad():
        scores = model.score(["nobody"], [[]])[0]
    assert scores[A:].argmax() + A == B


def test_ease_refuses_a_catalogue_that_memory_cannot_hold() -> None:
    words = catalogue([f"item {i}" for i in range(101)])
    with pytest.raises(UserError, match=r"101 items needs about .* train.ease_max_items is 100"):
        recommenders.build(config_of("ease", ease_max_items=100), DataFacts(words))


def test_popularity_is_a_share_of_the_events() -> None:
    rows = events(histories(u1="aab", u2="a"))
    model, _ = train(config_of("popularity"), 0, rows=rows)
    with torch.no_grad():
        scores = model.score(["u1", "nobody"], [[A], []])
    assert torch.equal(scores[0], scores[1])
    share = model.probability(scores)[0]
    # One more for each token: three of a, one of b, and nine tokens in all.
    assert share[[A, B, C]].tolist() == pytest.approx([4 / 13, 2 / 13, 1 / 13])


def test_popularity_of_the_last_days() -> None:
    old, new = [("u1", "a", hour) for hour in (0, 1, 2)], [("u2", "b", 100), ("u3", "b", 101)]
    rows = events([*old, *new])
    for days, best, num_events in ((None, A, 5), (1, B, 2), (30, A, 5)):
        model = recommenders.build(config_of("popularity", popularity_days=days), DataFacts(WORDS))
        assert model.fit(lambda: split_by_user(rows)) == num_events
        assert model.score(["x"], [[]])[0].argmax() == best


def test_the_newest_first_where_items_say_when_they_came_out() -> None:
    out = {"a": hour(0), "b": hour(48), "c": None}
    begins = pa.array([out.get(item) for item in WORDS.item_ids], pa.timestamp("us", "UTC"))
    column = WORDS.items.column_names.index("available_from")
    words = replace(WORDS, items=WORDS.items.set_column(column, "available_from", begins))
    model = recommenders.build(config_of("popularity", popularity_by="newest"), DataFacts(words))
    model.fit(lambda: [])
    share = model.probability(model.score(["u"], [[]]))[0]
    assert share[B] == pytest.approx(4 * float(share[A]))  # two days younger
    assert share[C] == share[A]  # as old as the oldest
    with pytest.raises(UserError, match="no item says when it came out"):
        recommenders.build(config_of("popularity", popularity_by="newest"), DataFacts(WORDS)).fit(
            lambda: []
        )


@pytest.mark.parametrize("name", ["ease", "popularity"])
def test_items_outside_the_catalogue_are_left_out(name: str) -> None:
    rows = events(histories(u1="abz", u2="zz"))
    model = recommenders.build(config_of(name), DataFacts(WORDS))
    assert model.fit(lambda: [rows]) == 2
    assert torch.isfinite(model.score(["u1"], [[A]])).all()


# -- linear --------------------------------------------------------------------------------


def rankings(model: Any) -> list[list[int]]:
    """Items from best to worst for each known user."""
    with torch.no_grad():
        scores = model.score(model.user_ids, [[]] * len(model.user_ids))
    return scores[:, A:].argsort(-1, descending=True).tolist()


def test_linear_on_user_and_item_side_by_side_ranks_alike_for_everyone() -> None:
    model, _ = train(config_of("linear"), 60)
    first, *others = rankings(model)
    assert all(other == first for other in others)


def test_linear_with_their_product_ranks_for_each_user() -> None:
    model, _ = train(config_of("linear", interaction="hadamard"), 150)
    best = {user: {row + A for row in ranking[:3]}
            for user, ranking in zip(model.user_ids, rankings(model), strict=True)}  # fmt: skip
    assert best["u1"] == best["u2"] == {A, B, C}
    assert best["u3"] == best["u4"] == {D, E, F}


@pytest.mark.parametrize("interaction", ["concat", "hadamard"])
def test_linear_scores_strangers_at_the_mean(interaction: str) -> None:
    model, _ = train(config_of("linear", interaction=interaction), 30)
    stranger, unknown_item = "nobody", -1
    with torch.no_grad():
        scores = model.score_pairs(
            ["u1", stranger, "u1", stranger], [A, A, unknown_item, unknown_item]
        )
        probability = model.probability(scores)
        known = model.score_pairs(["u1"] * 6, [A, B, C, D, E, F])
        full = model.score(["u1", stranger], [[], []])
    assert ((probability > 0) & (probability < 1)).all()
    assert torch.allclose(scores[:2], full[:, A])
    # The score is linear in the item, so the mean item has the mean score.
    assert scores[2].item() == pytest.approx(known.mean().item(), abs=1e-5)


def test_linear_batches_hold_each_event_and_items_that_its_user_did_not_take() -> None:
    config = config_of("linear", batch_size=100, num_negatives=3)
    batches = batches_of(config)
    assert batches.num_targets == 12
    taken = {(u, i) for u, i in zip(*(EVENTS[c].to_pylist() for c in ("user_id", "item_id")),
                                    strict=True)}  # fmt: skip
    for step in range(20):
        pairs, labels = batches.at(step)
        named = [(batches.user_ids[u], WORDS.decode(i)) for u, i in pairs.tolist()]
        positive = {pair for pair, (label, _) in zip(named, labels, strict=True) if label == 1}
        negative = {pair for pair, (label, weight) in zip(named, labels, strict=True)
                    if label == 0 and weight}  # fmt: skip
        assert positive == taken
        assert negative and not negative & taken
        assert len(pairs) == 12 * 4


def test_a_user_of_several_parts_is_one_user() -> None:
    """As in `oversampled`, which holds some users twice."""
    config = RECOMMENDERS.make({"model": "linear", "num_negatives": 3})
    parts = [events(histories(u1="ab", u2="c")), events(histories(u2="ad"))]
    batches = PairBatches(parts, WORDS, config, seed=1)
    assert (batches.user_ids, batches.num_targets) == (["u1", "u2"], 5)
    taken = {0: {A, B}, 1: {A, C, D}}
    pairs, labels = batches.at(0)
    counted = labels[:, 1] > 0
    for (user, item), label in zip(pairs[counted], labels[counted, 0], strict=True):
        assert (item in taken[user]) == bool(label)


def test_workers_draw_negatives_of_their_own() -> None:
    """Else two of them would show the model half as many items."""
    config = RECOMMENDERS.make({"model": "linear", "num_negatives": 20, "batch_size": 4})
    words = catalogue([f"i{n:03d}" for n in range(500)])
    rows = events([(f"u{n}", f"i{n:03d}", n) for n in range(4)])
    batches = PairBatches([rows], words, config, seed=1)
    drawn = []
    for rank in range(2):
        pairs, labels = batches.at(0, rank, 2)
        assert (labels[:, 0] == 0).sum() == 40
        drawn.append(set(pairs[labels[:, 0] == 0, 1].tolist()))
        assert batches.at(0, rank, 2)[0].tolist() == pairs.tolist()
    assert len(drawn[0] & drawn[1]) < 12  # of 40 among 500 each


def test_who_rated_nothing_has_no_vector_of_ratings() -> None:
    config = RECOMMENDERS.make({"model": "linear_rating"})
    rows = events(histories(u1="ab", u2="c"))
    values = pa.array([4.0, None, None], pa.float32())
    rows = rows.set_column(rows.schema.get_field_index("value"), "value", values)
    batches = RatingBatches([rows], WORDS, config, seed=1)
    assert (batches.user_ids, batches.num_targets, batches.mean) == (["u1"], 1, 4.0)


def test_so_many_users_are_asked_how_far_ratings_are(tmp_path: Path) -> None:
    """All events of each, the same ones however they are cut into parts."""
    rows = events(histories(**{f"u{n}": "ab" for n in range(9)}))
    values = pa.array([float(n) if n % 2 else None for n in range(18)], pa.float32())
    rows = rows.set_column(rows.schema.get_field_index("value"), "value", values)
    storage = Storage(str(tmp_path))
    for part, own in {"0": rows.slice(0, 10), "1": rows.slice(10)}.items():
        storage.write_part(own, {}, "two", part)
    storage.write_part(rows, {}, "one", "0")
    assert rated_events(storage, "two")["value"].to_pylist() == values.drop_null().to_pylist()
    few = rated_events(storage, "two", max_users=4)
    assert len(few) == 4 and few.equals(rated_events(storage, "one", max_users=4))


def test_soft_targets_have_their_share_of_sasrecs_loss() -> None:
    torch.manual_seed(0)
    model = recommenders.build(config_of("sasrec", soft_share=0.25), DataFacts(WORDS)).eval()
    tokens, weights = (
        torch.tensor([[BOS, A, B], [BOS, D, 0]]),
        torch.tensor([[0.0, 1, 1], [0, 2, 0]]),
    )
    others, chances = torch.full((2, 3, 2), -1), torch.zeros(2, 3, 2)
    plain = model.loss(tokens, weights)
    # Without any it is the plain loss.
    torch.testing.assert_close(model(tokens, weights, others, chances), plain)
    others[0, 2], chances[0, 2] = torch.tensor([E, F]), torch.tensor([0.5, 0.25])
    log_chances = model.score(["u"], [[A]])[0].log_softmax(0)
    rest = 1 - log_chances[[E, F]].exp().sum()
    soft = -(0.5 * log_chances[E] + 0.25 * log_chances[F] + 0.25 * rest.log())
    expected = plain + 0.25 * (soft + log_chances[B]) / 4  # of a weight of 4
    torch.testing.assert_close(model(tokens, weights, others, chances), expected)


def test_soft_targets_have_it_with_a_sample_of_the_items() -> None:
    torch.manual_seed(0)
    config = config_of("sasrec", soft_share=0.25, loss="sampled_softmax", max_negatives=20_000)
    tokens = torch.randint(A, F + 1, (4000, 3))
    tokens[:, 0] = BOS
    counts = tokens[:, 1:].flatten().bincount(minlength=WORDS.num_tokens).numpy()
    model = recommenders.build(config, DataFacts(WORDS, target_counts=counts)).eval()
    weights = torch.tensor([[0.0, 1, 1]]).expand(4000, 3)
    others, chances = torch.full((4000, 3, 2), -1), torch.zeros(4000, 3, 2)
    others[:, 2], chances[:, 2] = torch.tensor([E, F]), torch.tensor([0.5, 0.25])
    found = model(tokens, weights, others, chances).item()
    log_chances = model.score(["u"] * 4000, tokens[:, 1:2].tolist())[:, A:].log_softmax(1)
    first = model.score(["u"], [[]])[:, A:].log_softmax(1).expand(4000, -1)
    likeliest = log_chances[:, [E - A, F - A]]
    soft = likeliest @ torch.tensor([0.5, 0.25]) + 0.25 * (1 - likeliest.exp().sum(1)).log()
    plain, of_first = (each.gather(1, tokens[:, [place]] - A).mean()
                       for each, place in ((log_chances, 2), (first, 1)))  # fmt: skip
    expected = -(of_first + 0.75 * plain + 0.25 * soft.mean()).item() / 2
    assert found == pytest.approx(expected, rel=0.01)


def test_only_augmented_shards_have_soft_targets() -> None:
    config = parse_config({"train": {"arms": ["real", "augmented"], "soft_share": 0.25}})
    shares = {arm.name: arm.train_config(config).soft_share for arm in ARMS if arm.shards == "real"
              and arm.name not in ("popularity", "ease")}  # fmt: skip
    assert set(shares.values()) == {0.0}
    [augmented] = [arm for arm in ARMS if arm.name == "augmented"]
    assert augmented.train_config(config).soft_share == 0.25
