"""Training of the masked model, from training events alone."""

from __future__ import annotations

from functools import partial
from typing import Any

from llmaug.config import Config, MaskedConfig
from llmaug.core.stage import Context
from llmaug.core.storage import Storage
from llmaug.items.batches import Batches
from llmaug.lm.masked.masking import MaskedBatches
from llmaug.lm.task import LmTask, fit_task, folders_of


def train(context: Context) -> dict[str, Any]:
    """Fit `lm/<name>`; returns facts of the model."""
    lm = context.config.lm
    assert isinstance(lm, MaskedConfig)
    build = partial(MaskedTask, context.storage, folders_of(context), context.config)
    return fit_task(context, build, lm)


class MaskedTask(LmTask):
    def __init__(self, storage: Storage, folders: dict[str, str], config: Config) -> None:
        from llmaug.lm.masked.model import MaskedLm

        super().__init__(storage, folders, config)
        lm = config.lm
        assert isinstance(lm, MaskedConfig)
        self.model = MaskedLm(lm, self._vocabulary, config.vocabulary.min_tag_items)
        self.window = lm.context_len - 1
        batches = Batches(self._sequences, lm.batch_size, self.window, config.seed)
        self._batches = MaskedBatches(batches, self.model.mask, lm.mask_share, config.seed)

    def batch(self, step: int, rank: int, world_size: int) -> tuple[Any, ...]:
        return self._batches.at(step, rank, world_size)

    def export(self) -> dict[str, Any]:
        from llmaug.lm.masked.model import save

        return self.saved(save)
