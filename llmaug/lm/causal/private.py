"""DP-SGD of the causal model, where what is protected is a user (Abadi et al. 2016, McMahan et al.
2018).

At each step every user takes part with the same small chance, independently of all others, and
with one document. The gradient of each is cut to a length, so that nobody counts for more; noise
that hides any one of them is added to the sum. How much noise an epsilon takes, the accountant of
Opacus says (Renyi differential privacy; Mironov et al. 2019), for data sets that differ by one
user who is there or not.

The hooks by which Opacus finds the gradient of each sample belong to single layers. Here one table
is the embedding, the head and the sum of the items' features, so torch.func finds them of the whole
model. What is drawn comes from the operating system: who knows the seed of the config cannot
subtract the noise.

Shapes: B users, P numbers of a gradient.
"""

from __future__ import annotations

import math
import secrets
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call, grad_and_value, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel

from llmaug.config import CausalConfig, PrivateConfig
from llmaug.errors import UserError
from llmaug.items.batches import padded
from llmaug.lm.causal.documents import Documents
from llmaug.lm.causal.model import CausalLm
from llmaug.training.loop import NotFinite

_NUMBERS_AT_ONCE = 2**24
"""Numbers of gradients that are there together: 64 MB."""
_MOST_AT_ONCE = 32


class PrivateSteps:
    """The gradients of each step."""

    def __init__(
        self, model: CausalLm, documents: Documents, config: PrivateConfig, batch_size: int,
        num_steps: int, seed: int | None = None,
    ) -> None:  # fmt: skip
        """batch_size: of a step on average. seed: of all that is drawn, for tests; None: from the
        operating system. Raises UserError where no noise is enough."""
        self._model, self._documents, self._config = model, documents, config
        self._loss = _Loss(model)
        num_users = documents.num_users
        if config.delta >= 1 / num_users:
            raise UserError(
                f"lm.private.delta {config.delta:g} promises nothing for {num_users:,} users: it "
                f"must be far below 1 / users, {1 / num_users:.1g}"
            )
        self._batch_size, self._num_steps = min(batch_size, num_users), num_steps
        self.sample_rate = self._batch_size / num_users
        self.noise_multiplier = noise_multiplier(config, self.sample_rate, num_steps)
        drawn = secrets.randbits(63) if seed is None else seed
        self._users = np.random.default_rng(drawn)
        self._noise = torch.Generator().manual_seed(int(self._users.integers(2**62)))

    def facts(self) -> dict[str, Any]:
        """What the manifest says of the promise."""
        delta = self._config.delta
        history = [(self.noise_multiplier, self.sample_rate, self._num_steps)]
        return {
            "epsilon": epsilon(history, delta), "delta": delta, "unit": "user",
            "clipping": self._config.clipping, "noise_multiplier": self.noise_multiplier,
            "sample_rate": self.sample_rate, "steps": self._num_steps,
            "users": self._documents.num_users, "accountant": _accountant_name(),
        }  # fmt: skip

    def backward(self) -> float:
        """Sets the gradients of the model; returns the mean loss of the users of the step, 0 where
        the draw left everybody out. Raises NotFinite."""
        documents = self._documents.drawn(self._users, self.sample_rate)
        at_once = _NUMBERS_AT_ONCE // sum(own.numel() for own in self._model.parameters())
        at_once = min(max(1, at_once), _MOST_AT_ONCE)
        weights: dict[str, Tensor] = dict(self._loss.named_parameters())
        total = {name: torch.zeros_like(own) for name, own in weights.items()}
        sum_of_losses = 0.0
        for start in range(0, len(documents), at_once):
            batch = padded(documents[start : start + at_once])
            gradients, losses = self._of_each(weights, batch)
            if not math.isfinite(losses.sum().item()):
                raise NotFinite(losses.sum().item(), batch)
            for name, own in clipped_sum(gradients, self._config.clipping).items():
                total[name] += own
            sum_of_losses += losses.sum().item()
        for name, own in weights.items():
            noise = torch.randn(own.shape, generator=self._noise).to(own.device)
            spread = self.noise_multiplier * self._config.clipping
            own.grad = (total[name] + spread * noise) / self._batch_size
        return sum_of_losses / max(1, len(documents))

    def _of_each(
        self, weights: dict[str, Tensor], batch: tuple[np.ndarray, ...]
    ) -> tuple[dict[str, Tensor], Tensor]:
        """Gradients (B, ...) of the losses (B,) of each document."""
        device = next(iter(weights.values())).device
        tokens, counts = (torch.as_tensor(array, device=device) for array in batch)
        plain = {name: own.detach() for name, own in weights.items()}

        def loss(weights: dict[str, Tensor], tokens: Tensor, counts: Tensor) -> Tensor:
            return functional_call(self._loss, weights, (tokens, counts))

        with sdpa_kernel(SDPBackend.MATH):  # the others know no vmap
            found = vmap(grad_and_value(loss), (None, 0, 0), randomness="different")
            gradients, losses = found(plain, tokens, counts)
        return gradients, losses


class _Loss(nn.Module):
    """The loss of one document as a module, which functional_call wants."""

    def __init__(self, model: CausalLm) -> None:
        super().__init__()
        self.model = model

    def forward(self, tokens: Tensor, weights: Tensor) -> Tensor:
        return self.model.loss_of_one(tokens, weights)


def private_steps(
    lm: CausalConfig, model: CausalLm, documents: Documents, has_semantic_ids: bool
) -> PrivateSteps:
    """Raises UserError where something that the model is made of was learnt without noise."""
    assert lm.private is not None
    if has_semantic_ids:
        raise UserError(
            "lm.private does not go with semantic ids: they are learnt from who takes items "
            "together, without noise; set vocabulary.max_atomic_items to the size of the catalogue"
        )
    return PrivateSteps(model, documents, lm.private, lm.batch_size, lm.num_steps)


def clipped_sum(gradients: dict[str, Tensor], clipping: float) -> dict[str, Tensor]:
    """Gradients (B, ...) of each user, each cut to the length `clipping` over all weights together,
    summed over users: {name: (...)}."""
    squares = [own.flatten(1).square().sum(1) for own in gradients.values()]
    length = torch.stack(squares).sum(0).sqrt()
    share = (clipping / length).clamp(max=1.0)  # of no length: infinity, cut to 1
    return {
        name: torch.tensordot(share.to(own.dtype), own, dims=1) for name, own in gradients.items()
    }


def noise_multiplier(config: PrivateConfig, sample_rate: float, num_steps: int) -> float:
    """Standard deviation of the noise over the clipping, so that so many steps spend the epsilon of
    `config` or less. Raises UserError where no noise is enough."""
    from opacus.accountants.utils import get_noise_multiplier

    try:
        found = get_noise_multiplier(
            target_epsilon=config.epsilon, target_delta=config.delta, sample_rate=sample_rate,
            steps=num_steps, accountant="rdp", epsilon_tolerance=config.epsilon / 1000,
        )  # fmt: skip
    except ValueError as error:
        raise UserError(
            f"lm.private: no noise makes {num_steps} steps spend so little as epsilon "
            f"{config.epsilon:g} at delta {config.delta:g}; ask for more, or for fewer lm.num_steps"
        ) from error
    return float(found)


def epsilon(history: list[tuple[float, float, int]], delta: float) -> float:
    """What (noise multiplier, sample rate, steps) one after the other have spent."""
    from opacus.accountants import RDPAccountant

    accountant = RDPAccountant()
    accountant.history = history
    return float(accountant.get_epsilon(delta))


def _accountant_name() -> str:
    from importlib.metadata import version

    return f"RDP (opacus {version('opacus')})"
