"""One root URI (a folder, or s3://bucket/prefix) and how bytes get in and out of it safely.

`objects` has the root, bytes and JSON, `parts` tables, `folders` those of models. Here are
`create` and `swap`, the conditional writes (put-if-absent, compare-and-swap) that the lease and
the published pointer stand on.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from llmaug.core.folders import FILES, Folders
from llmaug.core.objects import digest, dumps, temporary_file
from llmaug.core.parts import Tables
from llmaug.core.refusals import explained
from llmaug.core.stored import parse_json
from llmaug.errors import UserError

__all__ = ["FILES", "Storage", "digest"]


class Storage(Tables, Folders):
    """All that is done with a root."""

    def create(self, value: Any, *names: str) -> bool:
        """Put JSON only if nothing is there; False when something is."""
        path = self.path(*names)
        with explained(self.uri(*names)):
            if not self.is_local:
                return bool(self.fs.put_if(path, dumps(value), IfNoneMatch="*"))
            with temporary_file(path, dumps(value)) as temporary:
                try:
                    os.link(temporary, path)  # atomic, and refused when the target exists
                except FileExistsError:
                    return False
                return True

    def read_version(self, *names: str) -> tuple[Any, str | None]:
        """(parsed JSON, version) for `swap`; (None, None) when there is no such object."""
        data, version = self._versioned(*names)
        return (None if data is None else parse_json(self, data, *names)), version

    def read_any(self, *names: str) -> tuple[Any, str | None]:
        """As `read_version`, with None for an object that is no JSON."""
        data, version = self._versioned(*names)
        try:
            return (None if data is None else json.loads(data)), version
        except (ValueError, RecursionError):
            return None, version

    def _versioned(self, *names: str) -> tuple[bytes | None, str | None]:
        path = self.path(*names)
        with explained(self.uri(*names)):
            try:
                if not self.is_local:
                    return self.fs.read_object(path)  # type: ignore[no-any-return]
                data = Path(path).read_bytes()
                return data, digest(data)
            except FileNotFoundError:
                return None, None

    def swap(self, value: Any, version: str, *names: str) -> bool:
        """Put JSON only if the object still has `version`; False when it has changed.

        False is also the answer when ours was there, unheard, until another replaced it: who
        tries again looks first.
        """
        path = self.path(*names)
        with explained(self.uri(*names)):
            if not self.is_local:
                return bool(self.fs.put_if(path, dumps(value), IfMatch=version))
            import fcntl

            with open(f"{path}.lock", "a") as guard:
                fcntl.flock(guard, fcntl.LOCK_EX)
                if self._versioned(*names)[1] != version:
                    return False
                self.write(dumps(value), *names)
                return True


def at_root(root: str, endpoint_url: str | None = None) -> Storage:
    """The storage that somebody names. Raises UserError for a pattern: logs may be one."""
    if any(char in root for char in "*?["):
        raise UserError(f"{root}: a root is one folder, not a pattern of names; give its own name")
    return Storage(root, endpoint_url)
