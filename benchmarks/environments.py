"""Virtual environments that peers live in, each of its own."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import venv
from collections.abc import Sequence
from pathlib import Path

from llmaug.core.cluster import WORKER_ENV
from llmaug.errors import UserError

CACHE = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"), "llmaug", "environments")
ONE_THREAD = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}


def environment(folder: Path, name: str, needs: Sequence[str]) -> str:
    """Python of the peer's environment, which is made when it is not there.

    needs: what `pip -q` is given, one call after the other. Raises UserError with the words of
    pip.
    """
    digest = hashlib.sha256(json.dumps([sys.version, needs]).encode()).hexdigest()[:8]
    place = folder / f"{name}-{digest}"
    python, done = place / "bin/python", place / "done"
    if done.exists():
        return str(python)
    print(f"making {place}: this takes minutes", flush=True)
    venv.create(place, clear=True, with_pip=True)
    for arguments in needs:
        command = [python, "-m", "pip", "-q", *arguments.split()]
        made = subprocess.run(command, text=True, capture_output=True)
        if made.returncode:
            raise UserError(f"pip {arguments}: {made.stderr.strip()[-2000:]}")
    done.touch()
    return str(python)


def without_ours() -> dict[str, str]:
    """This process's variables for a peer: it shall not find our packages, nor have our memory
    allocator."""
    hidden = {*WORKER_ENV, "PYTHONPATH"}
    return {key: value for key, value in os.environ.items() if key not in hidden}
