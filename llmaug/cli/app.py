"""The `llmaug` command. Heavy imports stay inside the commands: --help answers at once."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer
from rich.table import Table
from rich.text import Text

from llmaug import __version__
from llmaug.cli.schema import print_schema
from llmaug.core.terminal import Terminal, emit, emit_json, plain
from llmaug.errors import Interrupted, UserError

if TYPE_CHECKING:
    from llmaug.config import Config
    from llmaug.core.storage import Storage

app = typer.Typer(
    help="Language-model augmentation for recommenders: from logs to a published model.",
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
)
config_app = typer.Typer(help="Look at the configuration.", no_args_is_help=True)
app.add_typer(config_app, name="config")
app.command("schema")(print_schema)

ROOT = Annotated[
    str | None,
    typer.Option(envvar="LLMAUG_ROOT", help="Storage root: a folder or s3://bucket/prefix."),
]
ENDPOINT = Annotated[
    str | None, typer.Option(envvar="AWS_ENDPOINT_URL", help="S3 endpoint, for servers not AWS.")
]
AS_JSON = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]
CONFIG = Annotated[Path, typer.Option("--config", "-c", help="YAML config.", show_default=False)]
VERIFY = Annotated[
    bool,
    typer.Option("--verify", help="Check the digests of what is there too: reads every file."),
]
NAME = Annotated[str, typer.Option(help="Name of the published model.")]
COLUMNS = Annotated[
    list[str] | None, typer.Option(help="OURS=THEIRS, for columns of another name.")
]
UNIT = Annotated[str | None, typer.Option(help="Unit of times that are numbers: s, ms, us or ns.")]
_DEFAULT_ROOT = "demo"


@app.command()
def run(
    config: CONFIG,
    root: ROOT = None,
    endpoint_url: ENDPOINT = None,
    run_id: Annotated[
        str | None, typer.Option(help="Run folder; default: the config's name.")
    ] = None,
    until: Annotated[
        str, typer.Option(help="Last step to run, e.g. `split` or `train`.")
    ] = "report",
    verify: VERIFY = False,
    as_json: AS_JSON = False,
) -> None:
    """Run the job, or what is left of it; what is missing or damaged is made anew.

    Example: `llmaug run --config configs/demo.yaml --root demo --until split`
    """
    run_job(config, root, endpoint_url, run_id, until, as_json, verify)


def run_job(
    config_path: Path,
    root: str | None,
    endpoint_url: str | None,
    run_id: str | None,
    until: str,
    as_json: bool = False,
    verify: bool = False,
) -> dict[str, Any]:
    """What `llmaug run` and the scripts in jobs/ do: run, and print what came out."""
    from llmaug import pipeline
    from llmaug.config import load_config
    from llmaug.config.names import check_name
    from llmaug.core.cluster import disconnect
    from llmaug.core.progress import Progress
    from llmaug.report import stage as report

    config = load_config(config_path)
    storage = _storage(config, root, endpoint_url)
    run_id = config.name if run_id is None else check_name(run_id, "--run-id")
    console = Terminal(stderr=True)
    try:
        manifests = pipeline.run(
            config, storage, run_id, until, lambda publish: Progress(console, publish),
            verify=verify,
        )  # fmt: skip
    except KeyboardInterrupt as stop:  # typer would say no more than "Aborted."
        raise Interrupted(
            "stopped: what is finished is kept; run the same command again to go on"
        ) from stop
    finally:
        disconnect()
    metrics = report.load_metrics(storage, run_id) if "report" in manifests else None
    if as_json:
        emit_json(metrics or {name: m["counts"] for name, m in manifests.items()})
    elif metrics:
        from llmaug.cli.summary import print_summary

        print_summary(Terminal(), storage, run_id, metrics)
    else:
        skipped = sum(m["skipped"] for m in manifests.values())
        Terminal().print(f"Ran to {until}: {len(manifests)} stages, {skipped} unchanged.")
        if "ingest" in manifests:
            from llmaug.cli.ledger_table import counted_otherwise, ledger_table

            counts = manifests["ingest"]["counts"]
            Terminal().print(ledger_table(counts))
            Terminal().print(counted_otherwise(counts))
    return manifests


@app.command()
def status(run: Annotated[str, typer.Argument(help="Run id.")], root: ROOT = None,
           endpoint_url: ENDPOINT = None, as_json: AS_JSON = False) -> None:  # fmt: skip
    """How far a run is: read from storage, so any machine can ask.

    Example: `llmaug status demo --root demo`
    """
    from llmaug.commands.status import read_status

    state = read_status(_storage(None, root, endpoint_url), run)
    if as_json:
        return emit_json(state)
    console = Terminal()
    holder = state["holder"]
    held = (
        f"{'running' if holder['alive'] else 'held'}: {holder['seen']}" if holder else "not running"
    )
    console.print(Text.assemble("run ", (run, "bold"), f", {held}"))
    table = Table("stage", "state", "seconds", "rows", box=None)
    for stage in state["stages"]:
        seconds = f"{stage['seconds']:.1f}" if stage["seconds"] is not None else ""
        table.add_row(stage["name"], stage["state"], seconds, f"{stage['rows']:,}")
    console.print(table)
    for stage in state["stages"]:
        for file, what in stage["damage"].items():
            console.print(f"{stage['name']}/{file}: {what}", soft_wrap=True)
    if holder and state["progress"]:
        now = state["progress"]
        counts = [f"{name} {value}" for name, value in (now.get("counts") or {}).items()]
        left = [f"{now['remaining_s']:.0f} s left"] if now.get("remaining_s") else []
        place = f"{now['done']:,}/{now['total'] or '?'} {now.get('unit', '')}".rstrip()
        console.print(f"now: {now['stage']} " + ", ".join([place, *counts, *left]))


@app.command()
def forecast(
    config: CONFIG,
    root: ROOT = None,
    endpoint_url: ENDPOINT = None,
    run_id: Annotated[
        str | None, typer.Option(help="Run folder; default: the config's name.")
    ] = None,
    probe_units: Annotated[
        int | None, typer.Option(min=8, help="Units to try; default: 2 x generate.max_num_seqs.")
    ] = None,
    as_json: AS_JSON = False,
) -> None:
    """What generation will cost: units, tokens, engine hours, accepted outcomes.

    Runs the job up to the plan and a sample of the plan through the real engine; what that
    generates is kept, so it is not paid for twice. `budget.price_per_hour` gives the cost.

    Example: `llmaug forecast --config configs/demo.yaml --root demo`
    """
    from llmaug.cli.summary import forecast_table
    from llmaug.commands.forecast import forecast as predict
    from llmaug.config import load_config
    from llmaug.core.cluster import disconnect
    from llmaug.core.progress import Progress

    parsed = load_config(config)
    storage = _storage(parsed, root, endpoint_url)
    console = Terminal(stderr=True)
    try:
        predicted = predict(
            parsed, storage, parsed.name if run_id is None else run_id, probe_units,
            lambda publish: Progress(console, publish),
        )  # fmt: skip
    finally:
        disconnect()
    if as_json:
        return emit_json(predicted)
    Terminal().print(forecast_table(predicted))


@app.command("retry-failed")
def retry_failed(
    run: Annotated[str, typer.Argument(help="Run id.")],
    reason: Annotated[
        str | None, typer.Option(help="Only units that failed with this reason.")
    ] = None,
    root: ROOT = None,
    endpoint_url: ENDPOINT = None,
    as_json: AS_JSON = False,
) -> None:
    """Generate again the units of a run that failed, and no others.

    Example: `llmaug retry-failed demo --reason engine_crashed --root demo`
    """
    from llmaug.commands.retry import retry_failed as retry
    from llmaug.core.cluster import disconnect
    from llmaug.core.progress import Progress

    console = Terminal(stderr=True)
    try:
        done = retry(
            _storage(None, root, endpoint_url), run, reason,
            lambda publish: Progress(console, publish),
        )  # fmt: skip
    finally:
        disconnect()
    if as_json:
        return emit_json(done)
    listed = ", ".join(f"{name} {number:,}" for name, number in done["by_reason"].items())
    Terminal().print(f"{done['retried']:,} units tried again ({listed}); "
                    f"{done['still_failed']:,} units of the run fail still")  # fmt: skip
    Terminal().print("Run the job again to renew what follows: filter, merge, train, report.")


@app.command()
def evaluate(
    datasets: Annotated[str, typer.Option(help="Configs, with commas: a.yaml,b.yaml.")],
    root: ROOT = None,
    endpoint_url: ENDPOINT = None,
    as_json: AS_JSON = False,
) -> None:
    """Compare the arms on several data sets, and say on how many augmentation helped.

    Each config is a run of its own (its `name`), up to its report, and goes on where it was;
    nothing is published. A data set that fails is reported, the others go on, exit code 1.

    Example: `llmaug evaluate --datasets configs/demo.yaml,configs/demo_thin.yaml --root demo`
    """
    from llmaug.commands import datasets_compare as across
    from llmaug.core.progress import Progress

    paths = [Path(name.strip()) for name in datasets.split(",") if name.strip()]
    if not paths:
        raise typer.BadParameter("name at least one config", param_hint="--datasets")
    console = Terminal(stderr=True)
    places: list[Storage] = []

    def storage_of(config: Config) -> Storage:
        places.append(_storage(config, root, endpoint_url))
        return places[-1]

    try:
        summary = across.compare(paths, storage_of, lambda put: Progress(console, put))
    except KeyboardInterrupt as stop:
        raise Interrupted(
            "stopped: what is finished is kept; run the same command again to go on"
        ) from stop
    page = across.write(places[0] if places else _storage(None, root, endpoint_url), summary)
    if as_json:
        emit_json(summary)
    else:
        Terminal().print(across.table(summary))
        Terminal().print(summary["claim"], soft_wrap=True)
        Terminal().print(f"page: {page}", soft_wrap=True)
    if summary["num_failed"]:
        raise typer.Exit(1)


@app.command()
def publish(
    run: Annotated[str | None, typer.Argument(help="Run id.", show_default=False)] = None,
    force: Annotated[
        bool,
        typer.Option("--force", help="Although the gate refused it, or a newer night is current."),
    ] = False,
    reason: Annotated[str | None, typer.Option(help="Why; goes with --force.")] = None,
    rollback: Annotated[
        bool, typer.Option("--rollback", help="Back to the version before, or to that of --to.")
    ] = False,
    to: Annotated[str | None, typer.Option(help="Version; goes with --rollback.")] = None,
    name: NAME = "recommender",
    verify: VERIFY = False,
    root: ROOT = None,
    endpoint_url: ENDPOINT = None,
    as_json: AS_JSON = False,
) -> None:
    """Publish a run that has come to the gate, or roll back what is published.

    What the gate chose is published, by --force the augmented model that it refused. A night
    does not replace a newer one: it is kept as a version, and the command says so. --force
    replaces it all the same, for this once. A force, its reason and what the gate had said are
    recorded. Without --force an earlier force is taken back.

    --rollback points model --name to the version that was current before. It stays until a newer
    night is published; resuming an old one does not bring it back.

    Example: `llmaug publish 2026-01-31 --force --reason "agreed with the shop team, ticket 71"`,
    or `llmaug publish --rollback`
    """
    if force != (reason is not None):
        raise typer.BadParameter("--force and --reason go together")
    if rollback == (run is not None) or (rollback and force):
        raise typer.BadParameter("give a run to publish, or --rollback (without --force)")
    if to is not None and not rollback:
        raise typer.BadParameter("--to goes with --rollback")
    storage = _storage(None, root, endpoint_url)
    if run is None:
        return _roll_back(storage, name, to, as_json)
    from llmaug.commands.force import publish_run
    from llmaug.core.cluster import disconnect
    from llmaug.core.progress import Progress
    from llmaug.publish.stage import said

    console = Terminal(stderr=True)
    try:
        card = publish_run(storage, run, reason, lambda put: Progress(console, put), verify)
    finally:
        disconnect()
    if as_json:
        return emit_json(card)
    Terminal().print(said(card), soft_wrap=True)


def _roll_back(storage: Storage, name: str, to: str | None, as_json: bool) -> None:
    from llmaug.publish import pointer

    card = pointer.roll_back(storage, name, to)
    if as_json:
        return emit_json(card)
    Terminal().print(
        f"rolled back: {storage.uri(card['version'])} (arm {card['arm']}) is current, until a "
        "night is published that is newer than all before", soft_wrap=True,
    )  # fmt: skip


@app.command()
def recommend(
    user: Annotated[
        str | None, typer.Option(help="User id as in the logs; without it: everybody.")
    ] = None,
    k: Annotated[int, typer.Option(min=1, help="How many items.")] = 10,
    to: Annotated[
        str, typer.Option(help="Everybody: folder below the root, new or of an earlier time.")
    ] = "recommendations",
    name: NAME = "recommender",
    verify: VERIFY = False,
    root: ROOT = None,
    endpoint_url: ENDPOINT = None,
    as_json: AS_JSON = False,
) -> None:
    """Recommendations by the published model: for one user, or for all users in batch.

    Example: `llmaug recommend --user 196 --k 10`, or `llmaug recommend --k 20 --to tonight`
    """
    if user is None:
        return _recommend_all(_storage(None, root, endpoint_url), name, k, to, verify, as_json)
    from llmaug.publish.recommend import for_user

    answer = for_user(_storage(None, root, endpoint_url), name, user, k, verify)
    if as_json:
        return emit_json(answer)
    console = Terminal()
    if not answer["known_user"]:
        console.print(f"user {user} is not in the logs: what suits anyone", style="yellow")
    table = Table("#", "item", "title", "score", box=None)
    for row in answer["items"]:
        table.add_row(
            str(row["position"]), row["item_id"], row["title"] or "", f"{row['score']:.4f}"
        )
    console.print(table)
    console.print(f"model {answer['model']} (arm {answer['arm']})", style="dim")


def _recommend_all(
    storage: Storage, name: str, k: int, to: str, verify: bool, as_json: bool
) -> None:
    from llmaug.commands.recommend_all import recommend_all
    from llmaug.core.cluster import disconnect
    from llmaug.core.progress import Progress

    console = Terminal(stderr=True)
    try:
        done = recommend_all(
            storage, name, k, to, lambda publish: Progress(console, publish), verify
        )
    finally:
        disconnect()
    if as_json:
        return emit_json(done)
    Terminal().print(
        f"top {k} of {done['users']:,} users by {done['model']}, {done['users_per_s']:,.0f} users "
        f"a second and actor: {done['folder']}", soft_wrap=True,
    )  # fmt: skip


@app.command()
def score(
    pairs: Annotated[Path, typer.Option(help="CSV with columns user_id and item_id.")],
    name: NAME = "recommender",
    root: ROOT = None,
    endpoint_url: ENDPOINT = None,
    as_json: AS_JSON = False,
) -> None:
    """Score in (0, 1) of user-item pairs by the published model, as CSV.

    Example: `llmaug score --pairs pairs.csv`
    """
    import csv
    import io

    from llmaug.publish.recommend import read_pairs, score_pairs

    rows = score_pairs(_storage(None, root, endpoint_url), name, read_pairs(pairs))
    if as_json:
        return emit_json(rows)
    table = io.StringIO()
    writer = csv.DictWriter(table, list(rows[0]))
    writer.writeheader()
    writer.writerows(rows)
    emit(plain(table.getvalue()) if sys.stdout.isatty() else table.getvalue())


@app.command()
def ab(
    exposures: Annotated[
        str, typer.Option(help="File or folder (or s3://): user_id, variant, timestamp, item_id.")
    ],
    feedback: Annotated[
        str, typer.Option(help="The same: user_id, action, timestamp, item_id, value.")
    ],
    control: Annotated[str, typer.Option(help="Variant to compare with.")],
    treatment: Annotated[
        str | None, typer.Option(help="The other variant; needed where there are more than two.")
    ] = None,
    click: Annotated[list[str] | None, typer.Option(help="Action that is a click.")] = None,
    conversion: Annotated[
        list[str] | None, typer.Option(help="Action that is a conversion.")
    ] = None,
    score: Annotated[
        list[str] | None, typer.Option(help="Action whose value is a satisfaction score.")
    ] = None,
    window_hours: Annotated[
        float, typer.Option(help="Feedback counts so long after the exposure.")
    ] = 24.0,
    treatment_share: Annotated[
        float, typer.Option(help="Share of the users that was to get the treatment.")
    ] = 0.5,
    expected_lift: Annotated[
        float | None, typer.Option(help="State the power for this relative lift, e.g. 0.02.")
    ] = None,
    exposures_columns: COLUMNS = None,
    feedback_columns: COLUMNS = None,
    timestamp_unit: UNIT = None,
    endpoint_url: ENDPOINT = None,
    as_json: AS_JSON = False,
) -> None:
    """Read a live A/B test: lift of clicks, conversions and satisfaction, and whether to trust it.

    Files are Parquet, JSON lines or CSV, `.gz` too. --click, --conversion, --score and the column
    options may be repeated.

    Example: `llmaug ab --exposures logs/shown --feedback logs/done --control old --click click
    --score rate --feedback-columns value=stars`
    """
    from llmaug.live.ab import analyse
    from llmaug.live.experiment import Experiment
    from llmaug.live.tables import read_live
    from llmaug.schema import EXPOSURE, FEEDBACK

    experiment = Experiment(
        control=control,
        treatment=treatment,
        clicks=tuple(click or ()),
        conversions=tuple(conversion or ()),
        scores=tuple(score or ()),
        window_hours=window_hours,
        treatment_share=treatment_share,
        expected_lift=expected_lift,
    )
    how = {"timestamp_unit": timestamp_unit, "endpoint_url": endpoint_url}
    shown = read_live(exposures, "--exposures", EXPOSURE, exposures_columns, **how)
    said = read_live(feedback, "--feedback", FEEDBACK, feedback_columns, **how)
    result = analyse(shown.table, said.table, experiment)
    result["warnings"] += [*shown.warnings("exposures"), *said.warnings("feedback")]
    result["ledger"]["refused"] = {"exposures": shown.refused, "feedback": said.refused}
    if as_json:
        return emit_json(result)
    from llmaug.cli.live_summary import print_ab

    print_ab(Terminal(), result)


@app.command()
def counterfactual(
    log: Annotated[
        str,
        typer.Option(
            help="File or folder (or s3://): user_id, item_id, propensity, reward, new_probability;"
            " and for dr predicted_reward, expected_reward."
        ),
    ],
    clip: Annotated[
        float | None, typer.Option(help="Largest weight new_probability / propensity.")
    ] = None,
    log_columns: COLUMNS = None,
    endpoint_url: ENDPOINT = None,
    as_json: AS_JSON = False,
) -> None:
    """What a new policy would have earned, from a log with propensities: ips, snips, dr.

    Example: `llmaug counterfactual --log logs/shown.parquet --clip 50
    --log-columns new_probability=p_model_b`
    """
    from llmaug.live.counterfactual import estimate
    from llmaug.live.tables import read_live
    from llmaug.schema import LOGGED_CHOICE

    rows = read_live(log, "--log", LOGGED_CHOICE, log_columns, endpoint_url=endpoint_url)
    result = estimate(rows.table, clip=clip)
    result["warnings"] += rows.warnings("log")
    result["refused"] = rows.refused
    if as_json:
        return emit_json(result)
    from llmaug.cli.live_summary import print_counterfactual

    print_counterfactual(Terminal(), result)


@app.command()
def datasets(
    dataset: Annotated[str, typer.Argument(help="ml-100k")],
    to: Annotated[str, typer.Option(help="Folder or s3://bucket/prefix to write to.")],
    endpoint_url: ENDPOINT = None,
    max_users: Annotated[int | None, typer.Option(help="Only so many users.")] = None,
) -> None:
    """Write a public data set as an ordinary customer's logs.

    Example: `llmaug datasets ml-100k --to demo/logs`
    """
    from llmaug.commands.datasets import write_ml_100k

    if dataset != "ml-100k":
        raise UserError(f"no data set '{dataset}'; there is: ml-100k")
    counts = write_ml_100k(_one_place(to), endpoint_url=endpoint_url, max_users=max_users)
    Terminal().print(f"{to}: " + ", ".join(f"{value} {key}" for key, value in counts.items()))


@config_app.command("schema")
def schema() -> None:
    """JSON schema of the config: every field with its meaning and default.

    Example: `llmaug config schema > schema.json`
    """
    from llmaug.config import Config

    emit_json(Config.model_json_schema())


@config_app.command("check")
def check(config: CONFIG) -> None:
    """Read a config and print it whole, defaults filled in.

    Example: `llmaug config check --config configs/demo.yaml`
    """
    import yaml

    from llmaug.config import load_config

    emit(yaml.safe_dump(load_config(config).model_dump(mode="json"), sort_keys=False))


@app.command()
def doctor(root: ROOT = None, endpoint_url: ENDPOINT = None, as_json: AS_JSON = False) -> None:
    """What is installed, what storage allows, and how to mend what is wrong.

    Example: `llmaug doctor --root s3://my-bucket/llmaug`
    """
    from dataclasses import asdict

    from llmaug.commands.doctor import checks

    found = checks(_storage(None, root, endpoint_url))
    if as_json:
        emit_json([asdict(check) for check in found])
    else:
        table = Table("", "check", "found", "what to do", box=None)
        marks = {
            True: Text("ok", "green"),
            None: Text("note", "yellow"),
            False: Text("wrong", "red"),
        }
        for item in found:
            table.add_row(marks[item.ok], item.name, item.found, item.fix)
        Terminal().print(table)
    if any(check.ok is False for check in found):
        raise typer.Exit(1)


@app.callback(invoke_without_command=True)
def _version(
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    if version:
        emit(f"{__version__}\n")
        raise typer.Exit


def job(until: str, about: str | None) -> None:
    """Entry point of the scripts in jobs/: the options of `llmaug run`, `until` fixed."""

    def script(
        config: CONFIG,
        root: ROOT = None,
        endpoint_url: ENDPOINT = None,
        run_id: Annotated[
            str | None, typer.Option(help="Run folder; default: the config's name.")
        ] = None,
    ) -> None:
        run_job(config, root, endpoint_url, run_id, until)

    script.__doc__ = about
    single = typer.Typer(pretty_exceptions_enable=False, rich_markup_mode="markdown")
    single.command()(script)
    guarded(single)


def main() -> None:
    """Entry point: a UserError is printed without a traceback, exit code 1."""
    guarded(app)


def guarded(command: Any) -> None:
    """Call `command`; print what the user can mend in one line and exit with 1."""
    try:
        command()
    except Interrupted as stop:
        Terminal(stderr=True).print(str(stop), soft_wrap=True)
        sys.exit(130)
    except UserError as error:
        _say_error(str(error))
    except OSError as error:  # a disk, a network: the place and what it says
        place = f"{error.filename}: " if error.filename else ""
        _say_error(f"{place}{error.strerror or error}")


def _say_error(text: str) -> NoReturn:
    Terminal(stderr=True).print(Text.assemble(("error:", "red"), f" {text}"), soft_wrap=True)
    sys.exit(1)


def _storage(config: Config | None, root: str | None, endpoint_url: str | None) -> Storage:
    from llmaug.core.storage import Storage

    if config:
        root = root or config.storage.root
        endpoint_url = endpoint_url or config.storage.endpoint_url
    return Storage(_one_place(root or _DEFAULT_ROOT), endpoint_url)


def _one_place(root: str) -> str:
    if any(char in root for char in "*?["):
        raise UserError(f"{root}: a root is one folder, not a pattern of names; give its own name")
    return root
