"""A file as lines of text: unpacked, decoded, each of bounded length, none of them lost.

What a file is packed with is told by its first bytes, not by its name.
"""

from __future__ import annotations

import bz2
import codecs
import gzip
import io
import lzma
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pyarrow as pa

from llmaug.core.sources import Source
from llmaug.core.storage import Storage
from llmaug.errors import UserError
from llmaug.ingest.layout import Layout, Refused

CHUNK = 2**18
BOM = "\ufeff"
PACKED = {
    b"\x1f\x8b": "gzip",
    b"BZh": "bz2",
    b"\xfd7zXZ\x00": "xz",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"\x04\x22\x4d\x18": "lz4",
    b"PK\x03\x04": "zip",
}
FOREIGN = {
    b"PAR1": "a Parquet file; set {where}.format: parquet",
    b"ORC": "an ORC file, which is not read; convert it to Parquet",
    b"Obj\x01": "an Avro file, which is not read; convert it to Parquet",
    b"\xff\x06\x00\x00sNaPpY": "packed with snappy, which is not read; pack it with zstd or gzip",
    b"SQLite format 3": "a SQLite database, which is not read; export it to Parquet or CSV",
}
# The longer marks first: UTF-32's begins with UTF-16's.
MARKS = {
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}


class Stream:
    """An opened file, and how much of it was read."""

    def __init__(self, file: io.BufferedReader) -> None:
        self.readline = file.readline
        self.num_bytes = 0


@contextmanager
def opened(place: Storage, source: Source, layout: Layout) -> Iterator[Stream]:
    """`source` as a stream of UTF-8, or of one byte a character where `encoding` says so.

    Raises UserError when it is a file that no line reader reads, EOFError and OSError when it
    is damaged.
    """
    with place.fs.open(source.path, "rb") as raw:
        head = raw.read(16)
        raw.seek(0)
        for mark, what in FOREIGN.items():
            if head.startswith(mark) and any(byte < 9 for byte in head):  # no text has those
                raise UserError(f"{source.name}: is {what.format(where=layout.where)}")
        stream = io.BufferedReader(_unpacked(raw, head, source), CHUNK)
        coding = wide_encoding(stream.peek(4)[:4], layout.files.encoding)
        yield Stream(io.BufferedReader(_AsUtf8(stream, coding), CHUNK) if coding else stream)


def lines(stream: Stream, layout: Layout) -> Iterator[tuple[int, str | Refused]]:
    """(number from 1, text without its line end) of every line that is not blank; a line that
    is too long or does not decode comes as Refused. A byte order mark is no text, wherever
    files were joined."""
    limit, where = layout.files.max_line_bytes, layout.where
    encoding = layout.files.encoding or "utf-8"
    encoding = "utf-8" if _is_wide(encoding) else encoding
    number, readline = 0, stream.readline
    while line := readline(limit + 1):
        number += 1
        stream.num_bytes += len(line)
        if len(line) > limit and not line.endswith(b"\n"):
            size = len(line)
            while line and not line.endswith(b"\n"):
                line = readline(CHUNK)
                size += len(line)
            why = f"{size:,} bytes; {where}.max_line_bytes is {limit:,}"
            yield number, Refused(number, "line_too_long", why)
            continue
        try:
            text = line.decode(encoding)
        except UnicodeDecodeError as error:
            yield number, Refused(number, "not_utf8", _what_it_is(line, error, layout))
            continue
        text = text.lstrip(BOM).rstrip("\r\n")
        if text and not text.isspace():
            yield number, text


def _unpacked(raw: Any, head: bytes, source: Source) -> Any:
    kind = next((kind for mark, kind in PACKED.items() if head.startswith(mark)), None)
    if kind == "gzip":
        return gzip.GzipFile(fileobj=raw)
    if kind == "bz2":
        return bz2.BZ2File(raw)
    if kind == "xz":
        return lzma.LZMAFile(raw)
    if kind in ("zstd", "lz4"):
        return pa.CompressedInputStream(pa.PythonFile(raw, mode="r"), kind)
    if kind == "zip":
        return _only_member(raw, source)
    return raw


def _only_member(raw: Any, source: Source) -> Any:
    archive = zipfile.ZipFile(raw)
    files = [member for member in archive.infolist() if not member.is_dir()]
    if len(files) != 1:
        raise UserError(
            f"{source.name}: a zip of {len(files)} files; unpack it, a zip of one file is read"
        )
    if files[0].flag_bits & 1:
        raise UserError(f"{source.name}: a zip with a password; unpack it")
    return archive.open(files[0])


def wide_encoding(head: bytes, encoding: str | None) -> str | None:
    """The encoding in which a line end is more than one byte, by setting or by the mark."""
    if encoding is not None:
        return encoding if _is_wide(encoding) else None
    return next((coding for mark, coding in MARKS.items() if head.startswith(mark)), None)


def _is_wide(encoding: str) -> bool:
    return codecs.lookup(encoding).name.startswith(("utf-16", "utf-32"))


class _AsUtf8(io.RawIOBase):
    """A stream of wide characters as UTF-8."""

    def __init__(self, stream: Any, encoding: str) -> None:
        self._stream, self._decoder = stream, codecs.getincrementaldecoder(encoding)()
        self._ready = b""
        self._ended = False

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._ready and not self._ended:
            chunk = self._stream.read(CHUNK)
            self._ended = not chunk
            try:
                text = self._decoder.decode(chunk, final=self._ended)
            except UnicodeError as error:
                raise EOFError(f"not {error.encoding if hasattr(error, 'encoding') else 'text'}: "
                               f"{error}") from error  # fmt: skip
            self._ready = text.encode("utf-8", "surrogatepass")
        size = min(len(buffer), len(self._ready))
        buffer[:size], self._ready = self._ready[:size], self._ready[size:]
        return size


def _what_it_is(line: bytes, error: UnicodeDecodeError, layout: Layout) -> str:
    """The byte that is not UTF-8 and, where the line reads as Windows text, the setting."""
    where = f"byte {line[error.start]:#04x} at position {error.start + 1}"
    if layout.files.encoding is not None:
        return f"{where}: not {layout.files.encoding}"
    if b"\x00" in line:
        return f"{where}; it has zero bytes: binary, or UTF-16 (set {layout.where}.encoding)"
    try:
        line.decode("cp1252")
    except UnicodeDecodeError:
        return where
    return f"{where}; it reads as Windows text: set {layout.where}.encoding: cp1252"
