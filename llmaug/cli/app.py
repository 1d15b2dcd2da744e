"""The `llmaug` command, one file a command. Heavy imports stay inside the commands: --help answers
at once."""

from __future__ import annotations

import sys
from typing import Annotated, Any, NoReturn

import typer
from rich.text import Text

from llmaug import __version__
from llmaug.cli import (
    ab,
    config,
    counterfactual,
    datasets,
    doctor,
    evaluate,
    forecast,
    forget,
    gc,
    influence,
    jobs,
    plan_cluster,
    publish,
    recommend,
    report,
    retry_failed,
    run,
    score,
    status,
    trace,
    tune,
)
from llmaug.cli.options import CONFIG, DATE, ENDPOINT, LOG_JSON, ROOT, RUN_ID, WAIT
from llmaug.cli.schema import print_schema
from llmaug.core.terminal import Terminal, emit
from llmaug.errors import Interrupted, UserError

app = typer.Typer(
    help="Language-model augmentation for recommenders: from logs to a published model.",
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
)
config_app = typer.Typer(help="Look at the configuration.", no_args_is_help=True)
app.add_typer(config_app, name="config")
app.command("schema")(print_schema)

app.command()(run.run)
app.command()(jobs.submit)
app.command()(status.status)
app.command()(jobs.logs)
app.command()(jobs.stop)
app.command()(report.report)
app.command()(forecast.forecast)
app.command("plan-cluster")(plan_cluster.plan_cluster)
app.command()(tune.tune)
app.command("retry-failed")(retry_failed.retry_failed)
app.command()(evaluate.evaluate)
app.command()(publish.publish)
app.command()(gc.gc)
app.command()(recommend.recommend)
app.command()(score.score)
app.command()(ab.ab)
app.command()(counterfactual.counterfactual)
app.command()(datasets.datasets)
app.command()(trace.trace)
app.command()(influence.influence)
app.command()(forget.forget)
config_app.command("schema")(config.schema)
config_app.command("check")(config.check)
app.command()(doctor.doctor)


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
        run_id: RUN_ID = None,
        date: DATE = None,
        wait: WAIT = "0m",
        log_json: LOG_JSON = False,
    ) -> None:
        run.run_job(
            config, root, endpoint_url, run_id, until, date=date, wait=wait, log_json=log_json
        )

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
