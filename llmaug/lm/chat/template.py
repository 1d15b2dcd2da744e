"""What a chat model's template puts around a message, found out once and away from the job.

A template is a program in the model's folder, and one with an endless loop would hold every
worker. It is rendered in a process with limits, around two messages; what stands before and
behind them is a plain text from then on. So a date in it is that of the night the model was
taken in, and questions stay the same from night to night.
"""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

from llmaug.errors import UserError
from llmaug.lm.chat import render_template

_SECONDS = 60  # of the clock, the start of the process included
_MESSAGES = ("Which?\n- one\n- two\nA. three (4)", "词 " * 500 + "Answer with one letter.")


def chat_frame(tokenizer: Any, where: str) -> tuple[str, str]:
    """(before, behind) of a message of a user whom the model is to answer.

    Raises UserError for a folder without a template, and for one whose template fails, does not
    end, or does more than to put something around the message.
    """
    return _frame(_rendered(tokenizer, list(_MESSAGES), where), where)


def image_frames(tokenizer: Any, where: str) -> tuple[tuple[str, str], tuple[str, str]]:
    """The same of a message with an image in front, the mark of which is in what stands before;
    and of one without, both given to the template in parts.

    Raises UserError as `chat_frame` does, and where the template has no place for an image.
    """
    parts: list[list[dict[str, str]]] = [[{"type": "text", "text": each}] for each in _MESSAGES]
    shown = [[{"type": "image"}, *own] for own in parts]
    texts = _rendered(tokenizer, [*shown, *parts], where)
    with_image, without = _frame(texts[: len(shown)], where), _frame(texts[len(shown) :], where)
    if with_image == without:
        raise UserError(
            f"{where}: the chat template has no place for an image: take a vision-language model"
        )
    return with_image, without


def _frame(texts: list[str], where: str) -> tuple[str, str]:
    """What is around the messages in what came of them."""
    frames = set()
    for message, text in zip(_MESSAGES, texts, strict=True):
        before, found, behind = text.partition(message)
        if not found or message in behind:
            raise UserError(f"{where}: the chat template does not repeat a message as it is")
        frames.add((before, behind))
    if len(frames) > 1:
        raise UserError(f"{where}: what the chat template adds depends on the message")
    return frames.pop()


def _rendered(tokenizer: Any, messages: list[Any], where: str) -> list[str]:
    """messages: contents, as texts or as parts."""
    if not tokenizer.chat_template:
        raise UserError(f"{where} has no chat template: no chat model")
    asked = {
        "template": tokenizer.get_chat_template(),
        "special_tokens": tokenizer.special_tokens_map,
        "messages": messages,
    }
    try:
        done = subprocess.run(
            [sys.executable, "-P", render_template.__file__],
            input=json.dumps(asked, default=str), capture_output=True, text=True, timeout=_SECONDS,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        ended = True
    else:
        ended = done.returncode < 0  # by a signal: a limit
    if ended:
        raise UserError(
            f"{where}: the chat template takes too much time or memory for one message; take "
            "another model, or repair chat_template.jinja or tokenizer_config.json"
        )
    if done.returncode:
        raise RuntimeError(f"{where}: rendering the chat template failed: {done.stderr[-2000:]}")
    answer = json.loads(done.stdout)
    if "error" in answer:
        raise UserError(f"{where}: the chat template fails: {answer['error']}")
    return list(answer["rendered"])
