"""llmaug: language-model augmentation for recommenders, from logs to a published model.

From Python: `llmaug.run`, `llmaug.open_run` and `llmaug.load_published` (see `llmaug.api`).
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from llmaug.api import Published, Run, load_published, open_run, run

__version__ = "0.1.0"
__all__ = ["Published", "Run", "load_published", "open_run", "run"]

if not TYPE_CHECKING:  # for a type checker it would stand for any name at all

    def __getattr__(name: str) -> Any:
        """What `llmaug.api` has, when it is asked for: importing the package loads nothing."""
        if name not in __all__:
            raise AttributeError(f"module 'llmaug' has no attribute '{name}'")
        return getattr(import_module("llmaug.api"), name)
