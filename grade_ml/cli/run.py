"""`grade-ml run`: one of Dagster's jobs, in this process, with progress."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from textwrap import fill
from typing import TYPE_CHECKING

import click

from grade_ml.cli.parameters import IDENTIFIER, pass_clock
from grade_ml.cli.up import providers_url
from grade_ml.core.clock import Clock
from grade_ml.core.errors import GradeMLError
from grade_ml.core.settings import Settings
from grade_ml.core.texts import terminal
from grade_ml.orchestration.job_descriptions import JOB_DESCRIPTIONS

if TYPE_CHECKING:
    from dagster import DagsterRun
    from rich.console import Console

    from grade_ml.external.settings import ExternalSettings
    from grade_ml.gradebook.rest.settings import OneRosterSettings
    from grade_ml.orchestration.running import RunReport, StepListener

#: Of an asset's figures, those that a summary shows; `--json` has all of them.
_HEADLINES = ("model_version", "all_rmse", "all_mae", "all_coverage80", "all_auc", "all_brier")


def _job(name: str) -> str:
    """Return the name and the description as two or three lines, which click leaves as they are."""
    told = fill(JOB_DESCRIPTIONS[name], 76, initial_indent="  ", subsequent_indent="  ")
    return f"{name}\n{told}\n"


#: Dagster writes down within a second or two that a step was interrupted.
_INSIST_SECONDS = 5


_HELP = f"""Run JOB now, in this process, and wait for it.

The run appears in the Dagster UI like any other. The jobs:

\b
{"".join(map(_job, sorted(JOB_DESCRIPTIONS)))}"""


@click.command("run", help=_HELP)
@click.argument("job", type=IDENTIFIER)
@click.option(
    "--course",
    "courses",
    type=IDENTIFIER,
    multiple=True,
    metavar="ID",
    help="Only this course; repeat for several. Without it: all courses of the gradebook.",
)
@click.option(
    "--wait",
    "wait_minutes",
    type=click.FloatRange(0),
    default=60,
    show_default=True,
    metavar="MINUTES",
    help="How long to wait while another run trains; 0: not at all.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the summary as JSON.")
@pass_clock
def command(
    clock: Clock, job: str, courses: tuple[str, ...], wait_minutes: float, as_json: bool
) -> None:
    """Do what the help says."""
    from rich.console import Console

    from grade_ml.orchestration.build import build_defs
    from grade_ml.orchestration.instance import open_instance
    from grade_ml.orchestration.running import Follower, run_job

    settings = Settings.from_environment()
    definitions = build_defs(settings, *_providers(settings), clock=clock)
    console = Console(stderr=True)
    with (
        _interruptible(job),
        open_instance(settings) as instance,
        _progress(console) as on_step,
    ):
        follower = Follower(on_step, lambda run: _tell(console, run, wait_minutes), wait_minutes)
        report = run_job(
            settings, instance, job, courses, follower, definitions=definitions, clock=clock
        )
    if as_json:
        click.echo(json.dumps(report.to_dict()))
    else:
        _print_summary(Console(), report)
    if not report.success:
        raise GradeMLError(
            f"The job {job} failed: "
            + " ".join(f"{step}: {reason}" for step, reason in report.failures.items()),
            "The run's page in the Dagster UI has the whole log.",
        )


@contextmanager
def _interruptible(job: str) -> Iterator[None]:
    """End with the status of the signal (130, 143) after SIGINT and SIGTERM."""
    # While it computes, Dagster has handlers of its own, which do not tell the two apart.
    received, wake = os.pipe()
    os.set_blocking(wake, False)
    signal.set_wakeup_fd(wake)
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    numbers: list[int] = []
    ended = threading.Event()

    def insist() -> None:
        """Repeat a signal until it counts: one that falls into a library's callback is lost."""
        if number := os.read(received, 1):  # nothing at the end
            numbers.append(number[0])
            while not ended.wait(_INSIST_SECONDS):
                os.kill(os.getpid(), number[0])

    def stop() -> None:
        if not ended.is_set():
            ended.set()
            signal.set_wakeup_fd(-1)
            os.close(wake)
            insisting.join()
            os.close(received)

    insisting = threading.Thread(target=insist, daemon=True)
    insisting.start()
    try:
        yield
    except KeyboardInterrupt:
        stop()
        # There is none where the run was canceled in the UI.
        number = numbers[0] if numbers else int(signal.SIGINT)
        click.echo(f"The job {job} was interrupted; it is recorded as canceled.", err=True)
        sys.exit(128 + number)
    finally:
        stop()
        signal.signal(signal.SIGTERM, before)


def _tell(console: Console, run: DagsterRun, minutes: float) -> None:
    console.print(
        f"Waiting for the run {run.run_id} ({run.job_name}), which trains; {minutes:g} minutes at "
        "most. Ctrl-C ends the wait.",
        markup=False,
        soft_wrap=True,
    )


def _providers(settings: Settings) -> tuple[ExternalSettings, OneRosterSettings]:
    """Return whom to ask: as set, else the same simulated providers as a running `up --demo`."""
    from grade_ml.campus.providers import oneroster
    from grade_ml.external.settings import ExternalSettings
    from grade_ml.gradebook.rest.settings import PREFIX, OneRosterSettings

    external, server = ExternalSettings.from_environment(), OneRosterSettings.from_environment()
    url = providers_url(settings.home)
    if url and not external.model_fields_set:
        external = ExternalSettings(providers_url=url)
    if url and not server.model_fields_set:
        said = oneroster.settings(url).items()
        server = OneRosterSettings.model_validate(
            {name.removeprefix(PREFIX).lower(): value for name, value in said}
        )
    return external, server


@contextmanager
def _progress(console: Console) -> Iterator[StepListener]:
    """Show each step with its time while it runs, and how it ended."""
    from rich.progress import Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn

    colours = {"finished": "green", "failed": "red", "skipped": "yellow"}
    columns = (SpinnerColumn(finished_text=" "), TextColumn("{task.description}"))
    with Progress(*columns, TimeElapsedColumn(), console=console) as bar:
        tasks: dict[str, TaskID] = {}

        def on_step(step: str, state: str) -> None:
            if state == "started":
                tasks[step] = bar.add_task(step, total=None)
                return
            task = tasks.pop(step) if step in tasks else bar.add_task(step)
            bar.update(task, description=f"{step} [{colours[state]}]{state}", total=1, completed=1)

        yield on_step


def _print_summary(console: Console, report: RunReport) -> None:
    from rich.table import Table

    table = Table("asset", "partitions", "rows", "seconds", "", box=None)
    for asset in report.assets:
        shown = {name: asset.figures[name] for name in _HEADLINES if name in asset.figures}
        figures = ", ".join(f"{name} {value:.4g}" for name, value in shown.items())
        table.add_row(
            asset.asset,
            str(asset.partitions or "-"),
            f"{asset.rows:,}",
            f"{asset.seconds:.1f}",
            figures,
        )
    console.print(table)
    for warning in report.warnings:
        console.print(terminal(f"Check failed: {warning}"), style="yellow")
    courses = f", {report.courses} courses" if report.courses else ""
    console.print(f"{report.job}{courses}: {report.seconds:.1f} s")
