"""Does what a chat model cites mean anything? Recommendations on MovieLens, explained by SmolLM2.

Task `explain` about the first recommendation of EASE for `--num` users. What is cited is compared
with `llmaug recommend --explain`, which leaves each item of the history out in turn and asks the
recommender itself: of the items that were offered, is the one with the largest effect among those
cited? Chance is what as many numbers drawn at random would hit. With `--control` the same question
is asked about `--num` events that were drawn at random (engine uniform), of which nothing is
plausible.

    python benchmarks/explain.py --num 60
"""

from __future__ import annotations

import json
import tempfile
from collections import Counter
from collections.abc import Iterator
from typing import Annotated, Any

import numpy as np
import typer
from answers import interval, rows_of
from inputs import smollm2

from llmaug import pipeline
from llmaug.commands.datasets import write_ml_100k
from llmaug.commands.explain import explain
from llmaug.config import Config, parse_config
from llmaug.core.stage import Context
from llmaug.core.storage import Storage
from llmaug.publish.recommend import serve
from llmaug.schema import ACCEPTED
from llmaug.text.titles import Titles, name_of
from llmaug.text.verdicts import parsed_share

RUN, RECOMMENDED, RANDOM = "explain", "explain", "random"
_NUM_SHOWN = 8


def main(
    num: Annotated[int, typer.Option(help="Recommendations, and random events.")] = 60,
    control: Annotated[bool, typer.Option(help="Ask about random events, too.")] = False,
    root: Annotated[str, typer.Option(help="Where it goes on; without: a new folder.")] = "",
) -> None:
    with tempfile.TemporaryDirectory() as own:
        figures = measured(root or own, num, control)
    for name, value in figures.items():
        print(f"{name:24} {value}")
    print(json.dumps(figures, ensure_ascii=False))


def measured(root: str, num: int, control: bool) -> dict[str, Any]:
    write_ml_100k(f"{root}/logs")
    storage, config = Storage(root), _config(root, num, control)
    done = pipeline.run(config, storage, RUN)
    context = Context(storage, config, RUN)
    return {
        "benchmark": "explain",
        **{own.name: of_task(context, own.name, done) for own in config.text.tasks},
        "agreement": agreement(context),
    }


def _config(root: str, num: int, control: bool) -> Config:
    asked = {"kind": "explain", "max_rows": num}
    random = {**asked, "name": RANDOM, "what": "synthetic_events"}
    return parse_config(
        {
            "ingest": {"path": f"{root}/logs/events", "items": {"path": f"{root}/logs/items"}},
            "split": {"kind": "leave_one_out"},
            "text": {
                "folder": smollm2(), "units_per_part": 4,
                "tasks": [asked, random] if control else [asked],
            },
            "plan": {"strategies": [{"kind": "continue", "samples_per_user": 1}]},
            "generate": {"engine": "uniform", "dtype": "bfloat16", "max_num_seqs": 64,
                         "kv_cache_gib": 2.0},
            "train": {"model": "ease", "arms": ["real", "augmented"]},
        }
    )  # fmt: skip


def of_task(context: Context, task: str, done: dict[str, Any]) -> dict[str, Any]:
    """What was answered, what was kept and why not, and which numbers are cited."""
    counts, asked = (done[f"text/{task}/{stage}"]["counts"] for stage in ("filtered", "outcomes"))
    answers = [answer for _, answer in _answers(context, task)]
    kept = [row["sentence"] for row in rows_of(context, f"text/{task}/rows")]
    why = {name: number for name, number in counts.items() if name.startswith("rejected.")}
    return {
        "asked": counts["units"],
        "by_the_schema": round(parsed_share(counts), 4),
        "kept": counts[ACCEPTED],
        "rejected": {name.partition(".")[2]: number for name, number in why.items()},
        "tokens_a_question": [round(asked[name] / counts["units"], 1)
                              for name in ("prompt_tokens", "output_tokens")],
        "cited": Counter(str(answer["because"]) for answer in answers).most_common(4),
        "first_cited": Counter(answer["because"][0] for answer in answers).most_common(),
        "name_a_cited_title": _naming(context, task),
        "different_sentences": len(set(kept)),
        "kept_for_example": kept[:_NUM_SHOWN],
    }  # fmt: skip


def _naming(context: Context, task: str) -> dict[str, int]:
    """Of the kept sentences: how many name an item that they cite, and the item in question."""
    known = {row["item_id"]: row["title"] for row in rows_of(context, "ingest/items")}
    titles, found = Titles(filter(None, known.values())), Counter[str]()
    for row in rows_of(context, f"text/{task}/rows"):
        cited = {name_of(known[item]) for item in row["because"]}
        item = name_of(known[row["item_id"]])
        named = {own.name for own in titles.named(row["sentence"], {*cited, item})}
        found.update(cited=bool(named & cited), item=item in named)
    return dict(found)


def agreement(context: Context) -> dict[str, Any]:
    """Of answers by the schema: whether the item of the largest effect, of those offered, is
    cited; beside chance, and beside whoever cites the first or the last ones that were offered."""
    served = serve(context.storage, context.config.publish.name)
    offered = {row["user_id"]: row["history"]
               for row in rows_of(context, f"text/{RECOMMENDED}/candidates")}  # fmt: skip
    figures: dict[str, list[float]] = {name: [] for name in ("cited", "chance", "first", "last")}
    for row, answer in _answers(context, RECOMMENDED):
        history = offered[row["user_id"]]
        numbers = {number for number in answer["because"] if number <= len(history)}
        [reasons] = explain(served, row["user_id"], 1, num_reasons=len(history) + 1000)
        assert reasons["item_id"] == row["item_id"]
        moved = [own["item_id"] for own in reasons["because"] if own["item_id"] in history]
        if moved and numbers:
            best, size = history.index(moved[0]) + 1, len(numbers)
            figures["cited"].append(best in numbers)
            figures["chance"].append(size / len(history))
            figures["first"].append(best <= size)
            figures["last"].append(best > len(history) - size)
    arrays = {name: np.array(values, float) for name, values in figures.items()}
    return {
        "answers": len(arrays["cited"]),
        **{name: interval(values) for name, values in arrays.items()},
        "cited_above_chance": interval(arrays["cited"] - arrays["chance"]),
    }


def _answers(context: Context, task: str) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """(verdict, answer) of those by the schema."""
    for row in rows_of(context, f"text/{task}/filtered"):
        if row["answer"]:
            yield row, json.loads(row["answer"])


if __name__ == "__main__":
    typer.run(main)
