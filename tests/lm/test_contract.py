"""Behaviour models that come with llmaug keep what one of somebody else has to keep.

The chat model is not among these: it needs a folder to start from (`test_instruct`).
"""

from __future__ import annotations

from typing import Any

import pytest

from llmaug.config import BEHAVIOUR_MODELS
from llmaug.testing import check_behaviour_model

SMALL: dict[str, Any] = {"num_steps": 4, "validate_every": 2, "warmup_steps": 1, "batch_size": 8,
                         "hidden_size": 64, "num_layers": 1}  # fmt: skip
DIRECTIONS = {"forward": 1, "reverse": 1, "infill": 1}


@pytest.mark.parametrize(
    "lm",
    [
        {"model": "ngram"},
        {"model": "masked", **SMALL},
        {"model": "causal", "directions": DIRECTIONS, **SMALL},
    ],
    ids=lambda lm: lm["model"],
)
def test_ours_keep_the_contract(lm: dict[str, Any], ray_session: None, fits_here: None) -> None:
    check_behaviour_model(BEHAVIOUR_MODELS.make(lm))
