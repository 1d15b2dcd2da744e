"""Text tasks: a chat model is asked about each row of a table, and what it answers becomes rows.

    task        Task: template, schema, parser, filters and sink of one kind; `task_of` makes it
    cleaning    user text is data: what a field may hold of it, cut by tokens
    templates   the question, rendered in a sandbox
    model       stage text/model: the chat model, taken in once
    prompts     a row to a question: tokens for vLLM, text for an endpoint
    images      what goes with a question: read safely, and from nowhere but below one root
    plan        stage text/<task>/plan: units
    outcomes    stage text/<task>/outcomes: answers, by the machinery of behaviour units
    image_engine  vLLM with images, which threads of its own read
    endpoint    the engine that asks an OpenAI-compatible server
    filters     why an answer is refused
    verdicts    stage text/<task>/filtered: accepted, rejected, failed
    rows        stage text/<task>/rows: where the answers go

Here are all of these stages in order. A judge is a task of its own, about the accepted answers of
another: `text/<task>/judge/...`.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

from llmaug.config import (
    Config,
    ExplainConfig,
    TextConfig,
    TextTaskConfig,
    imported,
    modules_of,
)
from llmaug.core.placing import TASKS
from llmaug.core.stage import Stage
from llmaug.generate import stage as generate
from llmaug.text import outcomes, plan, rows, verdicts
from llmaug.text.model import NAME, model_stages
from llmaug.text.task import Task, task_of

_TOKENIZER = ("llmaug.lm.chat.tokenizer",)


def text_stages(config: Config) -> list[Stage]:
    """Of what is asked about the logs themselves; none without tasks."""
    text = config.text
    made = model_stages(text) if text.tasks else []
    for own in text.tasks:
        if not own.comes_last and not own.candidates:
            made += task_stages(config, own)
    return made


def choice_stages(config: Config) -> list[Stage]:
    """Of tasks that choose from candidates of their own, behind stage `vocabulary`."""
    return [
        stage
        for own in config.text.tasks
        if own.candidates and not own.comes_last
        for stage in _with_candidates(config, own)
    ]


def explain_stages(config: Config, publishing: bool) -> list[Stage]:
    """Behind all others; of recommendations only where there are some (`publishing`)."""
    return [
        stage
        for own in config.text.tasks
        if isinstance(own, ExplainConfig) and (publishing or own.what != "recommendations")
        for stage in _with_candidates(config, own)
    ]


def _with_candidates(config: Config, own: TextTaskConfig) -> list[Stage]:
    return [imported(own.candidates)(own), *task_stages(config, own)]


def task_stages(config: Config, own: TextTaskConfig) -> list[Stage]:
    """Those of one task."""
    task = task_of(config.text, own)
    made = _asked(config, own, task)
    if task.judge:
        made += _asked(config, own, task.judge)
    return [*made, _rows(config, own, task)]


def item_rows(config: Config) -> tuple[str, ...]:
    """Stages whose rows are items that stage `vocabulary` reads."""
    return tuple(f"text/{own.name}/rows" for own in config.text.tasks if own.feeds_vocabulary)


def review_rows(config: Config) -> tuple[str, ...]:
    """Stages whose rows are labelled events that the arm `reviewed` learns from."""
    return tuple(f"text/{own.name}/rows" for own in config.text.tasks if own.labels_events)


def chosen_rows(config: Config) -> tuple[str, ...]:
    """Stages whose rows are events that the arm `warmed` learns from."""
    return tuple(f"text/{own.name}/rows" for own in config.text.tasks if own.adds_events)


def _asked(config: Config, own: TextTaskConfig, task: Task) -> list[Stage]:
    """Plan, outcomes and verdicts of one question."""
    model = (NAME,) if config.text.engine == "vllm" else ()
    about = (f"{task.about.track}/filtered",) if task.about else ()
    named = partial("{}/{}".format, task.track)
    roots = modules_of(own)
    planned = Stage(
        name=named("plan"),
        run=partial(plan.run, task),
        inputs=(*task.reads, *model, *about),
        settings=lambda config: [
            _who(config.text), config.text.units_per_part, config.seed, task.template, task.schema,
            own, *_shown(config.text, task),
        ],
        roots=lambda config: (*roots, *_TOKENIZER),
        asks=lambda config, on_gpus: TASKS,
    )  # fmt: skip
    answered = replace(
        generate.STAGE,
        name=named("outcomes"),
        run=partial(outcomes.run, task),
        inputs=(named("plan"), *model),
        settings=lambda config: [
            _who(config.text), task.schema, config.generate, config.budget.max_gpu_hours,
            str(config.budget.deadline), *_shown(config.text, task),
        ],
        roots=lambda config: (*roots, *_TOKENIZER),
        outside=lambda context: None,
        asks=lambda config, on_gpus: (outcomes.engines(config, on_gpus), *TASKS),
    )  # fmt: skip
    judged = Stage(
        name=named("filtered"),
        run=partial(verdicts.run, task),
        inputs=(named("outcomes"), named("plan"), *task.reads, *about),
        settings=lambda config: [task.template, own, task.safety],
        roots=lambda config: roots,
        asks=lambda config, on_gpus: TASKS,
    )
    return [planned, answered, judged]


def _who(text: TextConfig) -> list[Any]:
    """Who is asked: retries and prices change no answer; which folder it is says text/model."""
    endpoint = text.endpoint if text.engine == "openai" else None
    return [text.engine, endpoint and [endpoint.base_url, endpoint.model], text.context_len]


def _shown(text: TextConfig, task: Task) -> list[Any]:
    """Which images are read: nothing for a task without."""
    return [text.image_root, vars(task.images)] if task.images else []


def _rows(config: Config, own: TextTaskConfig, task: Task) -> Stage:
    asked = [task.track, *([task.judge.track] if task.judge else [])]
    model = (NAME,) if config.text.engine == "vllm" and task.traced else ()
    return Stage(
        name=f"{task.track}/rows",
        run=partial(rows.run, task),
        inputs=(*task.reads, *model, *(f"{track}/filtered" for track in asked)),
        settings=lambda config: [own, task.safety],
        roots=lambda config: modules_of(own),
        asks=lambda config, on_gpus: TASKS,
    )
