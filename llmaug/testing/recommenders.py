"""The contract of a recommender: `llmaug.recommenders` says what each method is for.

Everything happens on six items and four users of two tastes, in seconds.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from inspect import signature
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from torch import Tensor
from typing_extensions import get_protocol_members

from llmaug import recommenders
from llmaug.config import (
    RECOMMENDERS,
    ClosedFormConfig,
    OfHistoriesConfig,
    OfPairsConfig,
    OfRatingsConfig,
)
from llmaug.core.storage import Storage
from llmaug.items.batches import Batches
from llmaug.items.sequences import of_events
from llmaug.items.vocabulary import Vocabulary
from llmaug.recommenders import DataFacts
from llmaug.recommenders.pair_batches import PairBatches, RatingBatches
from llmaug.testing.configs import check_config
from llmaug.testing.tables import catalogue, events, histories
from llmaug.training.ranking import mean_ndcg_at_10, target_ranks

TAGS = {"a": ["x"], "b": ["x"], "c": ["x", "z"], "d": ["y"], "e": ["y"], "f": ["y", "z"]}
WORDS = catalogue("abcdef", tags=TAGS)
A, B, C, D, E, F = range(3, 9)
# Two tastes: the first half of the alphabet, and the second.
EVENTS = events(histories(u1="abc", u2="bca", u3="def", u4="efd"))
QUESTION = (["u1", "u3", "stranger"], [[A, B], [D], []])


def check_recommender(config: Any, num_steps: int = 60, learning_rate: float = 0.03) -> None:
    """Raises AssertionError that says what is wrong with the recommender of `config`.

    config: of a small model, as dropout 0 and narrow vectors make it. num_steps, learning_rate: of
    Adam, in which a model that is trained step by step must learn four users by heart.
    """
    check_config(RECOMMENDERS, config, "implementation")
    _check_class(config)
    _check_protocol(config)
    if isinstance(config, ClosedFormConfig):
        _check_fit(config)
    else:
        _check_losses(train(config, num_steps, learning_rate=learning_rate)[1])
    model, _ = train(config, 3, learning_rate=learning_rate)
    _check_scores(model)
    _check_probability(model)
    _check_storage(model, config)
    _check_learning(config, learning_rate)


def train(
    config: Any,
    num_steps: int,
    words: Vocabulary = WORDS,
    rows: pa.Table = EVENTS,
    learning_rate: float = 0.03,
) -> tuple[Any, list[float]]:
    """(model in eval mode, loss of each step; none for a model in closed form)."""
    torch.manual_seed(0)
    if isinstance(config, ClosedFormConfig):
        model = recommenders.build(config, DataFacts(words))
        counted = model.fit(lambda: split_by_user(rows))
        assert type(counted) is int and 0 < counted <= rows.num_rows, (
            f"fit must return how many of the {rows.num_rows} events it counted, an int, and "
            f"returned {counted!r}"
        )
        return model.eval(), []
    batches = batches_of(config, words, rows)
    users = getattr(batches, "user_ids", [])
    counts = None if users else batches.target_counts(words.num_tokens)
    model = recommenders.build(config, DataFacts(words, users, target_counts=counts))
    optimiser = torch.optim.Adam(model.parameters(), lr=learning_rate)
    losses = []
    for step in range(num_steps):
        torch.manual_seed(step)
        loss = model(*(torch.as_tensor(x) for x in batches.at(step)))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    return model.eval(), losses


def batches_of(config: Any, words: Vocabulary = WORDS, rows: pa.Table = EVENTS) -> Any:
    """What a model that is trained step by step is given."""
    if config.batches == "pairs":
        return PairBatches([rows], words, config, seed=1)
    if config.batches == "ratings":
        return RatingBatches([rated(rows, words)], words, config, seed=1)
    return Batches(of_events(rows, words), config.batch_size, config.history_len, seed=1)


def rated(rows: pa.Table, words: Vocabulary) -> pa.Table:
    """Users give a 5 to what they took, and a 1 to all else."""
    took = set(zip(rows["user_id"].to_pylist(), rows["item_id"].to_pylist(), strict=True))
    users = dict.fromkeys(user for user, _ in sorted(took))
    pairs = [(user, item, 0.0) for user in users for item in words.item_ids]
    values = [5.0 if pair[:2] in took else 1.0 for pair in pairs]
    every = events(pairs)
    place = every.schema.get_field_index("value")
    return every.set_column(place, "value", pa.array(values, pa.float32()))


def split_by_user(rows: pa.Table) -> Iterator[pa.Table]:
    """One user after the other: no part knows of the others."""
    for user in sorted(set(rows["user_id"].to_pylist())):
        yield rows.filter(pc.equal(rows["user_id"], user))


def _check_class(config: Any) -> None:
    if isinstance(config, ClosedFormConfig):
        return
    bases = {"pairs": OfPairsConfig, "ratings": OfRatingsConfig}
    base: type = bases.get(config.batches, OfHistoriesConfig)
    assert isinstance(config, base), (
        f"{type(config).__name__}: a class whose batches are {config.batches} inherits "
        f"{base.__name__} of llmaug.config, which has what the batches need"
    )


def _check_protocol(config: Any) -> None:
    """With as many arguments, and of the same names where callers may use these."""
    model = recommenders.build(config, DataFacts(WORDS, ["u1"]))
    assert isinstance(model, torch.nn.Module), f"{type(model)} must be a torch.nn.Module"
    how: Any = recommenders.ByDescent
    if isinstance(config, ClosedFormConfig):
        how = recommenders.ClosedForm
    lacking = [name for name in get_protocol_members(how) if not hasattr(model, name)]
    assert not lacking, f"{type(model).__name__} must have {', '.join(sorted(lacking))}, see {how}"
    for protocol in (how, recommenders.JudgesPairs, recommenders.PredictsRatings):
        for method in get_protocol_members(protocol) if isinstance(model, protocol) else ():
            wanted = signature(getattr(protocol, method)).parameters
            given = signature(getattr(type(model), method)).parameters.values()
            fits = len(given) == len(wanted)
            for own, theirs in zip(given, wanted.values(), strict=False):
                by_position = theirs.kind is theirs.POSITIONAL_ONLY or theirs.name == "self"
                fits &= by_position or own.name == theirs.name
            assert fits, (
                f"{type(model).__name__}.{method} must take ({', '.join(wanted)}), and takes "
                f"({', '.join(own.name for own in given)})"
            )


def _check_losses(losses: list[float]) -> None:
    assert np.isfinite(losses).all(), f"loss must be finite at every step, and is {losses}"
    first, last = np.mean(losses[:5]), np.mean(losses[-10:])
    assert last < 0.9 * first, (
        f"loss must go down by a tenth in {len(losses)} steps of Adam on four users; it went from "
        f"{first:.4f} to {last:.4f}. Give num_steps and learning_rate that suit it"
    )


def _check_fit(config: Any) -> None:
    """How users are spread over parts, and what lies outside the catalogue, does not matter."""
    fits: dict[str, Callable[[], list[pa.Table]]] = {
        "in one part": lambda: [EVENTS],
        "in parts, one of them empty": lambda: [EVENTS[:0], *split_by_user(EVENTS)],
        "with an event outside the catalogue": lambda: [
            EVENTS, events([("u5", "no item of the catalogue", 0)])
        ],
    }  # fmt: skip
    scores = {}
    for how, tables in fits.items():
        model = recommenders.build(config, DataFacts(WORDS))
        counted = model.fit(tables)
        assert 0 < counted <= EVENTS.num_rows, f"fit on {EVENTS.num_rows} events {how}: {counted}"
        scores[how] = _score(model.eval(), *QUESTION)
    expected = scores["in one part"]
    for how, found in scores.items():
        assert torch.allclose(found, expected, atol=1e-4), (
            f"fit on the same events {how} must score alike, and is off by "
            f"{(found - expected).abs().max():.3g}"
        )


def _score(model: Any, users: list[str], asked: list[list[int]]) -> Tensor:
    with torch.no_grad():
        scores: Any = model.score(users, asked)
    assert isinstance(scores, Tensor) and scores.is_floating_point(), (
        f"score must return a tensor of floating point numbers, and returned {scores!r}"
    )
    wanted = (len(users), WORDS.num_tokens)
    assert scores.shape == wanted, (
        f"score of {len(users)} users must be {wanted}, a column for each token of the vocabulary "
        f"(those of the items begin at NUM_SPECIAL), and is {tuple(scores.shape)}"
    )
    assert torch.isfinite(scores).all(), (
        f"score must be finite, for users {users} with histories {asked} too, and is {scores}"
    )
    return scores


def _check_scores(model: Any) -> None:
    users, asked = QUESTION
    given = [list(history) for history in asked]
    together = _score(model, list(users), given)
    assert given == asked, f"score must leave the histories as they are, and made {given} of them"
    assert torch.equal(together, _score(model, users, asked)), (
        "score must give the same twice, in eval mode: nothing may be drawn, or remembered"
    )
    alone = torch.cat(
        [_score(model, [user], [own]) for user, own in zip(users, asked, strict=True)]
    )
    assert torch.allclose(together, alone, atol=1e-6), (
        "score must give a user the same alone and beside others (is padding left out?); it is "
        f"off by {(together - alone).abs().max():.3g}"
    )
    _score(model, ["nobody", "nobody else"], [[], [A, B, C, D, E, F] * 20])


def _check_probability(model: Any) -> None:
    scores = _score(model, *QUESTION)
    with torch.no_grad():
        chance = model.probability(scores)
    assert chance.shape == scores.shape, (
        f"probability must keep the shape {tuple(scores.shape)}, and made it {tuple(chance.shape)}"
    )
    assert ((chance > 0) & (chance < 1)).all(), (
        f"probability must lie between 0 and 1 and reach neither: {chance} of scores {scores}"
    )
    assert torch.equal(*(x.argsort(stable=True, dim=-1) for x in (chance, scores))), (
        f"probability must rank as the scores do: {chance} of {scores}"
    )


def _check_storage(model: Any, config: Any) -> None:
    with tempfile.TemporaryDirectory() as folder:
        storage = Storage(folder)
        digest = recommenders.save_recommender(storage, "model", model, config, WORDS)
        loaded, words, _ = recommenders.load_recommender(storage, "model")
        found, expected = _score(loaded, *QUESTION), _score(model, *QUESTION)
        assert torch.equal(found, expected), (
            "what is saved must score alike when it is loaded, and is off by "
            f"{(found - expected).abs().max():.3g}: all that training leaves must be parameters or "
            "buffers, of shapes that __init__ knows from the config and DataFacts"
        )
        again = recommenders.save_recommender(storage, "copy", loaded, config, words)
        assert again == digest, "what is loaded and saved again must be the same files"


# Sequences in which two letters are followed by the same one, always.
LINES = ["abcd", "bcda", "cdab", "efgh", "fghe", "ghef"]
LETTERS = catalogue(
    "abcdefgh", tags={letter: ["x" if letter < "e" else "y"] for letter in "abcdefgh"}
)
# The last item of four is one of five that are left, at random.
RANDOM_NDCG = float(np.mean(1 / np.log2(np.arange(5) + 2)))


def ndcg_of(model: Any, rows: pa.Table) -> float:
    """Mean NDCG@10 of finding each user's last event, given those before it."""
    held: dict[str, list[int]] = {}
    for user, item in zip(rows["user_id"].to_pylist(), rows["item_id"].to_pylist(), strict=True):
        held.setdefault(user, []).append(int(LETTERS.encode(pa.array([item]))[0]))
    before = [own[:-1] for own in held.values()]
    last = [own[-1] for own in held.values()]
    return mean_ndcg_at_10(target_ranks(model.score, list(held), before, last))


def _check_learning(config: Any, learning_rate: float) -> None:
    """Two tastes, and one taste has twice as many users: each user's last item is to be found
    among five that the user has not seen."""
    popular = events(histories(**{f"x{i}": LINES[i % 3] for i in range(12)},
                               **{f"y{i}": LINES[3 + i % 3] for i in range(6)}))  # fmt: skip
    model, _ = train(config, 150, LETTERS, popular, learning_rate)
    found = ndcg_of(model, popular)
    assert found > 1.3 * RANDOM_NDCG, (
        f"it must rank what its users took better than chance: NDCG@10 is {found:.3f}, that of "
        f"chance {RANDOM_NDCG:.3f}"
    )
