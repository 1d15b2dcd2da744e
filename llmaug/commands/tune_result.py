"""What `llmaug tune` says in the end: the table, who won and what that is worth, and the config."""

from __future__ import annotations

import os
from datetime import date
from pathlib import Path
from typing import Any

import yaml
from rich.table import Table

from llmaug.arms.arms import CONTROLS, REAL
from llmaug.commands.tune import Row, Tuned, run_of
from llmaug.commands.tune_candidates import Candidate, joined
from llmaug.config import Config, load_config
from llmaug.config.file import read_config_file
from llmaug.core.terminal import plain
from llmaug.errors import UserError
from llmaug.evaluate.bootstrap import interval_text, lift_text

_FIRST_LINE = "# Chosen by `llmaug tune`"
_MADE_BY = {
    "fusion": "Its recommender reads tags and texts of items; no synthetic event is in it.",
    "restarted": "It is trained twice on the same real events; nothing else is in it.",
    "started": "It starts from the generator's item vectors, a transfer; no synthetic event is in "
    "it.",
    "augmented_started": "It learns from synthetic events, and starts from the generator's item "
    "vectors.",
    "augmented_fusion": "It learns from synthetic events, and its recommender reads tags and texts "
    "of items.",
    "augmented": "It learns from synthetic events.",
}


def _made_by(config: Config, candidate: Candidate) -> str:
    said = _MADE_BY.get(candidate.arm, "")
    if candidate.config(config).plan.has_events:
        return said
    return said.replace("from synthetic events", "from soft events, on real events alone")


def place_of(to: Path | None, config: Path) -> Path:
    """Where the config goes; beside the given one by default. Raises UserError, before anything
    is trained, where there is a file that `tune` has not written or no folder."""
    place = to or config.with_name(f"{config.stem}_tuned.yaml")
    if not place.parent.is_dir():
        raise UserError(f"{place}: there is no folder {place.parent}")
    if place.exists() and not (place.is_file() and _first_line(place).startswith(_FIRST_LINE)):
        raise UserError(f"{place}: is there, and not from tune; name another file by --to")
    return place


def _first_line(path: Path) -> str:
    with path.open(encoding="utf-8", errors="replace") as file:
        return file.readline(200)


def summary(config: Config, tuned: Tuned) -> dict[str, Any]:
    """For machines: {winner, arm, statement, rows by candidate, ...}."""
    winner, steps = tuned.winner, tuned.decided_at
    return {
        "name": config.name,
        "run_id": run_of(config),
        "winner": winner.candidate.name,
        "arm": winner.candidate.arm,
        "decided_at_steps": steps,
        "statement": statement(config, tuned),
        "metric": "validation_ndcg@10",
        "num_validation_users": tuned.facts.validation_users,
        "seeds": config.train.seeds,
        "generator": tuned.generator,
        "rungs": tuned.rungs,
        "complete": tuned.complete,
        "minutes": round(tuned.spent_s / 60, 2),
        "candidates": [
            {
                "name": row.candidate.name,
                "arm": row.candidate.arm,
                "synthetic": row.synthetic,
                "validation_ndcg": {str(s): row.ndcg(s) for s in sorted(row.by_steps)},
                "by_seed": {str(s): row.by_steps[s] for s in sorted(row.by_steps)},
                "lift_over_none": row.lift,
                "minutes": round(row.seconds / 60, 2),
                "why": row.why,
                "changes": row.candidate.sections(config, arms_of(row)),
            }
            for row in tuned.rows
        ],
    }


def statement(config: Config, tuned: Tuned) -> str:
    """In words, who won, by what, and that it proves nothing yet."""
    steps, winner, real = tuned.decided_at, tuned.winner, tuned.rows[0]
    others = [row for row in tuned.rows[1:] if row.ndcg(steps) is not None]
    own = f"{real.ndcg(steps):.4f}" + (f" after {steps:,} steps" if steps else "")
    said: list[str] = []
    if not others:
        said.append(
            "`none` stays: no candidate was trained beside it. Real events alone have "
            f"validation NDCG@10 {own}."
        )
    elif winner is real:
        best = max(others, key=lambda row: row.ndcg(steps) or 0.0)
        said.append(
            f"`none` wins: train on real events alone (arm real, validation NDCG@10 {own}). "
            f"The best other one, {best.candidate.name}, has {best.ndcg(steps):.4f}."
        )
    else:
        arm = winner.candidate.arm
        said.append(
            f"`{winner.candidate.name}` (arm {arm}) is best: validation NDCG@10 "
            f"{winner.ndcg(steps):.4f}, arm real {own}."
        )
        said += [_made_by(config, winner.candidate), _control(tuned, winner), _proved(winner)]
    if tuned.generator and not tuned.generator["ahead"]:
        said.append(
            "The generator ranks validation events no better than real: candidates with its "
            "events were dropped."
        )
    if steps != tuned.rungs[-1]:
        said.append(f"Decided at {steps:,} of {tuned.rungs[-1]:,} steps.")
    if not tuned.complete:
        said.append("The minutes were spent before all were trained: the same command goes on.")
    tried, seeds = sum(bool(row.by_steps) for row in tuned.rows), len(config.train.seeds)
    among = f", the best of {tried} candidates: partly luck" if others else ""
    said.append(
        f"The figure is of {tuned.facts.validation_users:,} validation users and "
        f"{seeds} seed{'s' * (seeds > 1)}{among}. No lift is claimed: the test events were "
        "not opened; the gate of `llmaug run` asks them."
    )
    return " ".join(filter(None, said))


def table(tuned: Tuned) -> Table:
    out = Table(box=None, title="mean validation NDCG@10 by training steps")
    for name in header(tuned):
        out.add_column(name, no_wrap=bool(name))
    for row in tuned.rows:
        out.add_row(*cells(row, tuned))
    return out


def header(tuned: Tuned) -> list[str]:
    lengths = [f"{steps:,}" if steps else "closed form" for steps in tuned.rungs]
    return ["candidate", "arm", "synthetic", *lengths, "to none", "95% interval", "min", ""]


def cells(row: Row, tuned: Tuned) -> list[str]:
    """A line of the table: the mean validation NDCG@10 at each length, and at the longest one the
    difference to `none`."""
    figures = [row.ndcg(steps) for steps in tuned.rungs]
    real = tuned.rows[0]
    pairs = [(ndcg, real.ndcg(s)) for ndcg, s in zip(figures, tuned.rungs, strict=True)]
    both = [(own, other) for own, other in pairs if own is not None and other]
    against = f"{both[-1][0] / both[-1][1] - 1:+.1%}" if both and row is not real else ""
    return [
        row.candidate.name,
        row.candidate.arm,
        f"{row.synthetic:,}",
        *("" if ndcg is None else f"{ndcg:.4f}" for ndcg in figures),
        against,
        _interval(row),
        f"{row.seconds / 60:.1f}",
        "<- chosen" if row is tuned.winner else row.why,
    ]


def _interval(row: Row) -> str:
    if row.lift is None or row.lift["relative"] is None:
        return ""
    return interval_text(row.lift)


def arms_of(row: Row) -> list[str]:
    """What a night with it trains: `real`, the arm's control, the arm."""
    arm = row.candidate.arm
    return list(dict.fromkeys([REAL, CONTROLS[arm], arm]))


def write(place: Path, given: Path, config: Config, tuned: Tuned, day: date | None = None) -> None:
    """The winning config: `base: GIVEN` and what differs, or all of it where the base would lie
    outside the folder of the config or bring back what has to go. The table stands above as
    comments. `day` is that of a dated config."""
    sections = tuned.winner.candidate.sections(config, arms_of(tuned.winner))
    folder, base = os.path.realpath(place.parent), os.path.realpath(given)
    # A base would bring the weights of its strategies back where others are asked.
    reweighed = "plan" in sections and config.merge.strategy_weights
    if os.path.commonpath([folder, base]) == folder and not reweighed:
        raw: dict[str, Any] = {"base": os.path.relpath(base, folder), **sections}
    else:
        raw = joined(read_config_file(given), sections)
    lines = [header(tuned), *(cells(row, tuned) for row in tuned.rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    rows = ["  ".join(map(str.ljust, line, widths)).rstrip() for line in lines]
    run_on = f"llmaug run --config {place.name} --run-id {run_of(config)}"
    comments = [
        statement(config, tuned),
        f"`{run_on}` goes on from what was trained.",
        "",
        "Mean validation NDCG@10 by training steps:",
        *rows,
    ]
    text = "\n".join([_FIRST_LINE, *(f"# {one}".rstrip() for c in comments for one in _wrapped(c))])
    body = yaml.safe_dump(raw, sort_keys=False, allow_unicode=True)
    place.write_text(f"{plain(text)}\n{body}", encoding="utf-8")
    load_config(place, day)  # it has to be one


def _proved(winner: Row) -> str:
    """Whether the gain is more than chance, as far as validation users can tell."""
    lift = winner.lift
    if lift is None or lift["relative"] is None:
        return ""
    said = f"Over `none` that is {lift_text(lift)} for {lift['num_users']:,} validation users"
    return f"{said}." if lift["low"] > 0 else f"{said}: it may be nothing."


def _control(tuned: Tuned, winner: Row) -> str:
    """What the arm's control has after as many steps."""
    name, steps = CONTROLS[winner.candidate.arm], tuned.decided_at
    if name == REAL:
        return ""
    for row in tuned.rows:
        if row.candidate.arm == name and row.ndcg(steps) is not None:
            return f"Its control {name} has {row.ndcg(steps):.4f}."
    return f"Its control {name} was not trained for as long here; the gate asks it, too."


def _wrapped(text: str) -> list[str]:
    import textwrap

    return [text] if len(text) < 96 or "  " in text else textwrap.wrap(text, 96)
