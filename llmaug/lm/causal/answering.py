"""A causal model is served by vLLM; `item_logits` sees to it that only items come out."""

from __future__ import annotations

from llmaug.core.storage import Storage
from llmaug.items.vocabulary import Vocabulary
from llmaug.lm import InVllm
from llmaug.lm.generator import Generator
from llmaug.lm.language import load_language


def served(storage: Storage, generator: Generator, vocabulary: Vocabulary) -> InVllm:
    """Reads no weights. Raises UserError as `load_language` does."""
    language = load_language(storage, generator.folder, vocabulary)
    return InVllm(generator.folder, generator.model_digest, language.num_tokens)
