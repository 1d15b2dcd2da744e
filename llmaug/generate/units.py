"""One part of the plan as columns, and the answers to it as outcomes.

Columns, because at a GPU's rate (1,000 units a second and engine) a Python object for each
field of each unit would cost more than the rest of our side of generation together.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from llmaug.schema import FAILED, GENERATED, OUTCOME, SAID, SOFT, validate

# What an engine says about the unit in row `number` of its part: tokens, or a reason.
ANSWER = pa.schema(
    [
        pa.field("number", pa.int32(), nullable=False),
        pa.field("tokens", pa.list_(pa.int32())),
        pa.field("num_cached_tokens", pa.int32()),  # prompt tokens that were not computed again
        pa.field("engine_seconds", pa.float32()),
        pa.field("reason", pa.string()),
        pa.field("detail", pa.string()),
        *SOFT,
        *SAID,
    ]
)


@dataclass(frozen=True)
class Units:
    """Rows of schema UNIT."""

    table: pa.Table

    def __len__(self) -> int:
        return self.table.num_rows

    @cached_property
    def ids(self) -> list[str]:
        return self.table["unit_id"].to_pylist()

    @cached_property
    def users(self) -> list[str | None]:
        return self.table["user_id"].to_pylist()

    @cached_property
    def strategies(self) -> list[str]:
        return self.table["strategy"].to_pylist()

    @cached_property
    def seeds(self) -> np.ndarray:
        """(N,) int64."""
        return self.table["seed"].to_numpy()

    @cached_property
    def max_tokens(self) -> np.ndarray:
        """(N,) int32: most tokens of each answer."""
        return self._sampling["max_tokens"]

    @cached_property
    def prompts(self) -> list[list[int]]:
        return self.table["prompt"].to_pylist()

    @cached_property
    def also_seen(self) -> list[list[int] | None]:
        return self.table["also_seen"].to_pylist()

    @cached_property
    def may_repeat(self) -> list[list[int] | None]:
        return self.table["may_repeat"].to_pylist()

    @cached_property
    def texts(self) -> list[str | None]:
        return self.table["text"].to_pylist()

    @cached_property
    def images(self) -> list[tuple[str, str | None]]:
        """(N,) of images that go with questions: where each lies, and the digest of its bytes."""
        return [(image["uri"], image["digest"]) for image in self.table["image"].to_pylist()]

    @cached_property
    def candidates(self) -> list[list[int] | None]:
        return self.table["candidates"].to_pylist()

    def sampling(self, number: int) -> dict[str, Any]:
        """Arguments of vLLM's SamplingParams."""
        return {name: column[number].item() for name, column in self._sampling.items()}

    @cached_property
    def _sampling(self) -> dict[str, np.ndarray]:
        struct = self.table["sampling"].combine_chunks()
        return {
            field.name: struct.field(i).to_numpy(zero_copy_only=False)
            for i, field in enumerate(struct.type)
        }


def answers_of(
    numbers: np.ndarray,
    tokens: pa.Array,
    cached: np.ndarray,
    seconds_each: float,
    soft: pa.Table | None = None,
    said: pa.Table | None = None,
) -> pa.Table:
    """(N,) row numbers and what was generated for them, as rows of ANSWER; soft: rows of SOFT,
    said: of SAID."""
    size = len(numbers)
    return pa.table(
        [
            pa.array(numbers, pa.int32()),
            tokens,
            pa.array(cached, pa.int32()),
            pa.repeat(pa.scalar(seconds_each, pa.float32()), size),
            pa.nulls(size, pa.string()),
            pa.nulls(size, pa.string()),
            *(soft.columns if soft else [pa.nulls(size, field.type) for field in SOFT]),
            *(said.columns if said else [pa.nulls(size, field.type) for field in SAID]),
        ],
        schema=ANSWER,
    )


def failures_of(failures: list[tuple[int, str, str]]) -> pa.Table:
    """(row number, reason, detail) of units that failed, as rows of ANSWER."""
    return pa.Table.from_pylist(
        [
            {"number": number, "tokens": [], "num_cached_tokens": 0, "engine_seconds": 0.0,
             "reason": reason, "detail": detail}
            for number, reason, detail in failures
        ],
        schema=ANSWER,
    )  # fmt: skip


def outcomes_of(units: Units, answers: pa.Table, attempts: int, where: str) -> pa.Table:
    """One row of OUTCOME for each row of `answers` (schema ANSWER), in the units' order."""
    answers = answers.sort_by("number")
    asked = units.table.take(answers["number"])
    failed = pc.is_valid(answers["reason"])
    size = answers.num_rows
    columns = {
        **{name: asked[name] for name in ("unit_id", "user_id", "strategy", "sample")},
        "status": pc.if_else(failed, FAILED, GENERATED),
        **{name: answers[name] for name in ("reason", "detail", "tokens", *SOFT.names, "text")},
        "num_prompt_tokens": pc.coalesce(
            answers["asked_tokens"], pc.list_value_length(asked["prompt"])
        ),
        "num_cached_tokens": answers["num_cached_tokens"],
        "num_generated_tokens": pc.coalesce(
            answers["said_tokens"], pc.list_value_length(answers["tokens"])
        ),
        "engine_seconds": answers["engine_seconds"],
        "attempts": pa.repeat(pa.scalar(attempts, pa.int16()), size),
    }
    return validate(pa.table(columns), OUTCOME, where)


def counts_of(outcomes: pa.Table) -> dict[str, int]:
    """What the note of a part of outcomes says about it."""
    failed = pc.equal(outcomes["status"], FAILED)
    reasons = pc.value_counts(outcomes["reason"].filter(failed)).to_pylist()

    def total(name: str) -> int:
        return int(pc.sum(outcomes[name]).as_py() or 0)

    return {
        "units": outcomes.num_rows,
        GENERATED: outcomes.num_rows - sum(found["counts"] for found in reasons),
        FAILED: sum(found["counts"] for found in reasons),
        **{f"{FAILED}.{found['values']}": found["counts"] for found in reasons},
        "output_tokens": total("num_generated_tokens"),
        "prompt_tokens": total("num_prompt_tokens"),
        "cached_prompt_tokens": total("num_cached_tokens"),
        "engine_ms": round(1000 * float(pc.sum(outcomes["engine_seconds"]).as_py() or 0)),
    }
