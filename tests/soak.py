"""How much `make soak` asks for; `make test` proves each promise once."""

from __future__ import annotations

import os

NIGHTS = int(os.environ.get("LLMAUG_SOAK") or 0)
"""How often a night is disturbed at random; 0 in `make test`."""
