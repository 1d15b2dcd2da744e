"""Small pictures, and small files that unpack to large ones."""

from __future__ import annotations

import io
import struct
import zlib

from PIL import Image


def picture(color: str, form: str, size: tuple[int, int] = (8, 8), noise: bool = False) -> bytes:
    """The bytes of one; noise: it takes some kilobytes."""
    made = Image.new("RGB", size, color)
    if noise:
        made = Image.merge("RGB", [Image.effect_noise(size, 90) for _ in range(3)])
    out = io.BytesIO()
    made.save(out, form, **({"lossless": True} if form == "WEBP" else {}))
    return out.getvalue()


def bomb(width: int, height: int, empty: bool = False) -> bytes:
    """A PNG of one bit a pixel, all of them alike; empty: only its header says how large it is."""
    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    lines = b"" if empty else (b"\0" * (1 + (width + 7) // 8)) * height
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(lines, 9)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in chunks
    )
