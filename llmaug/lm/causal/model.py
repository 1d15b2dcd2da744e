"""A GPT-style behaviour model: a small Llama over item tokens.

While it trains, an item's embedding is `id row + sum of its tag vectors + projected text
vector` (genre, year, brand, title, ...): it knows what a recommender on ids does not, and that
is where augmentation gains. At export the sum is folded into one plain embedding table with a
tied head, so transformers and vLLM load an ordinary Llama. What it reads besides items is in
`language`.

Shapes: B sequences, T positions, D width, V tokens.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import LlamaConfig, LlamaForCausalLM

from llmaug.config import CausalConfig
from llmaug.core.storage import Storage
from llmaug.items.arrays import padded_prompts
from llmaug.items.lives import lives_of, write_lives
from llmaug.items.semantic_ids import write_ids
from llmaug.items.vocabulary import BOS, EOS, NUM_SPECIAL, PAD, Vocabulary
from llmaug.lm.features import averaged, lm_features, new_items
from llmaug.lm.folder import write_model
from llmaug.lm.language import Language
from llmaug.training.losses import softmax


class CausalLm(nn.Module):
    """Llama with feature-aware item embeddings."""

    _new: Tensor | None

    def __init__(
        self,
        config: CausalConfig,
        vocabulary: Vocabulary,
        min_tag_items: int,
        language: Language | None = None,
    ) -> None:
        """language: None for items alone, read forward."""
        super().__init__()
        self.context_len = config.context_len
        self.language = language or Language(vocabulary.num_tokens)
        num_tokens = self.language.num_tokens
        self.llama = LlamaForCausalLM(llama_config(config, num_tokens))
        self.features, new = None, None
        if self.language.items is None:  # else what is known of an item is in its path
            self.features = lm_features(config, vocabulary, min_tag_items, num_tokens)
            new = new_items(config, vocabulary, min_tag_items)
        self.register_buffer("_new", new, persistent=False)
        self.dropout = nn.Dropout(config.dropout)

    def table(self) -> Tensor:
        """(V, D) embeddings of all tokens, features included."""
        rows = averaged(self.llama.model.embed_tokens.weight, self._new, self.language.num_words)
        return rows if self.features is None else rows + self.features()

    def forward(self, tokens: Tensor, weights: Tensor, positions: Tensor | None = None) -> Tensor:
        """Weighted mean cross-entropy; tokens and weights (B, T + 1), scalar out.

        positions: (B, T + 1) of packed rows: where they start anew, another document does.
        """
        table = self.table()
        places = None if positions is None else positions[:, :-1]
        hidden = self._hidden(tokens[:, :-1], table, places)
        targets, weights = tokens[:, 1:], weights[:, 1:]
        real = weights > 0
        if self._new is None:
            return softmax(hidden[real], table, targets[real], weights[real])
        # Nobody could take the new items yet.
        logits = (hidden[real] @ table.T).index_fill(1, self._new, -torch.inf)
        loss = F.cross_entropy(logits, targets[real], reduction="none")
        return (loss * weights[real]).sum() / weights[real].sum()

    def loss_of_one(self, tokens: Tensor, weights: Tensor) -> Tensor:
        """`forward` of one document, in operations that vmap knows; tokens and weights (T + 1,),
        scalar out: 0 where all weights are."""
        table = self.table()
        places = torch.arange(len(tokens) - 1, device=tokens.device)[None]
        hidden = self._hidden(tokens[None, :-1], table, places)[0]
        losses = F.cross_entropy(hidden @ table.T, tokens[1:], reduction="none")
        return (losses * weights[1:]).sum() / weights[1:].sum().clamp(min=1e-6)

    def score(self, users: list[str], histories: list[list[int]]) -> Tensor:
        """(B, V) logits of the vocabulary after BOS and each history."""
        return self.next_logits(
            [self.language.forward_prompt(history, self.context_len) for history in histories]
        )

    def next_logits(self, prompts: Sequence[list[int]]) -> Tensor:
        """(B, V) logits of the vocabulary (no control tokens) after each prompt."""
        table = self.table()
        tokens, last = (torch.from_numpy(x).to(table.device) for x in padded_prompts(prompts))
        hidden = self._hidden(tokens, table)[torch.arange(len(last), device=table.device), last]
        return hidden @ table[: self.language.num_words].T

    def log_likelihood(self, prompts: Sequence[list[int]], targets: Sequence[list[int]]) -> Tensor:
        """(B,) natural logarithms of the probabilities of the words of each target, one after
        the other, after its prompt."""
        table = self.table()
        rows = [[*prompt, *target] for prompt, target in zip(prompts, targets, strict=True)]
        tokens = torch.from_numpy(padded_prompts(rows)[0]).to(table.device)
        logits = self._hidden(tokens[:, :-1], table) @ table.T
        own = logits.log_softmax(-1).gather(2, tokens[:, 1:, None])[..., 0]
        place = torch.arange(1, tokens.shape[1], device=tokens.device)
        first = torch.tensor([len(prompt) for prompt in prompts], device=tokens.device)[:, None]
        last = torch.tensor([len(row) for row in rows], device=tokens.device)[:, None]
        return (own * ((place >= first) & (place < last))).sum(1)

    def folded(self) -> LlamaForCausalLM:
        """A plain Llama with the features inside its embedding table."""
        plain = LlamaForCausalLM(self.llama.config)
        plain.load_state_dict(self.llama.state_dict())
        with torch.no_grad():
            plain.model.embed_tokens.weight.copy_(self.table())
        plain.tie_weights()
        return plain.eval()

    def _hidden(self, tokens: Tensor, table: Tensor, positions: Tensor | None = None) -> Tensor:
        embedded = self.dropout(F.embedding(tokens, table))
        # Padding stands right of every real position, so the causal mask is enough; packed
        # documents are kept apart by transformers, which sees that positions start anew.
        out = self.llama.model(inputs_embeds=embedded, position_ids=positions, use_cache=False)
        return self.dropout(out.last_hidden_state)


def llama_config(config: CausalConfig, num_tokens: int) -> LlamaConfig:
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


def save(
    storage: Storage, folder: str, model: CausalLm, vocabulary: Vocabulary, facts: dict[str, Any]
) -> str:
    """Write the folded model as an ordinary Hugging Face folder; returns its digest."""
    with tempfile.TemporaryDirectory() as local:
        if model.language.items:
            write_ids(Storage(local), model.language.items)
        if lives := lives_of(vocabulary.items, NUM_SPECIAL, num_actions=1):
            write_lives(Storage(local), lives)
        notes = {"language": model.language.as_json(), **facts}
        return write_model(storage, folder, local, model.folded(), "causal", vocabulary, notes)
