"""Dropout whose masks are cheap on a CPU, where drawing them is a seventh of a training step."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Dropout(nn.Module):
    """`nn.Dropout`, but on CPUs one random number of 64 bits decides for eight values.

    The share that is dropped is a multiple of 1/256 then, the one nearest to `share`; what is
    kept is scaled by what is really kept, so the expectation is exact.
    """

    def __init__(self, share: float) -> None:
        super().__init__()
        self._share, self._dropped = share, min(round(256 * share), 255)

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or not self._dropped:
            return x
        if x.device.type != "cpu":
            return F.dropout(x, self._share)
        numbers = torch.empty(-(-x.numel() // 8), dtype=torch.int64).random_(-(2**63), None)
        kept = numbers.view(torch.uint8)[: x.numel()].view(x.shape) >= self._dropped
        return x * kept.to(x.dtype).mul_(256 / (256 - self._dropped))
