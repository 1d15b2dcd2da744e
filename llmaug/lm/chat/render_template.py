"""A process of its own that renders a chat template: a template is a program of a stranger's.

It reads {template, special_tokens, messages} from stdin and prints {rendered} or {error}. Run by
its path, so that nothing of llmaug's is on its way; its time and memory are limited.
"""

from __future__ import annotations

import json
import resource
import sys
from pathlib import Path
from typing import Any

_CPU_SECONDS = 3
_MAX_BYTES = 1 << 30
_MAX_LEN = 100_000


def main() -> None:
    asked = json.load(sys.stdin)
    from transformers.utils.chat_template_utils import render_jinja_template

    _limit()
    rendered = []
    try:
        for message in asked["messages"]:
            out: Any = render_jinja_template(
                [[{"role": "user", "content": message}]], chat_template=asked["template"],
                add_generation_prompt=True, **asked["special_tokens"],
            )  # fmt: skip
            text = out[0][0]  # of the only conversation
            if len(text) > _MAX_LEN:
                raise ValueError(f"more than {_MAX_LEN} characters of one message")
            rendered.append(text)
    except (Exception, RecursionError) as error:
        json.dump({"error": f"{type(error).__name__}: {error}"[:300]}, sys.stdout)
        return
    json.dump({"rendered": rendered}, sys.stdout)


def _limit() -> None:
    """What is used already comes on top: the imports take seconds on a busy machine."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    seconds = int(used.ru_utime + used.ru_stime) + _CPU_SECONDS
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    size = pages * resource.getpagesize() + _MAX_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (size, size))


if __name__ == "__main__":
    main()
