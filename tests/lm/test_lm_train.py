"""The stage that trains a behaviour model, on logs small enough to see what it learnt."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch

from llmaug.core.stage import Context
from llmaug.errors import UserError
from llmaug.lm import task as tasks
from llmaug.lm import train
from llmaug.lm.causal.training import CausalTask
from llmaug.lm.language import Language, load_language
from llmaug.lm.masked.completion import load_completer
from llmaug.lm.masked.training import MaskedTask
from llmaug.schema import USER
from tests.tables import catalogue, events, histories, write_vocabulary

MakeContext = Callable[..., Context]
WORDS = catalogue("abcd", tags=dict(a=["x"], b=["x"]), train_events=dict(a=6, b=6, c=6, d=6))
TRAIN = {"p0": {"u1": "ababab", "u2": "baba"}, "p1": {"u3": "cdcdcd", "u4": "dc", "u5": "d"}}
HELD_OUT = {"p0": {"u1": "b", "u2": "b"}, "p1": {"u3": "c", "u4": "d"}}
AGES = dict(u1="young", u2="young", u3="old", u4="old", stranger="ancient")
SMALL: dict[str, Any] = {
    "num_steps": 4, "validate_every": 2, "warmup_steps": 0, "hidden_size": 32, "num_heads": 1,
    "num_layers": 1, "context_len": 8, "batch_size": 4,
}  # fmt: skip


def write_inputs(context: Context, words: Any = WORDS) -> None:
    write_vocabulary(context, words, {})
    for fold, parts in (("train", TRAIN), ("validation", HELD_OUT)):
        for part, items in parts.items():
            table = events(histories(**items))
            context.storage.write_part(table, {}, f"{context.folder('split')}/{fold}", part)
    users = [{"user_id": u, "attributes": [("age", age)]} for u, age in AGES.items()]
    table = pa.Table.from_pylist(users, schema=USER)
    context.storage.write_part(table, {}, context.folder("ingest/users"), "part-00000")


def test_a_model_of_all_directions_with_users_trains_and_says_what_it_reads(
    make_context: MakeContext, ray_session: None, fits_here: None
) -> None:
    context = make_context(
        ingest={"users": {"path": "users"}},
        lm={
            **SMALL,
            "directions": {"forward": 2, "reverse": 1, "infill": 1},
            "user_attributes": ["age"],
            "min_attribute_users": 2,
            "packed": True,
            "schedule": "cosine",
            "num_accumulations": 2,
            "stop_on": "perplexity",
        },
    )
    write_inputs(context)
    facts = train.run(context)
    assert facts["steps"] == 4 and facts["validation_log_likelihood"] < 0
    assert 0 <= facts["validation_ndcg"] <= 1  # to be compared with the recommender's
    language = load_language(context.storage, context.folder("lm/causal"), WORDS)
    # `ancient` is the age of someone without a training event.
    assert language == Language(WORDS.num_tokens, True, (("age", ("old", "young")),))
    assert facts["windowed_histories"] == 0


def test_a_masked_model_trains_on_the_same_logs(make_context: MakeContext) -> None:
    context = make_context(lm={**SMALL, "model": "masked", "context_len": 6})
    write_inputs(context)
    folders = {n: context.folder(n) for n in ("split", "vocabulary")}
    task = MaskedTask(
        context.storage, {**folders, "model": context.folder("lm/masked")}, context.config
    )
    batch = task.batch(0, 0, 1)
    loss = task.model(*map(torch.as_tensor, batch))
    assert loss.item() == pytest.approx(np.log(WORDS.num_tokens + 1), rel=0.1)  # knows nothing yet
    assert task.weight(batch) == (batch[0] == WORDS.num_tokens).sum()  # real events weigh 1
    assert 0 <= task.validate() <= 1
    facts = task.export()
    assert facts["windowed_histories"] == 2  # u1 and u3: BOS and six events
    load_completer(context.storage, context.folder("lm/masked"), WORDS, facts["model_digest"])


def test_a_loss_that_is_no_number_ends_the_stage_with_its_batch_and_no_model(
    make_context: MakeContext, ray_session: None
) -> None:
    context = make_context(lm={**SMALL, "learning_rate": 1e30, "context_len": 4})
    write_inputs(context)
    with pytest.raises(UserError, match="loss is (nan|inf) at step [1-3]; the batch is in"):
        train.run(context)
    names = context.storage.names(context.folder("lm/causal"))
    assert "failed_batch.json" in names
    assert not {"model.safetensors", "_trained.json"} & set(names)


def test_histories_beyond_the_context_are_windowed_and_the_user_is_told(
    make_context: MakeContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    context = make_context(lm={**SMALL, "context_len": 4})
    write_inputs(context)
    folders = {n: context.folder(n) for n in ("split", "vocabulary", "ingest/users")}
    task = CausalTask(context.storage, folders, context.config)
    assert task.facts()["windowed_histories"] == 2  # u1 and u3: six events and BOS
    assert task.batch(0, 0, 1)[0].shape[1] <= 5
    monkeypatch.setattr(tasks, "fit", lambda *_: {"windowed_histories": 2})
    train.run(context)
    assert "2 histories are longer than lm.context_len 4" in context.progress.notes[0]  # type: ignore[attr-defined]


def test_users_of_one_event_train_in_every_direction(make_context: MakeContext) -> None:
    shares = {"forward": 1, "reverse": 1, "infill": 1}
    context = make_context(lm={**SMALL, "directions": shares})
    write_inputs(context)
    once = events(histories(u1="a", u2="b", u3="a", u4="c"))
    for part in TRAIN:
        context.storage.write_part(once, {}, f"{context.folder('split')}/train", part)
    folders = {n: context.folder(n) for n in ("split", "vocabulary", "ingest/users")}
    task = CausalTask(context.storage, folders, context.config)
    losses = [task.model(*map(torch.as_tensor, task.batch(step, 0, 1))).item() for step in range(9)]
    assert np.isfinite(losses).all()
    assert np.isfinite(task.validate())


RARE = dict.fromkeys("abcd", 1)


@pytest.mark.parametrize("lm", [{}, {"model": "ngram"}])
def test_a_catalogue_that_was_never_taken_is_refused(
    lm: dict[str, Any], make_context: MakeContext
) -> None:
    context = make_context(lm=lm)
    write_inputs(context, catalogue("abcd"))
    with pytest.raises(UserError, match="there is no training event"):
        train.run(context)


@pytest.mark.parametrize("lm", [{"item_features": False}, {"model": "ngram"}, {}])
def test_a_catalogue_where_every_item_is_rare_and_says_nothing_is_refused(
    lm: dict[str, Any], make_context: MakeContext
) -> None:
    context = make_context(lm=lm)
    write_inputs(context, catalogue("abcd", train_events=RARE))
    with pytest.raises(UserError, match="every item has a single training event"):
        train.run(context)


def test_rare_items_that_share_tags_can_be_learnt(make_context: MakeContext) -> None:
    config = make_context(vocabulary={"min_tag_items": 2}).config
    tagged = catalogue("abcd", tags=dict(a=["x"], b=["x"]), train_events=RARE)
    train.check_learnable(tagged, config)
    strict = make_context(vocabulary={"min_tag_items": 3}).config
    with pytest.raises(UserError, match="every item"):
        train.check_learnable(tagged, strict)
    train.check_learnable(catalogue("abcd", train_events=RARE, text={"a": [1.0]}), strict)
