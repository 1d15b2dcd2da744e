"""A chat model is fine-tuned on behaviour before it chooses: `lm.finetune`.

It is asked what strategy `choose` will ask, about events whose answer is known: the history up
to a training event, and that event's item among what others took, too. Loss is on the letter
alone. What comes out is an ordinary Hugging Face folder at `lm/<name>/chat`, adapters merged.

Shapes: B questions, T positions, V tokens of the chat model.
"""

from __future__ import annotations

import itertools
import math
import tempfile
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AutoConfig, AutoModelForCausalLM

from llmaug.config import Config, InstructConfig
from llmaug.core.model_files import fetch_model
from llmaug.core.stage import Context
from llmaug.core.storage import Storage
from llmaug.errors import UserError
from llmaug.ingest.split import TRAIN, VALIDATION
from llmaug.items.batches import Batches
from llmaug.items.sequences import Sequences, load_sequences
from llmaug.items.vocabulary import load_vocabulary
from llmaug.lm.chat.choices import LETTERS, Choices, choices_in
from llmaug.lm.folder import read_notes, write_model
from llmaug.training.loop import Private
from llmaug.training.trainer import fit
from llmaug.training.validation import load_validation

_TUNED = "chat"
_MAX_VALIDATION_USERS = 500  # a question in prose is hundreds of tokens
_BATCH = 16  # validation questions at a time


def finetune(context: Context) -> dict[str, Any]:
    """Fine-tune the chat model that the notes in `lm/<name>` name; returns the facts of the
    training, the folder of the tuned model and its digest."""
    name = f"lm/{context.config.lm.name}"
    needed = {"model": name, "split": "split", "vocabulary": "vocabulary"}
    folders = {key: context.folder(value) for key, value in needed.items()}
    build = partial(FinetuneTask, context.storage, folders, context.config)
    lm = context.config.lm
    assert isinstance(lm, InstructConfig)
    return fit(context, name, build, lm, context.config.seed)


@dataclass(frozen=True)
class Question:
    """What is chosen among, after which history, and which it is."""

    history: list[int]
    candidates: list[int]
    answer: int
    """Place among the candidates."""


def ask(
    choices: Choices,
    history: list[int],
    target: int,
    later: Collection[int],
    size: int,
    rng: np.random.Generator,
) -> Question:
    """The question of strategy `choose` to which `target` is the answer.

    later: what else the user went on to take; it would be no wrong answer, so it is not offered.
    """
    # The neighbours were counted with this user's own events. That stays so on purpose: the
    # other candidates are neighbours by somebody's events, too, and without its own pair the
    # target would be a stranger among them nearly always, to be known by that. The model sees
    # names alone, no counts.
    candidates = choices.candidates(history, size, rng, left_out={*later} - {target})
    if not candidates:
        candidates = [target]
    if target not in candidates:
        candidates[int(rng.integers(len(candidates)))] = target
    return Question(history, candidates, candidates.index(target))


class TrainingQuestions:
    """Questions about training histories: at each visit of a user about another event.

    They depend on the step alone, as `Batches` do. Events of an item that the user had already
    are not asked for: `choose` never offers those.
    """

    def __init__(
        self, sequences: Sequences, choices: Choices, size: int, batch_size: int, seed: int
    ) -> None:
        """size: candidates of a question. Raises UserError when nobody has a next event."""
        bounds = itertools.pairwise(sequences.offsets)  # BOS is at the start of each
        askable = np.array(
            [len(np.unique(sequences.tokens[start + 1 : end])) > 1 for start, end in bounds]
        )
        if not askable.any():
            raise UserError(
                "lm.finetune: no user has two different training events, so there is no next one "
                "to ask for; read more days (ingest.start, ingest.end), or leave lm.finetune out"
            )
        self._choices, self._size, self._seed = choices, size, seed
        longest = int(np.diff(sequences.offsets).max())
        self._batches = Batches(sequences, batch_size, longest, seed, only=askable)

    def at(self, step: int, rank: int = 0, world_size: int = 1) -> list[Question]:
        """This worker's share of the questions of `step`."""
        return [
            self._question(row.tokens[1:], np.random.default_rng([self._seed, 2, step, row.index]))
            for row in self._batches.rows(step, rank, world_size)
        ]

    def _question(self, tokens: np.ndarray, rng: np.random.Generator) -> Question:
        first = np.unique(tokens, return_index=True)[1]  # of each item
        place = int(rng.choice(np.sort(first)[1:]))
        history, later = tokens[:place].tolist(), tokens[place + 1 :].tolist()
        return ask(self._choices, history, int(tokens[place]), later, self._size, rng)


class ChatModel(nn.Module):
    """A chat model of which all weights, or adapters alone, are trained."""

    def __init__(self, folder: str, config: InstructConfig) -> None:
        """folder: a local one."""
        super().__init__()
        self._stored_as = AutoConfig.from_pretrained(folder, trust_remote_code=False).dtype
        self._with_adapters = config.finetune == "lora"
        self.chat: Any = AutoModelForCausalLM.from_pretrained(
            folder, dtype=torch.float32, use_safetensors=True, trust_remote_code=False
        )
        if self._with_adapters:
            from peft import LoraConfig, get_peft_model

            lora = LoraConfig(
                r=config.lora_rank, lora_alpha=2 * config.lora_rank,
                target_modules="all-linear", task_type="CAUSAL_LM",
            )  # fmt: skip
            self.chat = get_peft_model(self.chat, lora)

    def forward(self, tokens: Tensor, mask: Tensor, answers: Tensor) -> Tensor:
        """Mean loss of the (B,) answers' tokens after the (B, T) prompts, padded on the left."""
        return F.cross_entropy(self.next_logits(tokens, mask).float(), answers)

    def next_logits(self, tokens: Tensor, mask: Tensor) -> Tensor:
        """(B, V) logits after the (B, T) prompts."""
        positions = (mask.cumsum(1) - 1).clamp(min=0)
        out = self.chat(
            input_ids=tokens, attention_mask=mask, position_ids=positions, logits_to_keep=1,
            use_cache=False,
        )  # fmt: skip
        return out.logits[:, -1]

    def merged(self) -> Any:
        """The plain chat model, adapters added to its weights, in the precision it came in.
        Nothing can be trained afterwards."""
        plain = self.chat.merge_and_unload() if self._with_adapters else self.chat
        return plain.to(self._stored_as or torch.float32)

    # Checkpoints hold what is trained alone: beside adapters the base would be most of them.
    def state_dict(self, *arguments: Any, **options: Any) -> dict[str, Any]:  # type: ignore[override]
        trained = {name for name, weight in self.named_parameters() if weight.requires_grad}
        everything = super().state_dict(*arguments, **options)
        return {name: tensor for name, tensor in everything.items() if name in trained}

    def load_state_dict(self, state: Any, *_: Any, **__: Any) -> Any:  # type: ignore[override]
        return super().load_state_dict(state, strict=False)


class FinetuneTask:
    """What the trainer asks of it; built inside each worker."""

    metric = "log_likelihood"
    patient_until = 0
    private: Private | None = None

    def __init__(self, storage: Storage, folders: dict[str, str], config: Config) -> None:
        """folders: of model, split and vocabulary."""
        self._storage, self._folders = storage, folders
        self._vocabulary = load_vocabulary(storage, folders["vocabulary"])
        lm, size = config.lm, config.plan.most_candidates
        assert isinstance(lm, InstructConfig)
        self.choices = choices_in(storage, folders["model"], self._vocabulary, lm.context_len)
        train, validation = (f"{folders['split']}/{fold}" for fold in (TRAIN, VALIDATION))
        sequences = load_sequences(storage, train, self._vocabulary)
        self.training = TrainingQuestions(sequences, self.choices, size, lm.batch_size, config.seed)
        held_out = load_validation(
            storage, train, validation, self._vocabulary, config.seed, _MAX_VALIDATION_USERS
        )
        self.validation = [
            ask(self.choices, history, target, (), size, np.random.default_rng([config.seed, 3, n]))
            for n, (history, target) in enumerate(
                zip(held_out.histories, held_out.targets, strict=True)
            )
            if target not in history
        ]
        notes = read_notes(storage, folders["model"], "instruct")
        base = fetch_model(storage, notes["model_folder"], notes["model_digest"])
        self.model = ChatModel(base, lm)

    def batch(self, step: int, rank: int, world_size: int) -> tuple[np.ndarray, ...]:
        """tokens (B, T), mask (B, T), answers (B,): all int64."""
        return self.arrays(self.training.at(step, rank, world_size))

    def weight(self, batch: tuple[Any, ...]) -> float:
        return float(len(batch[2]))

    def arrays(self, questions: Sequence[Question]) -> tuple[np.ndarray, ...]:
        prompts = [self.choices.choice(q.history, q.candidates) for q in questions]
        width = max(len(prompt) for prompt in prompts)
        tokens, mask = (np.zeros((len(prompts), width), np.int64) for _ in range(2))
        # On the left: all answers come after the last position.
        for row, prompt in enumerate(prompts):
            tokens[row, width - len(prompt) :] = prompt
            mask[row, width - len(prompt) :] = 1
        answers = np.array([self.choices.letters[q.answer] for q in questions], np.int64)
        return tokens, mask, answers

    def log_probabilities(self, questions: Sequence[Question]) -> np.ndarray:
        """(N, 20) of each letter; decoding takes one of those that are offered, so among them."""
        device = next(self.model.parameters()).device
        letters = torch.tensor(self.choices.letters, device=device)
        out = [np.empty((0, len(LETTERS)))]
        for start in range(0, len(questions), _BATCH):
            piece = questions[start : start + _BATCH]
            tokens, mask, _ = (torch.as_tensor(x, device=device) for x in self.arrays(piece))
            with torch.inference_mode():
                logits = self.model.next_logits(tokens, mask)[:, letters].double()
            offered = torch.tensor([len(q.candidates) for q in piece], device=device)
            strange = torch.arange(len(LETTERS), device=device) >= offered[:, None]
            out.append(logits.masked_fill(strange, -math.inf).log_softmax(1).cpu().numpy())
        return np.concatenate(out)

    def validate(self) -> float:
        if not self.validation:
            return math.nan
        found = self.log_probabilities(self.validation)
        return float(found[np.arange(len(found)), [q.answer for q in self.validation]].mean())

    def export(self) -> dict[str, Any]:
        trained = sum(w.numel() for w in self.model.parameters() if w.requires_grad)
        facts = {"num_trained_parameters": trained, "validation_questions": len(self.validation)}
        folder = f"{self._folders['model']}/{_TUNED}"
        with tempfile.TemporaryDirectory() as local:
            self.choices.tokenizer.save_pretrained(local)
            digest = write_model(
                self._storage, folder, local, self.model.merged(), "instruct",
                self._vocabulary, facts,
            )  # fmt: skip
        return {**facts, "model_folder": folder, "model_digest": digest}
