"""A chat template is a stranger's program: what it adds is found out, and it cannot hold a job."""

from __future__ import annotations

import time
from typing import Any

import pytest

from llmaug.errors import UserError
from llmaug.lm.chat.template import chat_frame

_IM = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content | trim }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


class Tokenizer:
    """What is asked of one."""

    def __init__(self, template: str | None) -> None:
        self.chat_template = template
        self.special_tokens_map = {"bos_token": "<s>", "eos_token": "</s>"}

    def get_chat_template(self) -> Any:
        return self.chat_template


def refusal(template: str | None) -> str:
    with pytest.raises(UserError, match="^lm.folder x") as caught:
        chat_frame(Tokenizer(template), "lm.folder x")
    return caught.value.message


@pytest.mark.parametrize(
    ("template", "frame"),
    [
        (_IM, ("<|im_start|>user\n", "<|im_end|>\n<|im_start|>assistant\n")),
        ("{{ bos_token }}[INST] {{ messages[0]['content'] }} [/INST]", ("<s>[INST] ", " [/INST]")),
    ],
)
def test_the_frame_of_a_message_is_what_the_template_puts_around_it(
    template: str, frame: tuple[str, str]
) -> None:
    assert chat_frame(Tokenizer(template), "lm.folder x") == frame


@pytest.mark.parametrize(
    "template",
    [
        "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
        "{{ 'a' * 10000000000 }}",
        "{{ messages[0].content * 1000 }}",
    ],
    ids=["endless", "large", "long"],
)
def test_a_template_without_an_end_is_an_error_within_seconds(template: str) -> None:
    begun = time.monotonic()
    message = refusal(template)
    assert "too much time or memory" in message or "fails: " in message
    assert time.monotonic() - begun < 40  # 3 s of CPU, on a machine that is shared


@pytest.mark.parametrize(
    ("template", "told"),
    [
        (None, "has no chat template"),
        ("{{ messages[0].content | upper }}", "does not repeat a message as it is"),
        ("{{ messages[0].content | length }}: {{ messages[0].content }}", "depends on the message"),
        ("{% if %}", "the chat template fails: TemplateSyntaxError"),
        ("{{ raise_exception('no system prompt') }}", "fails: TemplateError: no system prompt"),
        ("{{ ''.__class__.__mro__ }}{{ messages[0].content }}", "fails: SecurityError"),
    ],
)
def test_a_template_that_cannot_be_used_says_why(template: str | None, told: str) -> None:
    assert told in refusal(template)
