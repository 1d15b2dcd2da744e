"""A chat model is served by vLLM, and can say nothing but the letters that were offered."""

from __future__ import annotations

from llmaug.core.storage import Storage
from llmaug.items.vocabulary import Vocabulary
from llmaug.lm import InVllm
from llmaug.lm.folder import CONFIG, read_notes
from llmaug.lm.generator import Generator


def served(storage: Storage, generator: Generator, vocabulary: Vocabulary) -> InVllm:
    assert generator.side is not None
    notes = read_notes(storage, generator.side, "instruct")
    num_tokens = storage.read_json(generator.folder, CONFIG)["vocab_size"]
    return InVllm(generator.folder, notes["model_digest"], num_tokens, notes["letters"])
