"""A root (a folder, or s3://bucket/prefix) and the objects below it: bytes, and JSON.

Writes are atomic: a reader sees the whole object or none. Credentials come from the environment
or the standard AWS files only.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fsspec
import pyarrow as pa

from llmaug.config.names import RUNS
from llmaug.core.refusals import explained
from llmaug.core.stored import parse_json
from llmaug.errors import UserError
from llmaug.urls import ADVICE, has_password


def digest(value: Any) -> str:
    """Content digest (32 hex digits of SHA-256) of bytes, or of a JSON-able value."""
    if not isinstance(value, bytes):
        value = json.dumps(value, sort_keys=True, default=str, ensure_ascii=False).encode()
    return hashlib.sha256(value).hexdigest()[:32]


@dataclass(frozen=True)
class Objects:
    """A filesystem and a root in it. Small and picklable: workers rebuild the connection."""

    root: str
    """`/data/llmaug`, `file:///data/llmaug` or `s3://bucket/prefix`."""
    endpoint_url: str | None = None
    """S3 endpoint of a server that is not AWS; default: AWS_ENDPOINT_URL, then AWS."""

    def __post_init__(self) -> None:
        for url in (self.root, self.endpoint_url or "", os.environ.get("AWS_ENDPOINT_URL", "")):
            if has_password(url):
                raise UserError(f"{url}: {ADVICE}")  # the error hides it
        # Workers have another working folder: a relative root would be another place there.
        if "://" not in self.root or self.root.startswith("file://"):
            object.__setattr__(self, "root", os.path.abspath(self.root.removeprefix("file://")))
        elif not self.root.startswith("s3://"):
            raise UserError(_other_scheme(self.root))
        elif not self.root.removeprefix("s3://").strip("/"):
            raise UserError(f"{self.root}: which bucket? roots are folders or s3://bucket/prefix")

    @property
    def is_local(self) -> bool:
        return not self.root.startswith("s3://")

    @property
    def fs(self) -> Any:
        """The fsspec filesystem; its paths are those of `path`."""
        if self.is_local:
            return fsspec.filesystem("file")
        from llmaug.core import s3

        return s3.connect(self.endpoint_url or os.environ.get("AWS_ENDPOINT_URL"))

    def path(self, *names: str) -> str:
        """Path inside the filesystem (no protocol) of `names` below the root.

        Raises UserError for names that lead out of the root, or that a disk and S3 would read
        differently: whoever asks, and whatever the names were made from.
        """
        base = self.root.removeprefix("s3://").rstrip("/")
        path = "/".join([base, *names])
        steps = path[len(base) + 1 :].split("/") if names else []
        if any(step in ("", ".", "..") or "\0" in step for step in steps):
            raise UserError(f"{'/'.join(names)!r}: no path below {self.root}")
        return path

    def uri(self, *names: str) -> str:
        return ("" if self.is_local else "s3://") + self.path(*names)

    def arrow_fs(self) -> pa.fs.FileSystem:
        """The same filesystem for pyarrow and Ray Train."""
        import pyarrow.fs

        if self.is_local:
            return pyarrow.fs.LocalFileSystem()
        return pyarrow.fs.PyFileSystem(pyarrow.fs.FSSpecHandler(self.fs))

    # -- objects -----------------------------------------------------------------------

    def exists(self, *names: str) -> bool:
        with explained(self.uri(*names)):
            return bool(self.fs.exists(self.path(*names)))

    def read(self, *names: str) -> bytes:
        """Raises FileNotFoundError when there is no such object."""
        path = self.path(*names)
        with explained(self.uri(*names)):
            return Path(path).read_bytes() if self.is_local else self.fs.read_object(path)[0]

    def size(self, *names: str) -> int:
        """Bytes of an object. Raises FileNotFoundError when there is no such object."""
        with explained(self.uri(*names)):
            return int(self.fs.info(self.path(*names))["size"])

    def read_range(self, start: int, end: int, *names: str) -> bytes:
        """Bytes `start` to before `end`; fewer where the object ends earlier."""
        with explained(self.uri(*names)):
            return bytes(self.fs.cat_file(self.path(*names), start=start, end=end))

    def write(self, data: bytes, *names: str) -> None:
        """Put `data`, atomically, over whatever was there."""
        path = self.path(*names)
        with explained(self.uri(*names)):
            if not self.is_local:
                self.fs.pipe_file(path, data)
                return
            with temporary_file(path, data) as temporary:
                os.replace(temporary, path)

    def read_json(self, *names: str) -> Any:
        """The parsed object, or None when there is none."""
        try:
            data = self.read(*names)
        except FileNotFoundError:
            return None
        return parse_json(self, data, *names)

    def write_json(self, value: Any, *names: str) -> None:
        self.write(dumps(value), *names)

    def names(self, *folder: str) -> list[str]:
        """Sorted names of the objects directly in `folder`; empty when it does not exist."""
        with explained(self.uri(*folder)):
            try:
                listed = self.fs.ls(self.path(*folder), detail=False)
            except (FileNotFoundError, NotADirectoryError):
                return []
        own = self.path(*folder)  # S3 servers may list a folder's marker inside itself
        listed = [name for name in listed if name.rstrip("/") != own]
        return sorted(str(name).rstrip("/").rsplit("/", 1)[-1] for name in listed)

    def sizes(self, *folder: str) -> dict[str, int]:
        """{name below `folder`: bytes} of all objects in it and its sub-folders, by listing."""
        own = self.path(*folder).rstrip("/") + "/"
        # A folder that may not be read is no empty one; s3fs raises by itself.
        strict = {"on_error": "raise"} if self.is_local else {}
        with explained(self.uri(*folder)):
            try:
                found = self.fs.find(self.path(*folder), detail=True, **strict)
            except (FileNotFoundError, NotADirectoryError):
                return {}
        return {
            str(path)[len(own) :]: int(facts["size"] or 0)
            for path, facts in found.items()
            if str(path).startswith(own) and not str(path).endswith("/")
        }

    def delete(self, *names: str) -> None:
        """Remove an object, or a folder inside a run; nothing to remove is fine.

        Below `runs/<run_id>/` everything is ours and held by a lease. Anywhere else a folder may
        hold what people put there: unless it is empty, UserError is raised and it stays.
        """
        path = self.path(*names)
        with explained(self.uri(*names)), contextlib.suppress(FileNotFoundError):
            if not _is_in_a_run("/".join(names)) and (there := self.sizes(*names)):
                raise UserError(
                    f"{self.uri(*names)}: not deleted: {len(there):,} files are in it, and llmaug "
                    "empties folders of its own runs only. Remove it yourself if nobody needs it"
                )
            self.fs.rm(path, recursive=True)


def dumps(value: Any) -> bytes:
    # Names of files that are no UTF-8 hold lone surrogates: `\\udcff` reads back as it was.
    text = json.dumps(value, indent=1, ensure_ascii=False, default=str)
    return text.encode(errors="backslashreplace")


@contextlib.contextmanager
def temporary_file(path: str, data: bytes) -> Iterator[str]:
    """A durable temporary file beside `path`, gone afterwards whatever happens."""
    os.makedirs(os.path.dirname(path), exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(dir=os.path.dirname(path), prefix="._")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        yield temporary
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)


def _is_in_a_run(path: str) -> bool:
    steps = path.split("/")
    return steps[0] == RUNS and len(steps) > 2


def _other_scheme(root: str) -> str:
    scheme, _, rest = root.partition("://")
    if scheme.lower() in ("s3a", "s3n", "s3"):
        fix = f"write s3://{rest} (s3a and s3n are Hadoop's names for it)"
    elif scheme.lower() in ("gs", "gcs"):
        fix = (
            f"write s3://{rest}, with --endpoint-url https://storage.googleapis.com and an HMAC "
            "key: Google Cloud Storage is read through its S3 interface"
        )
    else:
        fix = f"copy what lies in {scheme}:// to one of them, or mount it as a folder"
    return f"{root}: roots are folders or s3://bucket/prefix; {fix}"
