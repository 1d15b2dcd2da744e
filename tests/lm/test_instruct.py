"""A chat model that chooses what comes next, among what others took, too.

The model is a random Llama of two layers with a tokenizer of its own: what it says is
nonsense, but it is asked, limited to its letters and read like any chat model.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from llmaug import pipeline
from llmaug.config import parse_config
from llmaug.core.storage import Storage
from llmaug.errors import UserError
from llmaug.items.sequences import user_histories
from llmaug.items.vocabulary import NUM_SPECIAL, load_vocabulary
from llmaug.lm.chat.choices import LETTERS, choices_in, neighbours
from llmaug.lm.chat.tokenizer import adopt_model
from tests.jobs import NUM_USERS, SMALL, changed, write_logs
from tests.nights import without_ray
from tests.tables import catalogue, events, histories

A, B, C, D, E = range(NUM_SPECIAL, NUM_SPECIAL + 5)
TEMPLATE = "{% for m in messages %}user : {{ m.content }}\nassistant : {% endfor %}"


def write_chat_model(
    folder: Path, chat_template: str | None = TEMPLATE, words: Sequence[str] = ()
) -> None:
    """words: what the tokenizer knows besides letters."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    known = ["[UNK]", *LETTERS, "user", "assistant", ":", "-", ".", "Answer", "letter", *words]
    tokenizer = Tokenizer(
        models.WordLevel({word: n for n, word in enumerate(known)}, unk_token="[UNK]")
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="[UNK]")
    fast.chat_template = chat_template
    fast.save_pretrained(folder)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(known), hidden_size=64, intermediate_size=64, num_hidden_layers=2,
        num_attention_heads=2, num_key_value_heads=2, max_position_embeddings=512,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder)


@pytest.fixture(scope="module")
def storage(tmp_path_factory: pytest.TempPathFactory, ray_session: None) -> Storage:
    """A finished job, up to the merged shards: every user's next item was chosen."""
    root = tmp_path_factory.mktemp("root")
    write_logs(str(root))
    write_chat_model(root / "chat")
    with pytest.MonkeyPatch.context() as patch:
        without_ray(patch)
        run(Storage(str(root)))
    return Storage(str(root))


def run(storage: Storage) -> dict[str, Any]:
    choose = {"kind": "choose", "num_candidates": 6, "max_history_len": None}
    config = changed(
        SMALL,
        lm={"model": "instruct", "folder": "{root}/chat", "context_len": 512},
        plan={"strategies": [choose]},
    )
    return pipeline.run(parse_config(config), storage, "small", until="merge")


def test_every_answer_is_one_of_the_candidates(storage: Storage) -> None:
    units = [
        row for part in storage.parts("runs/small/plan")
        for row in storage.read_part("runs/small/plan", part).to_pylist()
    ]  # fmt: skip
    offered = {unit["unit_id"]: unit["candidates"] for unit in units}
    vocabulary = load_vocabulary(storage, "runs/small/vocabulary")
    chosen: list[int] = []
    for part in storage.parts("runs/small/filtered"):
        histories = user_histories(
            storage, ["runs/small/split/train"], part[2:].rsplit("-", 1)[0], vocabulary
        )
        for row in storage.read_part("runs/small/filtered", part).to_pylist():
            assert row["status"] == "accepted" and row["num_generated_tokens"] == 1
            [event] = row["events"]
            token = int(vocabulary.encode([event["item_id"]])[0])
            candidates = offered[row["unit_id"]]
            assert token in candidates and len(set(candidates)) == 6
            assert not set(candidates) & set(histories[row["user_id"]])  # nothing old is offered
            chosen.append(candidates.index(token))
    assert len(chosen) == NUM_USERS
    assert len(set(chosen)) > 1


def test_the_model_is_copied_once_and_a_second_run_does_nothing(storage: Storage) -> None:
    assert len(storage.names("models")) == 1
    manifests = run(storage)
    assert all(manifest["skipped"] for manifest in manifests.values())


def test_a_question_names_what_the_user_had_and_what_is_offered(storage: Storage) -> None:
    vocabulary = load_vocabulary(storage, "runs/small/vocabulary")
    asked = choices_in(storage, "runs/small/lm/instruct", vocabulary, 512)
    texts: list[str] = []

    class Tokenizer:
        def encode(self, text: str, add_special_tokens: bool) -> list[int]:
            assert not add_special_tokens  # the chat template has them
            texts.append(text.removeprefix("user : ").removesuffix("\nassistant : "))
            return [0] * (len(text) // 4)

    assert asked.frame == ("user : ", "\nassistant : ")
    object.__setattr__(asked, "tokenizer", Tokenizer())
    history, candidates = [A, B], [C, D]
    asked.choice(history, candidates)
    titles = vocabulary.items["title"].to_pylist()
    assert f"- {titles[0]}" in texts[0] and f"A. {titles[2]}" in texts[0]
    assert f"B. {titles[3]}" in texts[0] and texts[0].endswith("Answer with one letter.")
    # The oldest are left out until it fits.
    prompt = asked.choice(list(range(A, A + 200)), candidates)
    assert len(prompt) < 512
    assert titles[199] in texts[-1] and f"- {titles[0]}" not in texts[-1]


def test_candidates_are_what_others_took_too(tmp_path: Path, storage: Storage) -> None:
    words = catalogue("abcde")
    mine = Storage(str(tmp_path))
    rows = histories(u1="ab", u2="ab", u3="abc", u4="d", u5="d", u6="d")
    mine.write_part(events(rows), {}, "train", "part-0")
    table = neighbours(mine, "train", words)
    assert table["items"].to_pylist()[0] == [B, C]  # most with b, then with c
    vocabulary = load_vocabulary(storage, "runs/small/vocabulary")
    asked = choices_in(storage, "runs/small/lm/instruct", vocabulary, 512)
    object.__setattr__(asked, "table", table)
    asked.__dict__.pop("_neighbours", None)
    asked.__dict__.pop("_popular", None)
    found = asked.candidates([A], 3, np.random.default_rng(0))
    assert set(found) == {B, C, D}  # b and c by company, d because it is popular


def test_a_folder_that_is_no_chat_model_is_refused(tmp_path: Path) -> None:
    storage = Storage(str(tmp_path / "root"))
    with pytest.raises(UserError, match=r"config.json is missing"):
        adopt_model(storage, str(tmp_path / "nothing"))
    write_chat_model(tmp_path / "chat")
    (tmp_path / "chat" / "tokenizer.json").unlink()
    with pytest.raises(UserError, match=r"tokenizer.json is missing"):
        adopt_model(storage, str(tmp_path / "chat"))


def test_a_question_has_the_tokens_that_the_chat_template_gives(storage: Storage) -> None:
    vocabulary = load_vocabulary(storage, "runs/small/vocabulary")
    asked = choices_in(storage, "runs/small/lm/instruct", vocabulary, 512)
    prompt = asked.choice([A, B], [C, D])
    text = asked.tokenizer.decode(prompt)
    assert text.startswith("user :") and text.endswith("assistant :")
    for message in ("Answer A . B", "user : assistant", "- A\n- B"):
        expected = asked.tokenizer.apply_chat_template(
            [{"role": "user", "content": message}], add_generation_prompt=True, return_dict=False
        )
        before, behind = asked.frame
        found = asked.tokenizer.encode(before + message + behind, add_special_tokens=False)
        assert found == list(expected)
