"""Questions to a chat model through frameworks of other people; runs in their environments.

    python benchmarks/askers.py NAME TASK.json      # prints a line of JSON

TASK.json: {questions, base_url and model of an OpenAI-compatible server, response_format: with the
JSON schema, max_in_flight, temperature, top_p, max_tokens, folder: for the framework's files}. Each
is used as its documentation says, but for the schema: a class of pydantic both would send as a tool
to call, which a small model cannot; so it goes with the request as it is. The line: {version,
answers: {number of the question: text}}; a question that came back with nothing is not in it. Needs
what the peer itself needs.
"""

from __future__ import annotations

import json
import os
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

KEY = "none"  # the server asks for no key, the frameworks do


def distilabel(task: dict[str, Any]) -> dict[str, Any]:
    """One batch of all questions: with the default of 50, each batch waits for its slowest."""
    from distilabel.models.llms import OpenAILLM
    from distilabel.pipeline import Pipeline
    from distilabel.steps import LoadDataFromDicts
    from distilabel.steps.tasks import TextGeneration

    rows = [{"number": n, "instruction": text} for n, text in enumerate(task["questions"])]
    llm = OpenAILLM(
        model=task["model"], base_url=task["base_url"], api_key=KEY,
        generation_kwargs={"temperature": task["temperature"], "top_p": task["top_p"],
                           "max_new_tokens": task["max_tokens"],
                           "extra_body": {"response_format": task["response_format"]}},
    )  # fmt: skip
    with Pipeline(name="descriptions", cache_dir=task["folder"]) as pipeline:
        load = LoadDataFromDicts(data=rows, batch_size=len(rows))
        ask = TextGeneration(llm=llm, input_batch_size=len(rows), use_system_prompt=False)
        load >> ask
    found = pipeline.run(use_cache=False)["default"]["train"]
    answers = {row["number"]: row["generation"] for row in found if row["generation"]}
    return {"version": version("distilabel"), "answers": answers}


def curator(task: dict[str, Any]) -> dict[str, Any]:
    """The backend that its guide to vLLM names for a server."""
    os.environ |= {"CURATOR_CACHE_DIR": task["folder"], "TELEMETRY_ENABLED": "false",
                   "HOSTED_VLLM_API_KEY": KEY, "CURATOR_DISABLE_RICH_DISPLAY": "1"}  # fmt: skip
    from bespokelabs.curator import LLM
    from datasets import Dataset

    class Describer(LLM):  # type: ignore[misc]
        def prompt(self, row: dict[str, Any]) -> str:
            return str(row["question"])

        def parse(self, row: dict[str, Any], answer: str) -> dict[str, Any]:
            return {"number": row["number"], "text": answer}

    describe = Describer(
        model_name=f"hosted_vllm/{task['model']}", backend="litellm",
        backend_params={"base_url": task["base_url"], "max_concurrent_requests":
                        task["max_in_flight"], "max_requests_per_minute": 1_000_000,
                        "max_tokens_per_minute": 1_000_000_000, "max_retries": 1,
                        "require_all_responses": False},
        generation_params={"temperature": task["temperature"], "top_p": task["top_p"],
                           "max_tokens": task["max_tokens"],
                           "response_format": task["response_format"]},
    )  # fmt: skip
    rows = [{"number": n, "question": text} for n, text in enumerate(task["questions"])]
    found = describe(Dataset.from_list(rows)).dataset
    answers = {row["number"]: row["text"] for row in found if row["text"]}
    return {"version": version("bespokelabs-curator"), "answers": answers}


def main(name: str, path: str) -> None:
    task = json.loads(Path(path).read_text())
    print(json.dumps({"distilabel": distilabel, "curator": curator}[name](task)), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
