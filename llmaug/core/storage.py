"""One root URI (a folder, or s3://bucket/prefix) and how bytes get in and out of it safely.

Writes are atomic: a reader sees the whole object or none. `create` and `swap` are the
conditional writes (put-if-absent, compare-and-swap) that the lease and the published
pointer stand on. Credentials come from the environment or the standard AWS files only.
"""

from __future__ import annotations

import contextlib
import errno
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
import pyarrow.parquet as pq

from llmaug.config.names import RUNS
from llmaug.core.formats import NOTE, Format
from llmaug.core.stored import damaged, parse_json
from llmaug.errors import UserError
from llmaug.urls import ADVICE, has_password

FILES = "files.json"  # in a folder of plain files: {name: {"bytes", "digest"}} of the others


def digest(value: Any) -> str:
    """Content digest (32 hex digits of SHA-256) of bytes, or of a JSON-able value."""
    if not isinstance(value, bytes):
        value = json.dumps(value, sort_keys=True, default=str, ensure_ascii=False).encode()
    return hashlib.sha256(value).hexdigest()[:32]


@dataclass(frozen=True)
class Storage:
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

    # -- plain objects ---------------------------------------------------------------

    def exists(self, *names: str) -> bool:
        with _explained(self.uri(*names)):
            return bool(self.fs.exists(self.path(*names)))

    def read(self, *names: str) -> bytes:
        """Raises FileNotFoundError when there is no such object."""
        path = self.path(*names)
        with _explained(self.uri(*names)):
            return Path(path).read_bytes() if self.is_local else self.fs.read_object(path)[0]

    def size(self, *names: str) -> int:
        """Bytes of an object. Raises FileNotFoundError when there is no such object."""
        with _explained(self.uri(*names)):
            return int(self.fs.info(self.path(*names))["size"])

    def read_range(self, start: int, end: int, *names: str) -> bytes:
        """Bytes `start` to before `end`; fewer where the object ends earlier."""
        with _explained(self.uri(*names)):
            return bytes(self.fs.cat_file(self.path(*names), start=start, end=end))

    def write(self, data: bytes, *names: str) -> None:
        """Put `data`, atomically, over whatever was there."""
        path = self.path(*names)
        with _explained(self.uri(*names)):
            if not self.is_local:
                self.fs.pipe_file(path, data)
                return
            with _temporary(path, data) as temporary:
                os.replace(temporary, path)

    def read_json(self, *names: str) -> Any:
        """The parsed object, or None when there is none."""
        try:
            data = self.read(*names)
        except FileNotFoundError:
            return None
        return parse_json(self, data, *names)

    def write_json(self, value: Any, *names: str) -> None:
        self.write(_dumps(value), *names)

    def names(self, *folder: str) -> list[str]:
        """Sorted names of the objects directly in `folder`; empty when it does not exist."""
        with _explained(self.uri(*folder)):
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
        with _explained(self.uri(*folder)):
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
        with _explained(self.uri(*names)), contextlib.suppress(FileNotFoundError):
            if not _is_in_a_run("/".join(names)) and (there := self.sizes(*names)):
                raise UserError(
                    f"{self.uri(*names)}: not deleted: {len(there):,} files are in it, and llmaug "
                    "empties folders of its own runs only. Remove it yourself if nobody needs it"
                )
            self.fs.rm(path, recursive=True)

    # -- conditional writes ----------------------------------------------------------

    def create(self, value: Any, *names: str) -> bool:
        """Put JSON only if nothing is there; False when something is."""
        path = self.path(*names)
        with _explained(self.uri(*names)):
            if not self.is_local:
                return bool(self.fs.put_if(path, _dumps(value), IfNoneMatch="*"))
            with _temporary(path, _dumps(value)) as temporary:
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
        with _explained(self.uri(*names)):
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
        with _explained(self.uri(*names)):
            if not self.is_local:
                return bool(self.fs.put_if(path, _dumps(value), IfMatch=version))
            import fcntl

            with open(f"{path}.lock", "a") as guard:
                fcntl.flock(guard, fcntl.LOCK_EX)
                if self._versioned(*names)[1] != version:
                    return False
                self.write(_dumps(value), *names)
                return True

    # -- tables ----------------------------------------------------------------------

    def read_table(
        self, *names: str, columns: list[str] | None = None, stored: Format | None = None
    ) -> pa.Table:
        """stored: the format of such tables; an older one is as if it were written today."""
        # Not `pq.read_table`: its background threads may let go of our bytes after the
        # interpreter has begun to end, and that aborts the process (seen with pyarrow 26).
        try:
            data = pa.BufferReader(self.read(*names))
        except FileNotFoundError as error:
            raise damaged(self, "it is missing", *names) from error
        try:
            file = pq.ParquetFile(data, pre_buffer=False)
            if stored is None or stored.is_of_today(file.schema_arrow, self.uri(*names)):
                table = file.read(columns=columns, use_threads=False)
            else:
                whole = file.read(use_threads=False)
                table = stored.upgraded_table(whole, self.uri(*names))
                table = table.select([n for n in table.column_names if n in (columns or [n])])
        except (pa.ArrowException, OSError) as error:  # ArrowIOError is an OSError
            raise damaged(self, f"it is no Parquet file ({error})", *names) from error
        if missing := set(columns or ()) - set(table.column_names):
            raise damaged(self, f"columns are missing: {', '.join(sorted(missing))}", *names)
        return table

    def write_table(self, table: pa.Table, *names: str) -> str:
        """Write Parquet; returns the content digest of the file."""
        data = _parquet(table)
        self.write(data, *names)
        return digest(data)

    def write_part(self, table: pa.Table, counts: dict[str, Any], folder: str, part: str) -> dict:
        """Write `part` (a table), then the small JSON beside it that makes it count as done.

        The note holds rows, bytes, digest and `counts`, so that a resumed stage adds up the same
        ledger without reading the rows again.
        """
        data = _parquet(table)
        self.write(data, folder, f"{part}.parquet")
        note = {
            **NOTE.stamp, "part": part, "rows": table.num_rows, "bytes": len(data),
            "digest": digest(data), "counts": counts,
        }  # fmt: skip
        self.write_json(note, folder, f"{part}.json")
        return note

    def read_part(
        self,
        folder: str,
        part: str,
        columns: list[str] | None = None,
        stored: Format | None = None,
    ) -> pa.Table:
        return self.read_table(folder, f"{part}.parquet", columns=columns, stored=stored)

    def parts(self, folder: str) -> list[str]:
        """Names of the finished parts in `folder`, in order."""
        names = self.names(folder)
        notes = {name.removesuffix(".json") for name in names if name.endswith(".json")}
        return [n[:-8] for n in names if n.endswith(".parquet") and n[:-8] in notes]

    # -- folders of plain files (models) ----------------------------------------------

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


def _is_in_a_run(path: str) -> bool:
    steps = path.split("/")
    return steps[0] == RUNS and len(steps) > 2


def _parquet(table: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd")
    return bytes(sink.getvalue().to_pybytes())


def _dumps(value: Any) -> bytes:
    # Names of files that are no UTF-8 hold lone surrogates: `\\udcff` reads back as it was.
    text = json.dumps(value, indent=1, ensure_ascii=False, default=str)
    return text.encode(errors="backslashreplace")


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


@contextlib.contextmanager
def _temporary(path: str, data: bytes) -> Iterator[str]:
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


@contextlib.contextmanager
def _explained(uri: str) -> Iterator[None]:
    """Turn what a filesystem raises into a message with the place and the fix."""
    try:
        yield
    except FileNotFoundError:
        raise
    except PermissionError as error:
        raise UserError(
            f"{uri}: no permission: {error}. Check the folder's owner or the AWS credentials "
            "(AWS_ACCESS_KEY_ID, AWS_PROFILE) and their policy (infra/s3-policy.json)"
        ) from error
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise UserError(
                f"{uri}: the disk is full. Free space and run the same command again: "
                "finished parts are kept"
            ) from error
        if error.errno in (errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.EROFS):
            raise UserError(f"{uri}: cannot write here: {error.strerror}") from error
        if error.errno == errno.EISDIR:
            raise UserError(f"{uri}: a folder lies where a file belongs; remove it") from error
        if error.errno == errno.ENAMETOOLONG:
            raise UserError(f"{uri}: a name is too long for this disk; shorten it") from error
        if error.errno == errno.ELOOP:
            raise UserError(f"{uri}: the links here lead round in a circle") from error
        if error.errno and not uri.startswith("s3://"):
            raise UserError(f"{uri}: the disk refused: {error.strerror}") from error
        if uri.startswith("s3://"):
            raise UserError(
                f"{uri}: storage refused: {error}. Check the bucket and the endpoint; "
                "`llmaug doctor` tests them"
            ) from error
        raise
    except Exception as error:
        if type(error).__module__.split(".")[0] in ("botocore", "aiobotocore"):
            raise UserError(
                f"{uri}: cannot ask storage: {error}. Check the credentials, the region and the "
                "endpoint; `llmaug doctor` tests them"
            ) from error
        raise
