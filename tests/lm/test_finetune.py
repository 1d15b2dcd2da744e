"""A chat model that learns from questions about training events before it chooses.

The model is random and tiny, but its tokenizer knows the titles: what comes next is a fixed
mapping of the last item, and that can be learnt from prose.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from llmaug.config import InstructConfig, parse_config
from llmaug.core.stage import Context
from llmaug.errors import UserError
from llmaug.items.sequences import of_events
from llmaug.items.vocabulary import NUM_SPECIAL, load_vocabulary
from llmaug.lm.chat.choices import (
    NEIGHBOURS,
    Choices,
    choices_in,
    letter_tokens,
    neighbours,
)
from llmaug.lm.chat.finetune import ChatModel, FinetuneTask, TrainingQuestions, ask
from llmaug.lm.chat.tokenizer import adopt_model
from llmaug.lm.folder import NOTES
from llmaug.lm.train import run
from llmaug.training.loop import make_optimiser, train_step
from tests.lm.test_instruct import write_chat_model
from tests.tables import Row, catalogue, events, write_vocabulary

MakeContext = Callable[..., Context]
NUM_ITEMS, HISTORY_LEN, NUM_USERS = 12, 4, 120
ITEMS = [f"i{number:02d}" for number in range(NUM_ITEMS)]
LM: dict[str, Any] = {
    "model": "instruct", "folder": "{root}/chat-model", "context_len": 256, "finetune": "lora",
    "num_steps": 2, "validate_every": 1, "warmup_steps": 0, "batch_size": 16,
    "learning_rate": 3e-3,
}  # fmt: skip
PLAN = {"strategies": [{"kind": "choose", "num_candidates": 4}]}


def following(item: int) -> int:
    return (item + 5) % NUM_ITEMS


def write_inputs(context: Context, text: str = "en", history_len: int = HISTORY_LEN) -> None:
    """Histories by the rule; the item after them is held out, and so is one that nobody had."""
    train: list[Row] = []
    held_out: list[Row] = []
    for number in range(NUM_USERS):
        user, item = f"u{number:03d}", number % NUM_ITEMS
        for place in range(history_len):
            train.append((user, ITEMS[item], place))
            item = following(item)
        held_out.append((user, "planted" if number % 10 == 0 else ITEMS[item], history_len))
    words = catalogue([*ITEMS, "planted"], train_events={item: 40 for item in ITEMS})
    write_vocabulary(context, words, {})
    split, folder = context.folder("split"), context.folder("lm/instruct")
    context.storage.write_part(events(train), {}, f"{split}/train", "p0")
    context.storage.write_part(events(held_out), {}, f"{split}/validation", "p0")
    chat = Path(context.storage.path("chat-model"))
    write_chat_model(chat, words=[*ITEMS, "planted", "Title", "of"])
    model_folder, digest = adopt_model(context.storage, str(chat))
    table = neighbours(context.storage, f"{split}/train", words)
    context.storage.write_table(table, folder, NEIGHBOURS)
    from transformers import AutoTokenizer

    letters = letter_tokens(AutoTokenizer.from_pretrained(chat))
    notes = {"model": "instruct", "model_folder": model_folder, "model_digest": digest,
             "letters": letters, "frame": ["user : ", "\nassistant : "], "text": text}  # fmt: skip
    context.storage.write_json(notes, folder, NOTES)


def task_of(context: Context) -> FinetuneTask:
    folders = {"model": context.folder("lm/instruct"), "split": context.folder("split"),
               "vocabulary": context.folder("vocabulary")}  # fmt: skip
    torch.manual_seed(0)
    return FinetuneTask(context.storage, folders, context.config)


@pytest.fixture
def context(make_context: MakeContext) -> Context:
    context = make_context(lm=LM, plan=PLAN)
    write_inputs(context)
    return context


@pytest.mark.parametrize("text", ["en", "zh"])
def test_loss_is_on_the_letter_alone(make_context: MakeContext, text: str) -> None:
    context = make_context(lm={**LM, "prompt_language": text}, plan=PLAN)
    write_inputs(context, text)
    task = task_of(context)
    tokens, mask, answers = task.batch(0, 0, 1)
    assert task.weight((tokens, mask, answers)) == 16
    questions = task.training.at(0)
    letters = [task.choices.letters[question.answer] for question in questions]
    assert answers.tolist() == letters
    with torch.inference_mode():
        loss = task.model(*map(torch.as_tensor, (tokens, mask, answers)))
        # One question after the other, without any padding, and the letter behind it.
        alone = []
        for question, letter in zip(questions, letters, strict=True):
            prompt = task.choices.choice(question.history, question.candidates)
            logits = task.model.chat(torch.tensor([prompt])).logits[0, -1]
            alone.append(-logits.log_softmax(0)[letter].item())
    assert loss.item() == pytest.approx(np.mean(alone), abs=1e-5)


def test_a_batch_depends_on_the_step_alone_and_is_shared_by_the_workers(context: Context) -> None:
    training = task_of(context).training
    whole = training.at(3)
    assert training.at(3) == whole and training.at(4) != whole
    assert [*training.at(3, 0, 2), *training.at(3, 1, 2)] == [*whole[::2], *whole[1::2]]


def test_a_question_asks_for_what_came_next(context: Context) -> None:
    task = task_of(context)
    places = []
    for question in (q for step in range(10) for q in task.training.at(step)):
        last = question.history[-1] - NUM_SPECIAL
        target = question.candidates[question.answer]
        assert target == NUM_SPECIAL + following(last)
        assert len(set(question.candidates)) == 4
        assert not set(question.history) & set(question.candidates)
        places.append(question.answer)
    assert min(np.bincount(places, minlength=4)) > 0.15 * len(places)  # any letter


def test_what_comes_later_is_no_wrong_answer_and_a_stranger_is_put_in(context: Context) -> None:
    choices, rng = task_of(context).choices, np.random.default_rng(0)
    a, b, c, d = range(NUM_SPECIAL, NUM_SPECIAL + 4)
    planted = NUM_SPECIAL + NUM_ITEMS
    asked = [ask(choices, [a], planted, [b, c, d], 4, rng) for _ in range(20)]
    for question in asked:
        assert question.candidates[question.answer] == planted
        assert not {a, b, c, d} & set(question.candidates)
    assert len({question.answer for question in asked}) == 4
    # The target may come again later: it is the answer all the same.
    assert b in ask(choices, [a], b, [b, c], 4, rng).candidates


def test_held_out_events_are_in_no_training_question(context: Context) -> None:
    task = task_of(context)
    planted = NUM_SPECIAL + NUM_ITEMS
    assert any(planted in question.candidates for question in task.validation)
    for question in (q for step in range(60) for q in task.training.at(step)):
        assert planted not in [*question.history, *question.candidates]


def test_an_item_that_was_had_before_is_not_asked_for(context: Context) -> None:
    choices = task_of(context).choices
    rows = [("u", item, n) for n, item in enumerate(["i00", "i01", "i00", "i02"])]
    sequences = of_events(events(rows), choices.vocabulary)
    asked = TrainingQuestions(sequences, choices, 4, 1, seed=0)
    lengths = {len(question.history) for step in range(20) for question in asked.at(step)}
    assert lengths == {1, 3}


def test_a_long_history_is_cut_to_the_context(context: Context) -> None:
    choices = task_of(context).choices
    long = [NUM_SPECIAL + n % NUM_ITEMS for n in range(300)]
    prompt = choices.choice(long, long[:4])
    one_more = len(choices.choice(long[:2], long[:4])) - len(choices.choice(long[:1], long[:4]))
    assert choices.context_len - one_more <= len(prompt) < choices.context_len


def test_nobody_with_a_next_event_is_an_error(context: Context) -> None:
    choices = task_of(context).choices
    sequences = of_events(events([("u", "i00", 0), ("v", "i01", 0), ("v", "i01", 1)]),
                          choices.vocabulary)  # fmt: skip
    with pytest.raises(UserError, match="no user has two different training events"):
        TrainingQuestions(sequences, choices, 4, 8, seed=0)


@pytest.mark.parametrize(
    ("kind", "learning_rate", "share_left"), [("lora", 1e-2, 0.9), ("full", 3e-3, 0.1)]
)
def test_answers_are_learnt_and_written_as_a_plain_chat_model(
    make_context: MakeContext, kind: str, learning_rate: float, share_left: float
) -> None:
    """One batch by heart. Adapters of a random model get as far as that letters answer."""
    context = make_context(lm={**LM, "finetune": kind, "learning_rate": learning_rate}, plan=PLAN)
    write_inputs(context)
    task = task_of(context)
    config = context.config.lm
    optimiser = make_optimiser(task.model, config)
    losses = [train_step(task, task.model, optimiser, config, 0, step=0) for _ in range(50)]
    task.model.eval()
    assert losses[-1] < share_left * losses[0]

    tokens, mask, _ = task.batch(0, 0, 1)
    arrays = torch.as_tensor(tokens), torch.as_tensor(mask)
    with torch.inference_mode():
        tuned = task.model.next_logits(*arrays)  # base and adapters
    facts = task.export()
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = Path(context.storage.path(facts["model_folder"]))
    assert {file.suffix for file in folder.iterdir()} <= {".json", ".safetensors", ".jinja"}
    plain = AutoModelForCausalLM.from_pretrained(folder)
    assert type(plain).__name__ == "LlamaForCausalLM"
    assert not [name for name in load_file(folder / "model.safetensors") if "lora" in name]
    with torch.inference_mode():
        positions = (arrays[1].cumsum(1) - 1).clamp(min=0)
        found = plain(arrays[0], attention_mask=arrays[1], position_ids=positions).logits[:, -1]
    assert torch.allclose(found, tuned, atol=1e-4)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert letter_tokens(tokenizer) == task.choices.letters
    assert tokenizer.chat_template == task.choices.tokenizer.chat_template


def test_checkpoints_hold_what_is_trained(tmp_path: Path) -> None:
    write_chat_model(tmp_path)
    for kind, adapters in (("lora", True), ("full", False)):
        lm = parse_config({"lm": {**LM, "finetune": kind}}).lm
        assert isinstance(lm, InstructConfig)
        model = ChatModel(str(tmp_path), lm)
        state = {name: tensor + 1 for name, tensor in model.state_dict().items()}
        assert all("lora" in name for name in state) == adapters
        model.load_state_dict(state)
        again = model.state_dict()
        assert all(torch.equal(again[name], tensor) for name, tensor in state.items())


def test_the_stage_trains_and_its_model_is_the_one_that_is_asked(
    make_context: MakeContext, ray_session: None, fits_here: None
) -> None:
    context = make_context(lm=LM, plan=PLAN)
    write_inputs(context)
    facts = run(context)
    folder = context.folder("lm/instruct")
    assert facts["model_folder"] == f"{folder}/chat" and facts["steps"] == 2
    assert facts["validation_log_likelihood"] < 0
    notes = context.storage.read_json(folder, NOTES)
    assert notes["model_folder"] == facts["model_folder"]
    vocabulary = load_vocabulary(context.storage, context.folder("vocabulary"))
    asked = choices_in(context.storage, folder, vocabulary, 256)
    assert isinstance(asked, Choices)
    assert asked.choice([NUM_SPECIAL], [NUM_SPECIAL + 1])
    plain = make_context(lm={**LM, "finetune": None}, plan=PLAN)
    assert run(plain)["model_digest"] != facts["model_digest"]
