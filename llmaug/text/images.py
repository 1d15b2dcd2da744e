"""Images of items, read where the config says and from nowhere else.

An items table comes from outside, and so do the images: a URI may point into the network or at
somebody else's file, and a file may be huge, damaged, or a small one that unpacks to gigabytes. So
only what lies below `text.image_root` is read, by the storage that the run has anyway; bytes are
bounded before they are read and pixels before they are unpacked; and what it is says its content
(JPEG, PNG or WebP), never its name. Whatever is refused has a reason.
"""

from __future__ import annotations

import io
import os
import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING

from llmaug.core.sources import resolve_uri
from llmaug.core.stage import Context
from llmaug.core.storage import Storage, digest
from llmaug.errors import UserError
from llmaug.text.task import ImageRules

if TYPE_CHECKING:
    from PIL.Image import Image

REFUSED, MISSING, TOO_LARGE = "image_refused", "image_missing", "image_too_large"
UNREADABLE, CHANGED = "image_unreadable", "image_changed"

_FORMATS = ("JPEG", "PNG", "WEBP")
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):")
_WHITE = (255, 255, 255)
_AT_A_TIME = 16  # storage answers slowly, and to many


class ImageError(Exception):
    """(reason, detail) of an image that nobody is asked about."""

    def __init__(self, reason: str, uri: str, what: str) -> None:
        super().__init__(reason, f"{uri[:200]}: {what[:200]}")


@dataclass(frozen=True)
class Images:
    """Those below one root; small and picklable."""

    place: Storage
    rules: ImageRules

    def digests(self, uris: Sequence[str]) -> list[str | None]:
        """Of the bytes of each; None for one that cannot be read: `read` says why."""
        with ThreadPoolExecutor(_AT_A_TIME) as pool:
            return list(pool.map(self._digest, uris))

    def _digest(self, uri: str) -> str | None:
        try:
            return digest(self._data(uri))
        except ImageError:
            return None

    def read(self, uri: str, planned: str | None) -> Image:
        """The image as it is shown: upright, RGB, no larger than the rules say.

        planned: the digest of the bytes that the plan asks about; None where the plan could not
        read them, and whatever is there now will do. Raises ImageError.
        """
        data = self._data(uri)
        if planned is not None and digest(data) != planned:
            raise ImageError(CHANGED, uri, "not the image that the plan was made with")
        return decoded(data, self.rules, uri)

    def _data(self, uri: str) -> bytes:
        names, most = self._names(uri), self.rules.max_bytes
        try:
            size = self.place.size(*names)
            if size > most:
                raise ImageError(TOO_LARGE, uri, f"{size:,} bytes; at most {most:,} are read")
            data = self.place.read_range(0, most + 1, *names) if size else b""
        except FileNotFoundError as error:
            raise ImageError(MISSING, uri, "there is no such file") from error
        except (UserError, OSError) as error:
            raise ImageError(UNREADABLE, uri, str(error)) from error
        if len(data) > most:
            raise ImageError(TOO_LARGE, uri, f"more than {most:,} bytes")
        return data

    def _names(self, uri: str) -> list[str]:
        """What follows the root. Raises ImageError where that is not below it."""
        root = self.place.uri().rstrip("/")
        below = uri.removeprefix("file://") if self.place.is_local else uri
        if below.startswith(f"{root}/"):
            below = below[len(root) + 1 :]
        elif found := _SCHEME.match(below):
            raise ImageError(
                REFUSED, uri, f"{found[1]}: is not read here, only what is below {root}"
            )
        names = below.split("/")
        try:
            path = self.place.path(*names)
        except UserError as error:
            raise ImageError(REFUSED, uri, f"not below {root}") from error
        if self.place.is_local:
            self._check_file(path, uri, root)
        return names

    def _check_file(self, path: str, uri: str, root: str) -> None:
        """A link may lead out of the root, and a pipe has no end."""
        found = os.path.realpath(path)
        if not found.startswith(os.path.realpath(root).rstrip("/") + "/"):
            raise ImageError(REFUSED, uri, f"a link that leads out of {root}")
        if os.path.exists(found) and not os.path.isfile(found):
            raise ImageError(UNREADABLE, uri, "a folder or a device, no file")


def images_of(rules: ImageRules | None, context: Context) -> Images | None:
    """Those of a run; None for a task without any. Raises UserError where Pillow is missing."""
    if rules is None:
        return None
    if find_spec("PIL") is None:
        raise UserError("text.tasks: images are read by Pillow, which vLLM brings: install pillow")
    root = context.config.text.image_root
    assert root is not None
    return Images(resolve_uri(root, context.storage, "text.image_root"), rules)


def decoded(data: bytes, rules: ImageRules, uri: str) -> Image:
    """Raises ImageError for what is no image, too many pixels, or damaged."""
    from PIL import Image, ImageOps

    bombs = (Image.DecompressionBombError, Image.DecompressionBombWarning)
    try:
        with Image.open(io.BytesIO(data), formats=_FORMATS) as image:
            width, height = image.size
            if width * height > rules.max_pixels:
                many = f"{width} x {height} pixels; at most {rules.max_pixels:,} are unpacked"
                raise ImageError(TOO_LARGE, uri, many)
            image.draft("RGB", (rules.side, rules.side))  # of a JPEG no more than is needed
            image.load()
            shown = _on_white(ImageOps.exif_transpose(image))
            shown.thumbnail((rules.side, rules.side))
    except ImageError:
        raise
    except bombs as error:
        raise ImageError(TOO_LARGE, uri, str(error)) from error
    except Exception as error:  # decoders raise whatever a damaged file makes them
        what = f"no {', '.join(_FORMATS)}, or damaged: {error}"
        raise ImageError(UNREADABLE, uri, what) from error
    return shown


def _on_white(image: Image) -> Image:
    """What is transparent would be black, or whatever colour lies under it."""
    from PIL import Image

    if not image.has_transparency_data:
        return image.convert("RGB")
    layer = image.convert("RGBA")
    made = Image.new("RGB", image.size, _WHITE)
    made.paste(layer, mask=layer.getchannel("A"))
    return made


def as_jpeg(image: Image) -> bytes:
    """To be sent: nothing of the file's metadata goes along."""
    out = io.BytesIO()
    image.save(out, "JPEG", quality=90)
    return out.getvalue()
