"""Stage `text/model`: the chat model of the text tasks is taken in once, and who is asked."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from llmaug.config import TextConfig
from llmaug.core.stage import Context, Stage
from llmaug.core.storage import Storage, digest
from llmaug.errors import UserError
from llmaug.lm.chat.template import chat_frame, image_frames
from llmaug.lm.chat.tokenizer import adopt_model, load_tokenizer
from llmaug.lm.folder import CONFIG

NAME = "text/model"
_PROCESSORS = ("preprocessor_config.json", "processor_config.json")


@dataclass(frozen=True)
class ChatModel:
    """Who is asked."""

    name: str
    """`model @ digest`: of the outcomes cache, and part of every unit's id."""
    folder: str = ""
    """Of the model; empty where an endpoint is asked."""
    digest: str = ""
    frame: tuple[str, str] = ("", "")
    """What stands before and behind a question, by the model's chat template."""
    num_tokens: int = 0


def run(context: Context) -> dict[str, Any]:
    storage, text = context.storage, context.config.text
    assert text.folder is not None
    folder, found = adopt_model(storage, text.folder, "text.folder", context.progress.note)
    tokenizer, where = load_tokenizer(storage, folder, found), f"text.folder {text.folder}"
    frames = {}
    if _shows_images(text):
        _check_processor(storage, folder, where)
        frames["image_frame"], frames["frame"] = image_frames(tokenizer, where)
    else:
        frames["frame"] = chat_frame(tokenizer, where)
    return {
        "model_folder": folder,
        "model_digest": found,
        **frames,
        "num_tokens": _num_tokens(storage, folder, found),
    }


def _shows_images(text: TextConfig) -> bool:
    return any(task.shows_images for task in text.tasks)


def _check_processor(storage: Storage, folder: str, where: str) -> None:
    if not any(storage.exists(folder, name) for name in _PROCESSORS):
        raise UserError(
            f"{where}: {' or '.join(_PROCESSORS)} is missing, which say how an image is prepared: "
            "take the whole folder of a vision-language model"
        )


def _num_tokens(storage: Storage, folder: str, version: str) -> int:
    """That of a vision-language model stands with its language model, or goes without saying."""
    if size := storage.read_json(folder, CONFIG).get("vocab_size"):
        return int(size)
    from transformers import AutoConfig

    local = storage.fetch_folder(folder, version)
    config = AutoConfig.from_pretrained(local, trust_remote_code=False)
    return int(config.get_text_config().vocab_size)


def chat_model(context: Context, images: bool = False) -> ChatModel:
    """The one of the run; its stage must have happened. images: one goes with each question."""
    text = context.config.text
    if text.engine == "openai":
        assert text.endpoint is not None
        asked = [text.endpoint.base_url, text.endpoint.model]
        return ChatModel(f"{text.endpoint.model}@{digest(asked)[:16]}")
    known = context.manifest(NAME)["counts"]
    before, behind = known["image_frame" if images else "frame"]
    name = f"chat@{digest([known['model_digest'], [before, behind]])[:16]}"
    return ChatModel(
        name, known["model_folder"], known["model_digest"], (before, behind), known["num_tokens"]
    )


def model_stages(text: TextConfig) -> list[Stage]:
    """None where an endpoint is asked."""
    return [STAGE] if text.engine == "vllm" else []


def _settings(text: TextConfig) -> Any:
    """Questions with images have a frame of their own."""
    return [text.folder, "images"] if _shows_images(text) else text.folder


STAGE = Stage(
    name=NAME,
    run=run,
    settings=lambda config: _settings(config.text),
    roots=lambda config: ("llmaug.lm.chat.template", "llmaug.lm.chat.tokenizer",
                          "llmaug.lm.chat.render_template"),
)  # fmt: skip
