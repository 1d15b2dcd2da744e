"""Images are strangers' files: what is read of them, from where, and what is refused and why."""

from __future__ import annotations

import io
import os
import struct
import zlib
from pathlib import Path

import pytest
from PIL import Image

from llmaug.core.storage import Storage, digest
from llmaug.text.images import ImageError, Images, as_jpeg
from llmaug.text.task import ImageRules
from tests.text.pictures import bomb, picture

RULES = ImageRules(max_bytes=20_000, max_pixels=1_000_000, side=64)


@pytest.fixture
def images(tmp_path: Path) -> Images:
    root = tmp_path / "images"
    (root / "a").mkdir(parents=True)
    (root / "a" / "red.png").write_bytes(picture("red", "PNG"))
    return Images(Storage(str(root)), RULES)


def put(images: Images, name: str, data: bytes) -> str:
    Path(images.place.path(name)).write_bytes(data)
    return name


def reason(images: Images, uri: str, planned: str | None = None) -> str:
    with pytest.raises(ImageError) as caught:
        images.read(uri, planned)
    told, detail = caught.value.args
    assert uri[:200] in detail and len(detail) < 420
    assert images.digests([uri]) == [None] or told in ("image_changed", *OF_CONTENT)
    return str(told)


OF_CONTENT = ("image_unreadable", "image_too_large")
"""What the bytes are is seen when they are unpacked, and the plan does not."""


@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP"])
def test_it_is_what_its_content_says(images: Images, form: str) -> None:
    """A picture that is called something else is one; its digest is that of the bytes."""
    data = picture("blue", form, size=(200, 100))
    uri = put(images, "photo.svg", data)
    shown = images.read(uri, digest(data))
    assert (shown.mode, shown.size) == ("RGB", (64, 32))
    red, _, blue = shown.getpixel((5, 5))
    assert blue > 200 and red < 60
    assert images.digests([uri, "a/none.png"]) == [digest(data), None]


@pytest.mark.parametrize("prefix", ["", "{root}/", "file://{root}/"])
def test_below_the_root_it_is_read(images: Images, prefix: str) -> None:
    uri = prefix.format(root=images.place.root) + "a/red.png"
    assert images.read(uri, None).getpixel((0, 0)) == (255, 0, 0)


@pytest.mark.parametrize(
    "uri",
    [
        "http://169.254.169.254/latest/meta-data/a.png", "https://shop.example/a.png",
        "HTTPS://shop.example/a.png", "ftp://host/a.png", "s3://other/a/red.png",
        "data:image/png;base64,iVBORw0KGgo=", "file:///etc/passwd", "/etc/passwd",
        "../secret.png", "a/../../secret.png", "a//red.png", "//host/a.png", "./a/red.png",
        "{root}-of-others/a.png", "file://{root}/../secret.png", "a/red.png\0.jpg",
    ],
)  # fmt: skip
def test_nothing_else_is(images: Images, tmp_path: Path, uri: str) -> None:
    (tmp_path / "secret.png").write_bytes(picture("red", "PNG"))
    (tmp_path / "images-of-others").mkdir()
    (tmp_path / "images-of-others" / "a.png").write_bytes(picture("red", "PNG"))
    assert reason(images, uri.format(root=images.place.root)) == "image_refused"


def test_a_link_does_not_lead_out_and_a_pipe_does_not_hold_anybody(
    images: Images, tmp_path: Path
) -> None:
    (tmp_path / "secret.png").write_bytes(picture("red", "PNG"))
    root = Path(images.place.root)
    (root / "out.png").symlink_to(tmp_path / "secret.png")
    (root / "up").symlink_to(tmp_path)
    (root / "in.png").symlink_to(root / "a" / "red.png")
    os.mkfifo(root / "pipe.png")
    assert reason(images, "out.png") == reason(images, "up/secret.png") == "image_refused"
    assert images.read("in.png", None).size == (8, 8)
    assert reason(images, "pipe.png") == reason(images, "a") == "image_unreadable"
    assert reason(images, "b/red.png") == "image_missing"
    assert reason(images, f"{'a' * 300}.png") == "image_unreadable"  # no disk has such a name


def test_large_files_are_not_read_and_bombs_not_unpacked(
    images: Images, monkeypatch: pytest.MonkeyPatch
) -> None:
    heavy = put(images, "heavy.png", picture("red", "PNG") + b"\0" * RULES.max_bytes)
    assert reason(images, heavy) == "image_too_large"
    small = bomb(5_000, 5_000)
    assert len(small) < RULES.max_bytes  # 25 million pixels in some kilobytes
    monkeypatch.setattr(Image.Image, "load", lambda *_: pytest.fail("it was unpacked"))
    assert reason(images, put(images, "bomb.png", small)) == "image_too_large"
    # Pillow's own limit comes before ours.
    assert reason(images, put(images, "huge.png", bomb(60_000, 60_000, True))) == "image_too_large"


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("empty.png", b""),
        ("text.png", b"not a picture at all"),
        ("vector.png", b'<svg xmlns="http://www.w3.org/2000/svg" width="8" height="8"/>'),
        ("cut.png", picture("red", "PNG", size=(64, 64), noise=True)[:-2000]),
        ("cut.jpg", picture("red", "JPEG", size=(64, 64), noise=True)[:-500]),
        ("cut.webp", picture("red", "WEBP", size=(64, 64), noise=True)[:-500]),
        ("moving.gif", picture("red", "GIF")),
        ("scan.tif", picture("red", "TIFF")),
        ("text_bomb.png", b"\x89PNG\r\n\x1a\n"
         + b"".join(struct.pack(">I", len(d)) + k + d + struct.pack(">I", zlib.crc32(k + d))
                    for k, d in [(b"IHDR", struct.pack(">IIBBBBB", 8, 8, 8, 2, 0, 0, 0)),
                                 (b"zTXt", b"a\0\0" + zlib.compress(b"\0" * 9_000_000)),
                                 (b"IEND", b"")])),
    ],
)  # fmt: skip
def test_what_is_no_picture_says_so(images: Images, name: str, data: bytes) -> None:
    assert reason(images, put(images, name, data)) == "image_unreadable"


def test_it_is_shown_as_people_see_it(images: Images) -> None:
    """Upright, and on white where it is transparent."""
    wide = Image.new("RGB", (40, 20), "red")
    wide.paste("blue", (0, 0, 20, 20))  # blue on the left
    out, exif = io.BytesIO(), Image.Exif()
    exif[0x0112] = 6  # to be turned a quarter clockwise: blue is on top
    wide.save(out, "JPEG", quality=95, exif=exif)
    shown = images.read(put(images, "turned.jpg", out.getvalue()), None)
    assert shown.size == (20, 40)
    assert shown.getpixel((10, 5))[2] > 200 and shown.getpixel((10, 35))[0] > 200  # type: ignore[index]
    out = io.BytesIO()
    Image.new("RGBA", (8, 8), (0, 0, 0, 0)).save(out, "PNG")
    assert images.read(put(images, "glass.png", out.getvalue()), None).getpixel((4, 4)) == (
        255, 255, 255,
    )  # fmt: skip


def test_what_is_sent_tells_nothing_of_who_took_it(images: Images) -> None:
    out, exif = io.BytesIO(), Image.Exif()
    exif[0x010F] = "Camera of Jane Doe"
    Image.new("RGB", (40, 20), "red").save(out, "JPEG", exif=exif)
    assert b"Jane Doe" in out.getvalue()
    sent = as_jpeg(images.read(put(images, "own.jpg", out.getvalue()), None))
    assert b"Jane Doe" not in sent and Image.open(io.BytesIO(sent)).size == (40, 20)


def test_an_image_that_changed_is_not_the_one_in_question(images: Images) -> None:
    [planned] = images.digests(["a/red.png"])
    assert images.read("a/red.png", planned)
    put(images, "a/red.png", picture("blue", "PNG"))
    assert reason(images, "a/red.png", planned) == "image_changed"
    assert images.read("a/red.png", None).getpixel((0, 0)) == (0, 0, 255)


@pytest.mark.s3
def test_in_a_bucket_as_in_a_folder(endpoint: str) -> None:
    place = Storage("s3://pictures/of/items", endpoint)
    place.fs.call_s3("create_bucket", Bucket="pictures")
    data = picture("blue", "JPEG")
    place.write(data, "a", "blue.jpg")
    place.write(b"\0" * (RULES.max_bytes + 1), "heavy.jpg")
    place.write(b"", "empty.jpg")
    images = Images(place, RULES)
    for uri in ("a/blue.jpg", "s3://pictures/of/items/a/blue.jpg"):
        assert images.digests([uri]) == [digest(data)]
        assert images.read(uri, digest(data)).size == (8, 8)
    assert reason(images, "heavy.jpg") == "image_too_large"
    assert reason(images, "empty.jpg") == "image_unreadable"
    assert reason(images, "none.jpg") == "image_missing"
    assert reason(images, "a") == "image_unreadable"  # a folder
    for uri in (
        "s3://pictures/a/blue.jpg",
        "s3://pictures/of/items/../x",
        "/a/blue.jpg",
        "file:///x",
    ):
        assert reason(images, uri) == "image_refused"
