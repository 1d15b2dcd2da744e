"""Images of items in a job: a vision-language model is asked about those that can be shown, and
each of the others has its reason. Once in vLLM, by a random model that says bytes, and once by an
endpoint that says good sentences, up to the catalogue."""

from __future__ import annotations

import base64
import io
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from llmaug import pipeline
from llmaug.commands.retry import retry_failed
from llmaug.config import CaptionItemsConfig, Config, TextConfig, parse_config
from llmaug.core.stage import Context
from llmaug.core.storage import Storage
from llmaug.errors import UserError
from llmaug.generate.engines import Finished, together
from llmaug.generate.units import Units
from llmaug.lm.chat.template import image_frames
from llmaug.schema import ITEM, REAL, UNIT
from llmaug.text.caption_items import captioned, shown_items
from llmaug.text.image_engine import _READERS, ImageEngine
from llmaug.text.images import Images
from llmaug.text.model import ChatModel
from llmaug.text.prompts import Asking
from llmaug.text.task import ImageRules, Task, task_of
from tests.nights import CONFIG, NIGHT, without_ray, write_ingest
from tests.tables import histories, read_rows
from tests.text.chat import (
    CHATML_OF_PARTS,
    IMAGE_CONTROLS,
    Endpoint,
    byte_tokenizer,
    endpoint,
    write_seeing_model,
)
from tests.text.pictures import bomb, picture

GOLDEN = Path(__file__).parent / "golden"
GOOD = {"description": "A plain surface in a single strong colour.", "tags": ["colour"]}
MAX_MIB = 0.02

# Item to its image URI and the file that lies there.
SHOP: dict[str, tuple[str | None, bytes | None]] = {
    "a": ("red.png", picture("red", "PNG")),
    "b": ("{root}/images/blue.jpg", picture("blue", "JPEG", size=(640, 480))),
    "c": ("green.webp", picture("green", "WEBP")),
    "d": ("broken.jpg", b"\xff\xd8 this was a photo once"),
    "e": ("heavy.png", picture("red", "PNG") + b"\0" * 30_000),
    "f": ("missing.png", None),
    "g": ("bomb.png", bomb(7_000, 7_000)),
    "h": ("http://127.0.0.1:9/meta-data.png", None),
    "i": ("../secret.png", picture("red", "PNG")),
    "j": (None, None),  # nobody is asked about it
}
FAILURES = {
    "failed.image_unreadable": 1, "failed.image_too_large": 2, "failed.image_missing": 1,
    "failed.image_refused": 2,
}  # fmt: skip


def write_shop(root: Path) -> None:
    """The images, and an items table in two parts."""
    (root / "images").mkdir(parents=True)
    items = []
    for item, (uri, data) in SHOP.items():
        if uri and data:
            root.joinpath("images", uri.format(root=root)).write_bytes(data)
        known = "From the workshop." if item == "a" else None
        items.append(
            {"item_id": item, "title": f"Thing {item}", "description": known, "origin": REAL,
             "image_uri": uri and uri.format(root=root)}
        )  # fmt: skip
    for part in range(2):
        table = pa.Table.from_pylist(items[part::2], schema=ITEM)
        Storage(str(root)).write_part(table, {}, f"runs/{NIGHT}/ingest/items", f"part-{part}")


def config(home: Path, run: str = NIGHT, **text: Any) -> Config:
    task = {"kind": "caption_items", "max_image_mib": MAX_MIB, "max_image_pixels": 1_000_000}
    task |= text.pop("task", {})
    for name, line in (
        ("events", "user_id,item_id,timestamp\nu1,a,1\n"),
        ("items", "item_id\na\n"),
    ):
        home.joinpath(f"{name}.csv").write_text(line)
    return parse_config(
        {
            **CONFIG,
            "name": run,
            "ingest": {
                **CONFIG["ingest"], "path": str(home / "events.csv"),
                "items": {"path": str(home / "items.csv")},
            },
            "text": {"image_root": "{root}/images", "tasks": [task], **text},
        }
    )  # fmt: skip


def adds_up(counts: dict[str, int]) -> bool:
    return counts["units"] == counts["accepted"] + counts["rejected"] + counts["failed"]


# -- an endpoint, up to the catalogue -----------------------------------------------------

Night = tuple[Config, Storage, Endpoint, dict[str, Any]]


@pytest.fixture(scope="module")
def night(tmp_path_factory: pytest.TempPathFactory, ray_session: None) -> Iterator[Night]:
    home = tmp_path_factory.mktemp("captions")
    root = home / "root"
    write_shop(root)
    with endpoint(lambda *_: (200, GOOD)) as asked, pytest.MonkeyPatch.context() as patch:
        without_ray(patch)
        server = {"base_url": asked.url, "model": "m", "first_wait_s": 0.01}
        parsed, storage = config(home, engine="openai", endpoint=server), Storage(str(root))
        write_ingest(Context(storage, parsed, NIGHT), histories(u1="abcd", u2="bcda", u3="cdab"))
        yield parsed, storage, asked, pipeline.run(parsed, storage, NIGHT, until="vocabulary")


def shown(request: dict[str, Any]) -> Image.Image:
    """The image of a request."""
    image, text = request["messages"][0]["content"]
    assert (image["type"], text["type"]) == ("image_url", "text")
    kind, data = image["image_url"]["url"].split(",")
    assert kind == "data:image/jpeg;base64"
    return Image.open(io.BytesIO(base64.b64decode(data)))


def test_every_image_has_one_fate(night: Night) -> None:
    *_, asked, done = night
    counts = done["text/caption_items/rows"]["counts"]
    assert counts == {"rows": 3, "units": 9, "accepted": 3, "rejected": 0, "failed": 6, **FAILURES}
    plan = done["text/caption_items/plan"]["counts"]
    # That a file is no picture shows when it is unpacked.
    assert (plan["units"], plan["images_unread"]) == (9, 4)
    assert len(asked.requests) == 3


def test_the_server_gets_pictures_and_no_addresses(night: Night) -> None:
    _, _, asked, _ = night
    pictures = {shown(request).getpixel((3, 3)): request for request in asked.requests}
    assert {max(range(3), key=color.__getitem__) for color in pictures} == {0, 1, 2}
    assert max(shown(request).size for request in asked.requests) == (448, 336)
    assert not any("127.0.0.1" in str(each["messages"][0]["content"][1]) for each in asked.requests)


def test_the_catalogue_says_what_can_be_seen(night: Night) -> None:
    _, storage, _, _ = night
    items = {row["item_id"]: row for row in read_rows(storage, f"runs/{NIGHT}/vocabulary")}
    assert items["b"]["description"] == GOOD["description"]
    assert items["a"]["description"] == f"From the workshop. {GOOD['description']}"
    for item in "abc":
        assert (items[item]["origin"], items[item]["tags"]) == ("synthetic", ["about:colour"])
    assert (items["d"]["description"], items["d"]["origin"]) == (None, REAL)


def test_the_verdicts_say_why(night: Night) -> None:
    _, storage, _, _ = night
    rows = {
        r["item_id"]: r for r in read_rows(storage, f"runs/{NIGHT}/text/caption_items/filtered")
    }
    assert rows["h"]["detail"].startswith("http://127.0.0.1:9/meta-data.png: http: is not read")
    assert "7000 x 7000 pixels; at most 1,000,000" in rows["g"]["detail"]
    assert "at most 20,972 are read" in rows["e"]["detail"]
    assert [row for row in rows.values() if row["status"] == "failed" and not row["reason"]] == []


def test_a_new_image_is_a_new_question_and_an_old_one_is_not(
    night: Night, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tomorrow one image is another, under its old name; and a missing one has come."""
    without_ray(monkeypatch)
    parsed, storage, asked, _ = night
    images, before = Path(storage.path("images")), len(asked.requests)

    # What this night failed at, it does when somebody says so.
    (images / "missing.png").write_bytes(picture("yellow", "PNG"))
    done = retry_failed(storage, NIGHT, "image_missing", text_task="caption_items")
    assert done == {"retried": 1, "by_reason": {"image_missing": 1}, "still_failed": 5}
    assert len(asked.requests) == before + 1

    (images / "red.png").write_bytes(picture("white", "PNG"))
    context = Context(storage, parsed, "tomorrow")
    storage.write_json({}, "runs/tomorrow", "run.json")
    for part in storage.parts(f"runs/{NIGHT}/ingest/items"):
        table = storage.read_part(f"runs/{NIGHT}/ingest/items", part)
        storage.write_part(table, {}, "runs/tomorrow/ingest/items", part)
    write_ingest(context, histories(u1="abcd", u2="bcda", u3="cdab"))
    later = pipeline.run(parsed, storage, "tomorrow", until="text")
    counts = later["text/caption_items/outcomes"]["counts"]
    assert (counts["cache_hits"], counts["generated"], counts["failed"]) == (2, 4, 5)
    # Yesterday's answer about the one that was missing does not say which image it was about.
    asked_now = [shown(request).getpixel((3, 3)) for request in asked.requests[before + 1 :]]
    assert sorted(min(color) > 200 for color in asked_now) == [False, True]


# -- vLLM ---------------------------------------------------------------------------------


def test_a_vision_language_model_in_vllm(
    tmp_path: Path, ray_session: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Random weights: that it is shown each image is what is proven, not what it says."""
    without_ray(monkeypatch)
    root = tmp_path / "root"
    write_shop(root)
    write_seeing_model(tmp_path / "model")
    parsed, storage = (
        config(
            tmp_path,
            folder=str(tmp_path / "model"),
            context_len=2560,
            task={"max_new_tokens": 1200},
        ),
        Storage(str(root)),
    )
    write_ingest(Context(storage, parsed, NIGHT), histories(u1="abc", u2="bca"))
    done = pipeline.run(parsed, storage, NIGHT, until="text")

    track = f"runs/{NIGHT}/text/caption_items"
    counts = done["text/caption_items/rows"]["counts"]
    assert adds_up(counts) and (counts["units"], counts["failed"]) == (9, 6)
    assert {name: n for name, n in counts.items() if name.startswith("failed.")} == FAILURES
    assert not counts.get("rejected.unparsable") and not counts.get("rejected.too_long")
    units = {row["unit_id"]: row for row in read_rows(storage, f"{track}/plan")}
    answered = [r for r in read_rows(storage, f"{track}/outcomes") if r["status"] == "generated"]
    assert len(answered) == 3
    image = byte_tokenizer(CHATML_OF_PARTS, IMAGE_CONTROLS).convert_tokens_to_ids("<image>")
    for row in answered:
        unit = units[row["unit_id"]]
        assert unit["prompt"].count(image) == 1 and unit["image"]["digest"]
        # The mark in the question has become what stands for an image: tokens of it around one.
        assert row["num_prompt_tokens"] == len(unit["prompt"]) + len("<global-img>") + 2
        assert 20 <= len(task().parse(row["text"])["description"]) <= 240
    assert not any(b"PNG" in str(row).encode() for row in units.values())  # no bytes in the plan


# -- pieces -------------------------------------------------------------------------------


def task(**fields: Any) -> Task:
    return task_of(TextConfig(), CaptionItemsConfig(**fields))


@pytest.mark.parametrize("language", ["en", "zh"])
def test_the_question_is_this(language: str) -> None:
    """A change of a template asks all questions anew: it shows here."""
    rows = [{"item_id": "a", "title": {"en": "Desk lamp", "zh": "台灯"}[language], "price": 20.0,
             "tags": ["home"], "image_uri": "a.jpg", "origin": REAL}]  # fmt: skip
    own = task(language=language)
    [row] = own.rows(pa.Table.from_pylist(rows, schema=ITEM))
    text = Asking(Storage("unused"), ChatModel("m@1"), own, 1024).question(row).text
    assert text + "\n" == (GOLDEN / f"caption_items.{language}.txt").read_text(encoding="utf-8")
    assert "a.jpg" not in text


def test_items_with_an_image_are_asked_about_whatever_else_they_have() -> None:
    rows = [
        {"item_id": "b", "image_uri": " b.jpg ", "origin": REAL},
        {"item_id": "a", "title": "A", "description": "x" * 200, "image_uri": "a.jpg",
         "origin": REAL},
        {"item_id": "c", "title": "C", "image_uri": "  ", "origin": REAL},
        {"item_id": "d", "title": "D", "origin": REAL},
    ]  # fmt: skip
    found = shown_items(pa.Table.from_pylist(rows, schema=ITEM))
    assert [(row.item_id, row.image) for row in found] == [("a", "a.jpg"), ("b", "b.jpg")]
    made = captioned(found[0], GOOD)
    assert made["description"] == f"{'x' * 200} {GOOD['description']}"
    assert (made["title"], made["image_uri"]) == ("A", "a.jpg")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ({"image_root": None}, r"caption_items reads images below text.image_root alone"),
        ({"image_root": "https://shop.example/images"}, r"a folder or s3://bucket/prefix is read"),
        ({"task": {"max_image_mib": 0}}, r"max_image_mib"),
    ],
)
def test_mistakes_are_told_before_anything_runs(
    text: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=message):
        config(tmp_path, folder="chat", **text)


def test_a_template_has_a_place_for_the_image() -> None:
    """And a model that is shown images can be asked without one."""
    behind = "<|im_end|>\n<|im_start|>assistant\n"
    frames = image_frames(byte_tokenizer(CHATML_OF_PARTS, IMAGE_CONTROLS), "text.folder x")
    assert frames == (("<|im_start|>user\n<image>", behind), ("<|im_start|>user\n", behind))
    blind = byte_tokenizer(CHATML_OF_PARTS.replace("<image>", ""))
    with pytest.raises(UserError, match="text.folder x: the chat template has no place for an im"):
        image_frames(blind, "text.folder x")


class SlowEngine:
    """One that answers the first of its units at each step."""

    alive = True

    def __init__(self) -> None:
        self.queue: list[int] = []
        self.most = 0

    @property
    def num_unfinished(self) -> int:
        return len(self.queue)

    def add(self, units: Units, numbers: np.ndarray, first_key: int) -> list[tuple[int, str]]:
        raise AssertionError("units come with their images")

    def add_one(self, key: int, units: Units, number: int, image: Any = None) -> str:
        if number == 7:
            return "too long"
        assert image.getpixel((0, 0)) == (number, 0, 0)  # its own
        self.queue.append(key)
        self.most = max(self.most, len(self.queue))
        return ""

    def step(self) -> Finished:
        time.sleep(0.001)
        keys = np.array([self.queue.pop(0)], np.int64)
        return Finished(keys, pa.array([[1]], pa.list_(pa.int32())), np.zeros(1, np.int32))

    def abort(self) -> None:
        self.queue = []


def test_images_are_read_no_faster_than_they_are_shown(tmp_path: Path) -> None:
    size, most = 60, 4
    for number in range(size):
        name = tmp_path / f"{number}.png"
        if number != 9:
            Image.new("RGB", (4, 4), (number, 0, 0)).save(name)
    sampling = {"temperature": 1.0, "top_p": 1.0, "top_k": -1, "max_tokens": 8,
                "forbid_repeats": False}  # fmt: skip
    rows = [
        {"unit_id": str(n), "strategy": "s", "sample": 0, "prompt": [1], "sampling": sampling,
         "seed": n, "image": {"uri": f"{n}.png", "digest": None}}
        for n in range(size)
    ]  # fmt: skip
    slow = SlowEngine()
    rules = ImageRules(max_bytes=10_000, max_pixels=100, side=16)
    engine = ImageEngine(slow, Images(Storage(str(tmp_path)), rules), most)
    units = Units(pa.Table.from_pylist(rows, schema=UNIT))
    assert engine.add(units, np.arange(size), 100) == [] and engine.num_unfinished == size
    pieces = []
    while engine.num_unfinished:
        if (done := engine.step()) is not None:
            pieces.append(done)
    done = together(pieces)
    failed = {key: reason for key, reason, _ in done.failed}
    assert failed == {107: "refused_by_engine", 109: "image_missing"}
    assert sorted([*done.keys.tolist(), *failed]) == list(range(100, 100 + size))
    assert slow.most <= most + _READERS
    engine.add(units, np.arange(size), 1000)
    engine.abort()
    assert engine.num_unfinished == 0 and engine.alive
