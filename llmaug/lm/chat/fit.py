"""A chat model is taken in as a behaviour model, and fine-tuned where that is asked for."""

from __future__ import annotations

from typing import Any

from llmaug.config import InstructConfig
from llmaug.core.formats import LANGUAGE_MODEL
from llmaug.core.stage import Context
from llmaug.core.storage import digest
from llmaug.ingest.split import TRAIN
from llmaug.items.vocabulary import load_vocabulary
from llmaug.lm.chat.choices import NEIGHBOURS, letter_tokens, neighbours
from llmaug.lm.chat.template import chat_frame
from llmaug.lm.chat.tokenizer import adopt_model, load_tokenizer
from llmaug.lm.folder import NOTES


def fit(context: Context) -> dict[str, Any]:
    """Count who is taken with whom, copy the chat model of `lm.folder` to the root, and
    fine-tune it if so configured."""
    storage, lm = context.storage, context.config.lm
    assert isinstance(lm, InstructConfig)
    folder = context.folder(f"lm/{lm.name}")
    vocabulary = load_vocabulary(storage, context.folder("vocabulary"))
    model_folder, model_digest = adopt_model(storage, lm.folder, note=context.progress.note)
    tokenizer = load_tokenizer(storage, model_folder, model_digest)
    letters = letter_tokens(tokenizer)
    frame = chat_frame(tokenizer, f"lm.folder {lm.folder}")
    table = neighbours(storage, f"{context.folder('split')}/{TRAIN}", vocabulary)
    counted = storage.write_table(table, folder, NEIGHBOURS)
    notes = {**LANGUAGE_MODEL.mark, "model": "instruct", "name": lm.name,
             "vocabulary_digest": vocabulary.digest, "model_folder": model_folder,
             "model_digest": model_digest, "letters": letters,
             "frame": frame, "text": lm.prompt_language}  # fmt: skip
    storage.write_json(notes, folder, NOTES)
    facts: dict[str, Any] = {}
    if lm.finetune:
        from llmaug.lm.chat.finetune import finetune

        facts = finetune(context)
        tuned = {name: facts[name] for name in ("model_folder", "model_digest")}
        notes |= tuned
        storage.write_json(notes, folder, NOTES)
    return {
        **facts,
        "name": lm.name,
        "model_digest": digest([notes["model_digest"], counted, notes["text"]]),
        "model_folder": notes["model_folder"],
    }
