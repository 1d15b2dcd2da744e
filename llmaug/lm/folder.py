"""What every model folder has, and what is checked before anything loads one.

`llmaug.json` is written with the model: its format, which kind it is, the digest of the
vocabulary that its tokens mean, and the facts of its training. Neural models are ordinary Hugging
Face folders beside it (config.json, model.safetensors); their weights are checked by the header
of the file, a few kilobytes, wherever the folder lies.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from llmaug.core.formats import LANGUAGE_MODEL
from llmaug.core.storage import Storage
from llmaug.errors import UserError
from llmaug.items.vocabulary import Vocabulary

NOTES, CONFIG, WEIGHTS = "llmaug.json", "config.json", "model.safetensors"
ARCHITECTURES = {"causal": "LlamaForCausalLM", "masked": "BertForMaskedLM"}
REMEDY = "delete the folder and run again: the model is trained anew"


def read_notes(storage: Storage, folder: str, model: str) -> dict[str, Any]:
    """`llmaug.json` of `folder`, as if it were written today. Raises UserError unless a `model`
    (causal, ...) is in it, and where a later llmaug wrote it."""
    notes = _json(storage, folder, NOTES)
    if notes is None:
        raise UserError(f"{storage.uri(folder)}: not a behaviour model (no {NOTES})")
    notes = LANGUAGE_MODEL.upgraded(notes, storage.uri(folder, NOTES))
    if notes.get("model") != model:
        raise UserError(
            f"{storage.uri(folder)}: holds a model of kind {notes.get('model')}, not {model}; "
            "set lm.name to another folder or lm.model to its kind"
        )
    return notes


def write_model(
    storage: Storage,
    folder: str,
    local: str,
    plain: Any,
    model: str,
    vocabulary: Vocabulary,
    notes: dict[str, Any],
) -> str:
    """Copy a transformers model, its notes and whatever is in the folder `local` already to
    `folder`; returns the digest of it all."""
    plain.save_pretrained(local)
    known = {"model": model, "vocabulary_digest": vocabulary.digest}
    notes = {**LANGUAGE_MODEL.mark, **known, **notes}
    Path(local, NOTES).write_text(json.dumps(notes, indent=1), encoding="utf-8")
    return storage.put_folder(local, folder)


def check_digest(uri: str, notes: dict[str, Any], vocabulary: Vocabulary) -> None:
    """Raises UserError when the model at `uri` speaks another vocabulary."""
    if notes["vocabulary_digest"] != vocabulary.digest:
        raise UserError(
            f"{uri}: this model was trained on another vocabulary; "
            "train it again on this run's logs"
        )


def check_weights(storage: Storage, folder: str, model: str, num_tokens: int) -> None:
    """Raises UserError unless `folder` holds whole weights of the architecture of `model`,
    with an embedding for each of `num_tokens`."""
    uri, expected = storage.uri(folder), ARCHITECTURES[model]
    config = _json(storage, folder, CONFIG)
    if config is None:
        raise UserError(f"{uri}: {CONFIG} is missing; {REMEDY}")
    found = config.get("architectures") or ["nothing that it names"]
    if found != [expected]:
        raise UserError(f"{uri}: holds {found[0]}, a {model} model is {expected}; {REMEDY}")
    if config.get("vocab_size") != num_tokens:
        raise UserError(
            f"{uri}: has {config.get('vocab_size')} tokens, its {NOTES} speaks of {num_tokens}: "
            f"the files do not belong together; {REMEDY}"
        )
    if not storage.exists(folder, WEIGHTS):
        raise UserError(f"{uri}: {WEIGHTS} is missing; {REMEDY}")
    size = storage.size(folder, WEIGHTS)
    whole = _whole_size(storage, folder, size)
    if size != whole:
        of = "a damaged header" if whole is None else f"{size:,} of {whole:,} bytes"
        raise UserError(f"{uri}: {WEIGHTS} has {of}; {REMEDY}")


def _whole_size(storage: Storage, folder: str, size: int) -> int | None:
    """Bytes that the header of the weights promises; None where the header is cut itself.

    The format: 8 bytes with the length of the header, JSON with the place of each tensor
    behind it, the tensors.
    """
    length = int.from_bytes(storage.read_range(0, 8, folder, WEIGHTS), "little") if size else 0
    if size < 8 + length:
        return None
    try:
        header = json.loads(storage.read_range(8, 8 + length, folder, WEIGHTS))
        ends = [place["data_offsets"][1] for n, place in header.items() if n != "__metadata__"]
    except (ValueError, LookupError, TypeError, AttributeError):
        return None
    return 8 + length + max(ends, default=0)


def _json(storage: Storage, folder: str, name: str) -> dict[str, Any] | None:
    try:
        return storage.read_json(folder, name)
    except ValueError as error:
        raise UserError(f"{storage.uri(folder)}: {name} is damaged: {error}; {REMEDY}") from error
