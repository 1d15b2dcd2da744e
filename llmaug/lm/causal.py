"""A GPT-style behaviour model: a small Llama over item tokens.

While it trains, an item's embedding is `id row + sum of its tag vectors` (genre, year,
brand, ...): it knows what a recommender on ids does not, and that is where augmentation
gains. At export the sum is folded into one plain embedding table with a tied head, so
transformers and vLLM load an ordinary Llama.

Shapes: B sequences, T positions, D width, V tokens.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import LlamaConfig, LlamaForCausalLM

from llmaug.config import LmConfig
from llmaug.errors import UserError
from llmaug.item_tags import tag_vectors
from llmaug.storage import Storage
from llmaug.vocabulary import BOS, EOS, PAD, Vocabulary


class CausalLm(nn.Module):
    """Llama with feature-aware item embeddings."""

    def __init__(self, config: LmConfig, vocabulary: Vocabulary, min_tag_items: int) -> None:
        super().__init__()
        self.context_len = config.context_len
        self.llama = LlamaForCausalLM(llama_config(config, vocabulary.num_tokens))
        self.tags = (
            tag_vectors(vocabulary, min_tag_items, config.hidden_size)
            if config.item_features
            else None
        )
        self.dropout = nn.Dropout(config.dropout)

    def table(self) -> Tensor:
        """(V, D) embeddings of all tokens, features included."""
        rows = self.llama.model.embed_tokens.weight
        return rows if self.tags is None else rows + self.tags()

    def forward(self, tokens: Tensor, weights: Tensor) -> Tensor:
        """Weighted mean cross-entropy; tokens (B, T + 1), weights (B, T + 1), scalar out."""
        table = self.table()
        hidden = self._hidden(tokens[:, :-1], table)
        weights = weights[:, 1:]
        real = weights > 0
        loss = F.cross_entropy(hidden[real] @ table.T, tokens[:, 1:][real], reduction="none")
        return (loss * weights[real]).sum() / weights[real].sum()

    def score(self, users: list[str], histories: list[list[int]]) -> Tensor:
        """(B, V) logits of the next token after BOS and each history."""
        inputs = [prompt_of(history, self.context_len) for history in histories]
        length = torch.tensor([len(row) for row in inputs])
        tokens = torch.full((len(inputs), int(length.max())), PAD)
        for row, values in enumerate(inputs):
            tokens[row, : len(values)] = torch.tensor(values)
        table = self.table()
        device = table.device
        hidden = self._hidden(tokens.to(device), table)
        last = hidden[torch.arange(len(inputs), device=device), (length - 1).to(device)]
        return last @ table.T

    def folded(self) -> LlamaForCausalLM:
        """A plain Llama with the features inside its embedding table."""
        plain = LlamaForCausalLM(self.llama.config)
        plain.load_state_dict(self.llama.state_dict())
        with torch.no_grad():
            plain.model.embed_tokens.weight.copy_(self.table())
        plain.tie_weights()
        return plain.eval()

    def _hidden(self, tokens: Tensor, table: Tensor) -> Tensor:
        embedded = self.dropout(F.embedding(tokens, table))
        # Padding stands right of every real position, so the causal mask is enough.
        out = self.llama.model(inputs_embeds=embedded, use_cache=False)
        return self.dropout(out.last_hidden_state)


def llama_config(config: LmConfig, num_tokens: int) -> LlamaConfig:
    return LlamaConfig(
        vocab_size=num_tokens,
        hidden_size=config.hidden_size,
        intermediate_size=2 * config.hidden_size,
        num_hidden_layers=config.num_layers,
        num_attention_heads=config.num_heads,
        num_key_value_heads=config.num_heads,
        max_position_embeddings=config.context_len,
        tie_word_embeddings=True,
        pad_token_id=PAD,
        bos_token_id=BOS,
        eos_token_id=EOS,
    )


def prompt_of(history: list[int], max_len: int) -> list[int]:
    """BOS and the history; where that is too long, its last `max_len` events without BOS."""
    return [BOS, *history][-max_len:]


def save(
    storage: Storage, folder: str, model: CausalLm, vocabulary: Vocabulary, facts: dict[str, Any]
) -> str:
    """Write the folded model as an ordinary Hugging Face folder; returns its digest."""
    with tempfile.TemporaryDirectory() as local:
        model.folded().save_pretrained(local)
        notes = {"vocabulary_digest": vocabulary.digest, **facts}
        Path(local, "llmaug.json").write_text(json.dumps(notes, indent=1), encoding="utf-8")
        return storage.put_folder(local, folder)


def check_vocabulary(storage: Storage, folder: str, vocabulary: Vocabulary) -> None:
    """Raises UserError when the model in `folder` speaks another vocabulary."""
    notes = storage.read_json(folder, "llmaug.json")
    if notes is None:
        raise UserError(f"{storage.uri(folder)}: not a behaviour model (no llmaug.json)")
    if notes["vocabulary_digest"] != vocabulary.digest:
        raise UserError(
            f"{storage.uri(folder)}: this model was trained on another vocabulary; "
            "train it again on this run's logs"
        )
