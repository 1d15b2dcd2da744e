"""Item texts as vectors: title, tags and description through a sentence encoder, or an LLM as one.

The encoder (`vocabulary.text_encoder`) is all-MiniLM-L6-v2 (`minilm`, from the package that
set-up installs) or any Hugging Face folder that `AutoModel` loads: the last hidden states,
averaged over the tokens, brought to length 1. Encoded in Ray Data, a part of the catalogue at a
time, into `vocabulary/text`; models learn a projection of the vectors (`item_features`). Nothing
but the catalogue is read, so nothing held out can come in.

Shapes: I items, B texts, T tokens, D width of the encoder.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from llmaug.core.gpus import uses_gpus
from llmaug.core.hf_folder import adopt_folder
from llmaug.core.model_files import fetch_model
from llmaug.core.placing import Ask
from llmaug.core.stage import Context, map_parts
from llmaug.core.storage import Storage, digest
from llmaug.core.stored import notes_of_parts
from llmaug.errors import UserError

TEXT = "text"  # folder of the vectors in that of the vocabulary
WORD = "word:"  # prefix of the words of a title among the tags (vocabulary.title_words)
_SETTING = "vocabulary.text_encoder"
_ITEMS_PER_PART = 5000
_BATCH = 64
_MAX_TOKENS = 128  # of a text; what is behind them is cut


def write_vectors(context: Context, items: pa.Table) -> dict[str, Any]:
    """Encode the texts of `items`, which stage `vocabulary` has written; returns its counts.

    Raises UserError when no item has a title, or the folder of the config is no encoder.
    """
    storage, folder = context.storage, context.folder("vocabulary")
    if not any(item_texts(items)):
        raise UserError(
            "no item of the catalogue has a title: give the items table of the config "
            f"(ingest.items) a column title, or leave out {_SETTING}"
        )
    uri = str(context.config.vocabulary.text_encoder)
    model = adopt_folder(
        storage, uri, _SETTING, "a sentence encoder", ("config.json", "tokenizer.json"),
        context.progress.note,
    )  # fmt: skip
    on_gpu = uses_gpus(context.config.ray)
    parts = [f"part-{n:05d}" for n in range(-(-items.num_rows // _ITEMS_PER_PART))]
    counts = map_parts(
        context, f"{folder}/{TEXT}", parts, _PartEncoder, unit="parts of items",
        concurrency=(1, len(parts)), num_gpus=int(on_gpu),
        fn_constructor_kwargs={
            "storage": storage, "folder": folder, "uri": uri, "model": model, "on_gpu": on_gpu
        },
    )  # fmt: skip
    notes = notes_of_parts(storage, f"{folder}/{TEXT}", parts).values()
    context.progress.note(f"{counts['with_text']:,} of {items.num_rows:,} items have a text")
    return {
        "items_with_text": counts["with_text"],
        "text_encoder_digest": model[1],
        "text_digest": digest([note["digest"] for note in notes]),
    }


def encoders(on_gpus: bool) -> tuple[Ask, ...]:
    """What `write_vectors` asks Ray for."""
    return (Ask("text encoder", gpus=int(on_gpus), fields="vocabulary.text_encoder"),)


def read_vectors(storage: Storage, folder: str, item_ids: pa.ChunkedArray) -> np.ndarray | None:
    """(I, D) float32 of the vocabulary in `folder`, zero for items without a text; None where
    there is no encoder. Raises UserError when they are not those of `item_ids`."""
    parts = storage.parts(f"{folder}/{TEXT}")
    if not parts:
        return None
    table = pa.concat_tables(storage.read_part(f"{folder}/{TEXT}", part) for part in parts)
    if not table["item_id"].equals(item_ids):
        raise UserError(f"{storage.uri(folder, TEXT)}: the vectors are not of these items")
    return np.concatenate([_matrix(chunk) for chunk in table["vector"].chunks])


def item_texts(items: pa.Table) -> list[str]:
    """(I,) title, tags (`genre:Drama` as `genre Drama`) and description; empty without a title."""
    columns = (items[name].to_pylist() for name in ("title", "tags", "description"))
    return [
        _text_of(title, tags or (), (description or "").strip()) if title and title.strip() else ""
        for title, tags, description in zip(*columns, strict=True)
    ]


def _text_of(title: str, tags: Sequence[str], description: str) -> str:
    named = ", ".join([title, *(t.replace(":", " ") for t in tags if not t.startswith(WORD))])
    return f"{named}. {description}" if description else named


class Encoder:
    """A model and its tokenizer, loaded once."""

    def __init__(self, folder: str, uri: str, on_gpu: bool) -> None:
        """folder: local. uri: what the user calls it. Raises UserError when transformers
        cannot load it as an encoder."""
        import torch
        from transformers import AutoModel, AutoTokenizer

        try:
            self._tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
            self._model, found = AutoModel.from_pretrained(
                folder, trust_remote_code=False, use_safetensors=True, output_loading_info=True,
                dtype="auto" if on_gpu else torch.float32,
            )  # fmt: skip
        except Exception as error:
            raise UserError(f"{_SETTING} {uri}: no encoder: {error}") from error
        # transformers draws at random what the file lacks, and only warns. Poolers are not used.
        missing = [name for name in found["missing_keys"] if "pooler" not in name]
        if missing:
            raise UserError(
                f"{_SETTING} {uri}: no encoder: the weights lack {missing[0]} "
                f"and {len(missing) - 1} others"
            )
        config = self._model.config
        if getattr(config, "is_encoder_decoder", False):
            raise UserError(
                f"{_SETTING} {uri}: {config.model_type} is an encoder and a decoder; take a "
                "model of one of them, such as a BERT or a Llama"
            )
        self._device = "cuda" if on_gpu else "cpu"
        self._model.to(self._device).eval()
        self._max_tokens = min(
            _MAX_TOKENS, getattr(config, "max_position_embeddings", None) or _MAX_TOKENS
        )

    @property
    def width(self) -> int:
        return int(self._model.config.hidden_size)

    def encode(self, texts: list[str]) -> np.ndarray:
        """(B, D) float32 of length 1; zero for empty texts."""
        tokens = self._tokenizer(texts, truncation=True, max_length=self._max_tokens)["input_ids"]
        rows = [n for n, text in enumerate(texts) if text and tokens[n]]
        rows.sort(key=lambda n: len(tokens[n]))  # of one length: little padding
        out = np.zeros((len(texts), self.width), np.float32)
        for start in range(0, len(rows), _BATCH):
            batch = rows[start : start + _BATCH]
            out[batch] = self._forward([tokens[n] for n in batch])
        return out

    def _forward(self, prompts: list[list[int]]) -> np.ndarray:
        import torch
        from torch.nn import functional as F

        from llmaug.items.arrays import padded_prompts

        tokens, last = (torch.from_numpy(x).to(self._device) for x in padded_prompts(prompts))
        mask = torch.arange(tokens.shape[1], device=self._device) <= last[:, None]  # (B, T)
        with torch.inference_mode():
            out = self._model(input_ids=tokens, attention_mask=mask.long())
            states = out.last_hidden_state.float() * mask[..., None]
            return F.normalize(states.sum(1) / mask.sum(1, keepdim=True)).cpu().numpy()


class _PartEncoder:
    """The Ray Data actor: a part of the catalogue in, its vectors out."""

    def __init__(
        self, storage: Storage, folder: str, uri: str, model: tuple[str, str], on_gpu: bool
    ) -> None:
        import torch

        torch.set_num_threads(1)
        self._storage, self._folder = storage, folder
        self._items = storage.read_table(folder, "items.parquet")
        self._encoder = Encoder(fetch_model(storage, *model), uri, on_gpu)

    def __call__(self, part: str) -> dict[str, int]:
        start = int(part.removeprefix("part-")) * _ITEMS_PER_PART
        items = self._items.slice(start, _ITEMS_PER_PART)
        texts = item_texts(items)
        vectors = self._encoder.encode(texts)
        column = pa.FixedSizeListArray.from_arrays(vectors.ravel(), self._encoder.width)
        table = pa.table({"item_id": items["item_id"], "vector": column})
        counts = {"with_text": sum(map(bool, texts))}
        self._storage.write_part(table, counts, f"{self._folder}/{TEXT}", part)
        return counts


def _matrix(vectors: pa.FixedSizeListArray) -> np.ndarray:
    return vectors.flatten().to_numpy().reshape(len(vectors), -1)
