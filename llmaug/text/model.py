"""Stage `text/model`: the chat model of the text tasks is taken in once, and who is asked."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from llmaug.config import TextConfig
from llmaug.core.stage import Context, Stage
from llmaug.core.storage import digest
from llmaug.lm.chat.template import chat_frame
from llmaug.lm.chat.tokenizer import adopt_model, load_tokenizer
from llmaug.lm.folder import CONFIG

NAME = "text/model"


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
    frame = chat_frame(load_tokenizer(storage, folder, found), f"text.folder {text.folder}")
    return {
        "model_folder": folder,
        "model_digest": found,
        "frame": frame,
        "num_tokens": storage.read_json(folder, CONFIG)["vocab_size"],
    }


def chat_model(context: Context) -> ChatModel:
    """The one of the run; its stage must have happened."""
    text = context.config.text
    if text.engine == "openai":
        assert text.endpoint is not None
        asked = [text.endpoint.base_url, text.endpoint.model]
        return ChatModel(f"{text.endpoint.model}@{digest(asked)[:16]}")
    known = context.manifest(NAME)["counts"]
    name = f"chat@{digest([known['model_digest'], known['frame']])[:16]}"
    before, behind = known["frame"]
    return ChatModel(
        name, known["model_folder"], known["model_digest"], (before, behind), known["num_tokens"]
    )


def model_stages(text: TextConfig) -> list[Stage]:
    """None where an endpoint is asked."""
    return [STAGE] if text.engine == "vllm" else []


STAGE = Stage(
    name=NAME,
    run=run,
    settings=lambda config: config.text.folder,
    roots=lambda config: ("llmaug.lm.chat.template", "llmaug.lm.chat.tokenizer",
                          "llmaug.lm.chat.render_template"),
)  # fmt: skip
