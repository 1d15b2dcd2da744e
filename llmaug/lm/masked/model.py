"""A BERT-style behaviour model: it fills gaps, seeing what comes before and after.

It is trained by hiding events of real histories (`masking`) and at work in `completion`.
Item features are folded in at export as in `causal`, so a model folder is an ordinary
`BertForMaskedLM`.

Shapes: B histories, T positions, D width, V tokens (the vocabulary, then MASK).
"""

from __future__ import annotations

import tempfile
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import BertConfig, BertForMaskedLM

from llmaug.config import MaskedConfig
from llmaug.core.storage import Storage
from llmaug.items.arrays import padded_prompts
from llmaug.items.vocabulary import BOS, EOS, PAD, Vocabulary
from llmaug.lm.features import averaged, lm_features, new_items
from llmaug.lm.folder import write_model
from llmaug.lm.masked.masking import masked_prompt


class MaskedLm(nn.Module):
    """BERT with feature-aware item embeddings, for training."""

    _new: Tensor | None

    def __init__(self, config: MaskedConfig, vocabulary: Vocabulary, min_tag_items: int) -> None:
        super().__init__()
        self.context_len, self.num_passes = config.context_len, config.num_passes
        self.mask = vocabulary.num_tokens
        num_tokens = vocabulary.num_tokens + 1
        self.bert = BertForMaskedLM(bert_config(config, num_tokens))
        self.features = lm_features(config, vocabulary, min_tag_items, num_tokens)
        new = new_items(config, vocabulary, min_tag_items)
        self.register_buffer("_new", new, persistent=False)

    def table(self) -> Tensor:
        """(V, D) embeddings of all tokens, features included."""
        rows = averaged(self.bert.bert.embeddings.word_embeddings.weight, self._new, self.mask)
        return rows if self.features is None else rows + self.features()

    def bias(self) -> Tensor:
        """(V,) of the output."""
        return averaged(self.bert.cls.predictions.bias, self._new, self.mask)

    def forward(self, tokens: Tensor, weights: Tensor, whole: Tensor) -> Tensor:
        """Weighted mean cross-entropy of the hidden events; all (B, T), scalar out."""
        table = self.table()
        hidden = weights > 0
        logits = self._states(tokens, table)[hidden] @ table.T + self.bias()
        if self._new is not None:  # nobody could take them yet
            logits = logits.index_fill(1, self._new, -torch.inf)
        loss = F.cross_entropy(logits, whole[hidden], reduction="none")
        return (loss * weights[hidden]).sum() / weights[hidden].sum()

    def score(self, users: list[str], histories: list[list[int]]) -> Tensor:
        """(B, V - 1) logits of the vocabulary in the place after each history."""
        prompts = [
            masked_prompt([*h, PAD], [len(h)], self.mask, self.context_len) for h in histories
        ]
        table = self.table()
        tokens, last = (torch.from_numpy(x).to(table.device) for x in padded_prompts(prompts))
        states = self._states(tokens, table)[torch.arange(len(last), device=table.device), last]
        return (states @ table.T + self.bias())[:, : self.mask]

    def folded(self) -> BertForMaskedLM:
        """A plain BERT with the features inside its embedding table."""
        plain = BertForMaskedLM(self.bert.config)
        plain.load_state_dict(self.bert.state_dict())
        with torch.no_grad():
            plain.bert.embeddings.word_embeddings.weight.copy_(self.table())
            plain.cls.predictions.bias.copy_(self.bias())
        plain.tie_weights()
        return plain.eval()

    def _states(self, tokens: Tensor, table: Tensor) -> Tensor:
        """(B, T, D) as the output layer sees them."""
        out = self.bert.bert(
            inputs_embeds=F.embedding(tokens, table), attention_mask=(tokens != PAD).long()
        )
        return self.bert.cls.predictions.transform(out.last_hidden_state)


def bert_config(config: MaskedConfig, num_tokens: int) -> BertConfig:
    return BertConfig(
        vocab_size=num_tokens,
        hidden_size=config.hidden_size,
        intermediate_size=2 * config.hidden_size,
        num_hidden_layers=config.num_layers,
        num_attention_heads=config.num_heads,
        max_position_embeddings=config.context_len,
        hidden_dropout_prob=config.dropout,
        attention_probs_dropout_prob=config.dropout,
        type_vocab_size=1,
        tie_word_embeddings=True,
        pad_token_id=PAD,
        bos_token_id=BOS,
        eos_token_id=EOS,
    )


def save(
    storage: Storage, folder: str, model: MaskedLm, vocabulary: Vocabulary, facts: dict[str, Any]
) -> str:
    """Write the folded model as an ordinary Hugging Face folder; returns its digest."""
    notes = {"num_passes": model.num_passes, **facts}
    with tempfile.TemporaryDirectory() as local:
        return write_model(storage, folder, local, model.folded(), "masked", vocabulary, notes)
