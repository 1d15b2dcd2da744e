"""`llmaug tune`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from llmaug.cli.options import AS_JSON, CONFIG, DATE, ENDPOINT, ROOT, load, open_storage
from llmaug.core.terminal import Terminal, emit_json
from llmaug.errors import Interrupted


def tune(
    config: CONFIG,
    minutes: Annotated[
        float, typer.Option(min=0, help="Looked at before each training, in this call.")
    ] = 60,
    to: Annotated[
        Path | None,
        typer.Option(help="The chosen config; default: CONFIG_tuned.yaml beside CONFIG."),
    ] = None,
    recipes: Annotated[
        Path | None,
        typer.Option(help="YAML: {name: {arm: ..., plan: ..., merge: ..., train: ...}}."),
    ] = None,
    root: ROOT = None,
    endpoint_url: ENDPOINT = None,
    date: DATE = None,
    as_json: AS_JSON = False,
) -> None:
    """Choose arm and recipe on the validation events, and write the config of the best.

    Short trainings of many candidates, longer ones of the better half. `none`, real events
    alone, is always among them. The test events stay closed: the gate of `llmaug run` asks them.
    The same command goes on where it was.

    Example: `llmaug tune --config configs/auto.yaml --minutes 60 --root demo --to auto_tuned.yaml`
    """
    from llmaug.commands import tune_result as result
    from llmaug.commands.tune import FOLDER
    from llmaug.commands.tune import tune as choose
    from llmaug.commands.tune_candidates import from_file
    from llmaug.config.dates import day_of
    from llmaug.core.cluster import disconnect
    from llmaug.core.progress import Progress

    class Quiet(Progress):
        """Bars, notes and warnings, without a line a stage: there are a hundred."""

        def _line(self, stage: str, *words: str | tuple[str, str]) -> None:
            pass

    parsed = load(config, date)
    place = result.place_of(to, config)
    candidates = from_file(recipes, parsed) if recipes else None
    storage = open_storage(parsed, root, endpoint_url)
    console = Terminal(stderr=True)
    try:
        tuned = choose(
            parsed, storage, minutes, candidates, lambda publish: Quiet(console, publish),
            say=lambda line: console.print(line, soft_wrap=True),
        )  # fmt: skip
    except KeyboardInterrupt as stop:
        raise Interrupted(
            "stopped: what is finished is kept; run the same command again to go on"
        ) from stop
    finally:
        disconnect()
    result.write(place, config, parsed, tuned, day_of(date) if date else None)
    found = {**result.summary(parsed, tuned), "config": str(place)}
    storage.write_json(found, FOLDER, parsed.name, "tune.json")
    if as_json:
        return emit_json(found)
    Terminal().print(result.table(tuned))
    Terminal().print(found["statement"], soft_wrap=True)
    Terminal().print(f"config: {place}", soft_wrap=True)
