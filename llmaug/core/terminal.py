"""The one door to the terminal: whatever is printed is plain text, and printing never fails.

Ids, titles, notes and paths are the user's data. In rich's markup `[slug]` would vanish and
`[/x]` raise; an escape sequence in a title would repaint the screen. So nothing here reads
markup (what is coloured says so with a style), and control characters are shown as U+FFFD. A
reader that went away (`| head`), a full disk under a log file or a terminal that knows only
ASCII end no night that is finished.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import sys
from collections.abc import Iterable
from typing import IO, Any, Literal

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.text import Text

from llmaug.errors import UserError

# All of Unicode's Cc but tab and line feed; separators that end a line; what turns the direction
# of the text around it.
_HOSTILE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028\u2029\u202a-\u202e\u2066-\u2069]"
)

_WIDTH_OF_FILES = 160  # of a log, where nobody's window says: tables would be cut at 80


def plain(text: str) -> str:
    """`text` without characters that a terminal obeys; as long as it was."""
    return _HOSTILE.sub("\ufffd", text)


class Terminal(Console):
    """A rich console for text of any origin, on standard output or on standard error."""

    def __init__(self, *, stderr: bool = False, file: IO[str] | None = None, **options: Any):
        stream = _Stream(file or ("stderr" if stderr else "stdout"))
        if not stream.isatty() and "COLUMNS" not in os.environ:
            options.setdefault("width", _WIDTH_OF_FILES)
        super().__init__(file=stream, markup=False, highlight=False, emoji=False, **options)  # type: ignore[arg-type]

    def render_str(self, text: str, **options: Any) -> Text:  # type: ignore[override]
        return super().render_str(plain(text), **options)

    def render(
        self, renderable: RenderableType, options: ConsoleOptions | None = None
    ) -> Iterable[Segment]:
        if isinstance(renderable, Text) and _HOSTILE.search(renderable.plain):
            renderable = renderable.copy()
            renderable.plain = plain(renderable.plain)
        return super().render(renderable, options)


def emit(text: str) -> None:
    """Put data (JSON, CSV) on standard output.

    A reader that has seen enough is no failure. Raises UserError where the data would be cut
    off otherwise, such as on a full disk.
    """
    if sys.stdout is None:  # closed by whoever started us
        return
    try:
        sys.stdout.write(_encodable(text, sys.stdout))
        sys.stdout.flush()
    except BrokenPipeError:
        _silence(sys.stdout)
    except OSError as error:
        _silence(sys.stdout)
        raise UserError(f"cannot write to standard output: {error.strerror or error}") from error


def emit_json(value: Any) -> None:
    """`value` as indented JSON on standard output, safe to look at and to parse."""
    encoding = (getattr(sys.stdout, "encoding", None) or "ascii").lower()
    ascii_only = not encoding.startswith("utf")
    text = json.dumps(value, indent=1, ensure_ascii=ascii_only, default=str)
    emit(_HOSTILE.sub(lambda found: f"\\u{ord(found[0]):04x}", text) + "\n")


class _Stream:
    """A text stream that swallows what cannot be written; by name it follows `sys`."""

    def __init__(self, stream: IO[str] | Literal["stdout", "stderr"]) -> None:
        self._given = stream

    @property
    def _stream(self) -> IO[str] | None:
        stream = getattr(sys, self._given) if isinstance(self._given, str) else self._given
        return getattr(stream, "rich_proxied_file", stream)  # while bars are shown

    @property
    def encoding(self) -> str:
        return getattr(self._stream, "encoding", None) or "utf-8"

    def write(self, text: str) -> int:
        if stream := self._stream:
            with _unfailing(stream):
                stream.write(_encodable(text, stream))
        return len(text)

    def flush(self) -> None:
        if stream := self._stream:
            with _unfailing(stream):
                stream.flush()

    def isatty(self) -> bool:
        stream = self._stream
        return stream is not None and not stream.closed and stream.isatty()

    def fileno(self) -> int:
        if self._stream is None:
            raise OSError("the stream is closed")
        return self._stream.fileno()


@contextlib.contextmanager
def _unfailing(stream: IO[str]) -> Any:
    try:
        yield
    except (OSError, ValueError):  # ValueError: it is closed
        _silence(stream)


def _encodable(text: str, stream: IO[str]) -> str:
    encoding = getattr(stream, "encoding", None) or "utf-8"
    try:
        text.encode(encoding)
    except UnicodeEncodeError:
        return text.encode(encoding, "backslashreplace").decode(encoding)
    return text


def _silence(stream: IO[str]) -> None:
    """Let the rest, and what Python flushes at its end, go nowhere."""
    with contextlib.suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)
