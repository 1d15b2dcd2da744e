"""Differential privacy of the behaviour model: what is spent, how a user's part is limited, and a
training that ends with the epsilon that was asked for."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from llmaug.config import PrivateConfig, parse_config
from llmaug.core.stage import Context
from llmaug.errors import UserError
from llmaug.lm import adopt, train
from llmaug.lm.causal import private
from llmaug.lm.causal.training import CausalTask
from llmaug.lm.earlier import find_earlier
from tests.lm.test_lm_train import SMALL, TRAIN, write_inputs
from tests.tables import write_finished

MakeContext = Callable[..., Context]
ASKED = {"epsilon": 4.0, "delta": 1e-3}


def make_task(make_context: MakeContext, **lm: Any) -> CausalTask:
    context = make_context(lm={**SMALL, "dropout": 0.0, "private": ASKED, **lm})
    write_inputs(context)
    folders = {n: context.folder(n) for n in ("split", "vocabulary", "ingest/users")}
    return CausalTask(context.storage, {**folders, "model": "model"}, context.config)


def test_the_accountant_agrees_with_published_figures() -> None:
    """TensorFlow Privacy's MNIST tutorial (60,000 samples, batches of 256, delta 1e-5): noise 1.3
    for 15 epochs spends 1.19, 1.1 for 60 epochs 3.01, 0.7 for 45 epochs 7.10. Since then the step
    from Renyi's orders to (epsilon, delta) became tighter (Balle et al. 2020): a little less."""
    from opacus.accountants.analysis.rdp import compute_rdp

    rate, delta = 256 / 60_000, 1e-5
    orders = [1 + tenth / 10 for tenth in range(1, 100)] + list(range(12, 64))
    for noise, epochs, published in ((1.3, 15, 1.19), (1.1, 60, 3.01), (0.7, 45, 7.10)):
        steps = math.ceil(epochs / rate)
        spent = compute_rdp(q=rate, noise_multiplier=noise, steps=steps, orders=orders)
        then = np.array(spent) + math.log(1 / delta) / (np.array(orders) - 1)
        assert then.min() == pytest.approx(published, abs=0.01)
        assert 0.8 * published < private.epsilon([(noise, rate, steps)], delta) < published
    # Abadi et al. 2016, section 5.1: rate 0.01, noise 4, 10,000 steps spend 1.26 (moments).
    assert 0.9 < private.epsilon([(4.0, 0.01, 10_000)], delta) < 1.26


def test_one_release_of_everybody_is_the_gaussian_mechanism() -> None:
    """Balle and Wang 2018, theorem 8, says how much delta an epsilon takes there, exactly."""
    noise, delta = 2.0, 1e-5
    found = private.epsilon([(noise, 1.0, 1)], delta)
    normal = torch.distributions.Normal(0.0, 1.0)

    def exact(epsilon: float) -> float:
        low, high = 1 / (2 * noise) - epsilon * noise, -1 / (2 * noise) - epsilon * noise
        first, second = normal.cdf(torch.tensor([low, high], dtype=torch.float64)).tolist()
        return float(first - math.exp(epsilon) * second)

    assert exact(found) < delta < exact(0.85 * found)  # enough, and not far too much


def test_the_noise_is_the_least_that_keeps_the_budget() -> None:
    config = PrivateConfig(epsilon=8, delta=1e-5)
    noise = private.noise_multiplier(config, sample_rate=0.1, num_steps=300)
    assert 7.9 < private.epsilon([(noise, 0.1, 300)], 1e-5) <= 8
    assert private.epsilon([(noise * 0.95, 0.1, 300)], 1e-5) > 8
    with pytest.raises(UserError, match="no noise makes 300 steps spend so little as"):
        private.noise_multiplier(PrivateConfig(epsilon=1e-9, delta=1e-5), 0.1, 300)


def test_each_users_gradient_is_cut_to_a_length() -> None:
    """Lengths 5 and 1 over both weights together, and one user without any gradient."""
    gradients = {
        "a": torch.tensor([[3.0, 0.0], [0.6, 0.0], [0.0, 0.0]]),
        "b": torch.tensor([[[4.0]], [[0.8]], [[0.0]]]),
    }
    found = private.clipped_sum(gradients, 2.0)
    # The first counts 2/5, the second as it is.
    assert found["a"].tolist() == pytest.approx([3.0 * 0.4 + 0.6, 0.0])
    assert found["b"].tolist() == [[pytest.approx(4.0 * 0.4 + 0.8)]]


def test_without_noise_and_limit_the_step_is_that_of_ordinary_training(
    make_context: MakeContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every user is drawn: the sum over users is the gradient of the sum of their losses. Cut
    short, the step is no longer than all users' lengths together."""
    monkeypatch.setattr(private, "noise_multiplier", lambda *_: 0.0)
    endless = {**ASKED, "clipping": 1e9}
    task = make_task(make_context, batch_size=9, private=endless, item_features=True)
    assert task.private is not None
    loss = task.private.backward()
    model, documents = task.model, task._documents
    found = {name: own.grad.clone() for name, own in model.named_parameters()}
    model.zero_grad()
    rows = documents.drawn(np.random.default_rng(0), 1.0)
    assert len(rows) == 5 == documents.num_users  # at most one document of each user
    whole = sum(
        model(torch.from_numpy(row.tokens)[None], torch.from_numpy(row.weights)[None])
        for row in rows
    )
    (whole / 5).backward()
    assert loss == pytest.approx(whole.item() / 5, rel=1e-5)
    for name, own in model.named_parameters():
        torch.testing.assert_close(found[name], own.grad, rtol=1e-4, atol=1e-6)

    short = make_task(make_context, batch_size=9, private={**ASKED, "clipping": 1e-3})
    assert short.private is not None
    short.private.backward()
    lengths = [own.grad.square().sum() for own in short.model.parameters()]
    assert 0 < float(torch.stack(lengths).sum().sqrt()) <= 1e-3 * 1.0001


def test_users_and_noise_are_drawn_from_the_operating_system(make_context: MakeContext) -> None:
    """The seed of the config is no secret: with it, the noise could be subtracted."""
    steps = []
    for _ in range(2):
        task = make_task(make_context, batch_size=9, private={**ASKED, "clipping": 1e-9})
        assert task.private is not None
        task.private.backward()
        steps.append(task.model.llama.model.embed_tokens.weight.grad.clone())
        spread = task.private.noise_multiplier * 1e-9 / 5
        assert steps[-1].std().item() == pytest.approx(spread, rel=0.3)
    assert not torch.equal(*steps)


def test_a_training_ends_with_the_epsilon_that_was_asked_for(
    make_context: MakeContext, ray_session: None, fits_here: None
) -> None:
    """Validations neither stop it nor choose weights: what they tell is not counted."""
    context = make_context(
        lm={**SMALL, "private": ASKED, "validate_every": 1, "patience": 1, "num_steps": 6}
    )
    write_inputs(context)
    facts = train.run(context)
    spent = facts["private"]
    assert 3.9 < spent["epsilon"] <= 4.0 and spent["delta"] == 1e-3 and spent["unit"] == "user"
    assert spent["users"] == sum(map(len, TRAIN.values())) and spent["sample_rate"] == 4 / 5
    assert facts["steps"] == facts["best_step"] == spent["steps"] == 6
    assert private.epsilon([(spent["noise_multiplier"], 4 / 5, 6)], 1e-3) == spent["epsilon"]
    notes = context.storage.read_json(context.folder("lm/causal"), "llmaug.json")
    assert notes is not None and notes["private"] == spent


@pytest.mark.parametrize(
    ("lm", "told"),
    [
        ({"packed": True}, "lm.packed: several users share a row"),
        ({"warm_start": "yesterday"}, "lm.warm_start: what that run's model learnt"),
        ({"from_run": "yesterday"}, "lm.from_run: trains nothing"),
        ({"cold_items_are_negatives": False}, "counts who took an item, without noise"),
        ({"num_workers": 2}, "lm.num_workers: one worker draws"),
        ({"model": "masked"}, "a field of model causal; model masked has none"),
        ({"model": "ngram"}, "a field of model causal; model ngram has none"),
        ({"private": {"epsilon": 0, "delta": 1e-5}}, "greater than 0"),
    ],
)
def test_what_the_epsilon_would_not_cover_is_refused(lm: dict[str, Any], told: str) -> None:
    with pytest.raises(UserError, match=told):
        parse_config({"lm": {"private": ASKED, **lm}}, "test config")


def test_a_later_night_that_takes_the_generator_says_what_it_spent(
    make_context: MakeContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`lm.from_run` trains nothing, so nothing more is spent."""
    monday = make_context("monday")
    spent = {"epsilon": 4.0, "delta": 1e-3}
    for stage in ("vocabulary", "split"):
        write_finished(monday, stage)
    write_finished(monday, "lm/causal", model_digest="0123", private=spent)
    tuesday = make_context("tuesday", lm={"from_run": "monday"})
    assert find_earlier(tuesday, "monday", "lm.from_run").private == spent
    monkeypatch.setattr(adopt, "imported", lambda path: lambda *_: None)
    monkeypatch.setattr(adopt, "load_vocabulary", lambda *_: None)
    monkeypatch.setattr(adopt, "refuse_leaks", lambda *_: None)
    assert adopt.run(tuesday)["private"] == spent


def test_a_delta_that_promises_nothing_is_refused(make_context: MakeContext) -> None:
    with pytest.raises(UserError, match=r"delta 0.3 promises nothing for 5 users"):
        make_task(make_context, private={"epsilon": 1, "delta": 0.3})
