"""A chat model that a user brings: copied below the root once for all nights, and its tokenizer."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

from llmaug.core.hf_folder import adopt_folder
from llmaug.core.storage import Storage
from llmaug.errors import UserError
from llmaug.lm.folder import CONFIG


def adopt_model(
    storage: Storage,
    uri: str,
    setting: str = "lm.folder",
    note: Callable[[str], None] = lambda _: None,
) -> tuple[str, str]:
    """Copy the Hugging Face folder at `uri` below the root once; returns its folder there and
    its digest. Raises UserError when it is no chat model."""
    needed = (CONFIG, "tokenizer_config.json", "tokenizer.json")
    return adopt_folder(storage, uri, setting, "a chat model", needed, note)


@lru_cache(maxsize=1)
def load_tokenizer(storage: Storage, folder: str, version: str) -> Any:
    """Of a model that was taken in; kept by each worker."""
    from transformers import AutoTokenizer

    local = storage.fetch_folder(folder, version)
    try:
        return AutoTokenizer.from_pretrained(local, trust_remote_code=False)
    except Exception as error:
        raise UserError(f"{storage.uri(folder)} has no tokenizer: {error}") from error
