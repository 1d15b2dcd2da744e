"""Folders of plain files (models) below a root, which libraries read from a local folder."""

from __future__ import annotations

import contextlib
import os
import tempfile
from pathlib import Path

from llmaug.core.objects import Objects, digest

FILES = "files.json"  # in such a folder: {name: {"bytes", "digest"}} of the other files


class Folders(Objects):
    """Copies such folders in and out."""

    def put_folder(self, local: str | os.PathLike, folder: str) -> str:
        """Copy the files of a local folder, and what they are to `files.json` beside them;
        returns a digest over their names and bytes."""
        files = {}
        for file in sorted(Path(local).iterdir()):
            data = file.read_bytes()
            self.write(data, folder, file.name)
            files[file.name] = {"bytes": len(data), "digest": digest(data)}
        self.write_json(files, folder, FILES)
        return digest({name: facts["digest"] for name, facts in files.items()})

    def fetch_folder(self, folder: str, version: str) -> str:
        """A local folder with the files of `folder`; downloaded once a `version` and machine."""
        if self.is_local:
            return self.path(folder)
        cache = Path(tempfile.gettempdir()) / f"llmaug-{os.getuid()}"
        target = cache / digest([self.root, folder, version])
        if not target.exists():
            target.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            with tempfile.TemporaryDirectory(dir=target.parent) as temporary:
                for name in self.names(folder):
                    if not name.startswith("_"):
                        Path(temporary, name).write_bytes(self.read(folder, name))
                with contextlib.suppress(OSError):  # another process was first: same bytes
                    os.rename(temporary, target)
                    os.mkdir(temporary)
        return str(target)
