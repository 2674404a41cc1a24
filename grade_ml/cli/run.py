"""`grade-ml run`: runs one of Dagster's jobs in this process, and shows progress."""

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

from grade_ml.cli.help import example
from grade_ml.cli.parameters import IDENTIFIER, Number, pass_clock, settings_at
from grade_ml.core.clock import Clock
from grade_ml.core.errors import GradeMLError
from grade_ml.core.quantities import title
from grade_ml.core.settings import Settings
from grade_ml.core.texts import terminal
from grade_ml.orchestration.job_descriptions import JOB_DESCRIPTIONS, require_job

if TYPE_CHECKING:
    from dagster import DagsterRun
    from rich.console import Console

    from grade_ml.orchestration.running import RunReport, StepListener

#: Of an asset's figures, those that a summary shows; `--json` has all of them.
_HEADLINES = [
    title(name) for name in ("model_version", "rmse", "mae", "coverage80", "auc", "brier")
]


def _job(name: str) -> str:
    """Return the name and the description as two or three lines, which click does not wrap."""
    description = fill(JOB_DESCRIPTIONS[name], 76, initial_indent="  ", subsequent_indent="  ")
    return f"{name}\n{description}\n"


#: Dagster records within a second or two that a step was interrupted.
_INSIST_SECONDS = 5


_HELP = f"""Run JOB now, in this process, and wait for it.

The run appears in the Dagster UI like any other. The jobs:

\b
{"".join(map(_job, sorted(JOB_DESCRIPTIONS)))}"""


@click.command(
    "run",
    help=_HELP,
    epilog=example(
        "grade-ml run train_traditional_models",
        "grade-ml run generate_time_series_forecasts --course MATH101",
    ),
)
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
    type=Number(0),
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
    """Run the job as the help describes."""
    require_job(job, courses)
    settings = settings_at(clock)
    _require_courses(settings, courses)
    from rich.console import Console

    from grade_ml.orchestration.build import build_defs
    from grade_ml.orchestration.instance import open_instance
    from grade_ml.orchestration.providers import providers_of
    from grade_ml.orchestration.running import Follower, run_job

    definitions = build_defs(settings, *providers_of(settings), clock=clock)
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
            f"The job {job} failed. {' '.join(report.causes)}",
            "See the whole log on the run's page in the Dagster UI." if report.defects else "",
        )


def _require_courses(settings: Settings, courses: tuple[str, ...]) -> None:
    """Refuse unknown courses before Dagster is imported, which takes seconds."""
    if not courses:
        return
    from grade_ml.core import database
    from grade_ml.gradebook.catalog import course_ids, require_courses

    gradebook = database.migrated(database.start(settings).grade_ml)
    try:
        with database.reachable(gradebook) as connection:
            require_courses(courses, course_ids(connection))
    finally:
        gradebook.dispose()


@contextmanager
def _interruptible(job: str) -> Iterator[None]:
    """End with the status of the signal (130, 143) after SIGINT and SIGTERM."""
    # While a step computes, Dagster's own handlers do not distinguish the two signals.
    received, wake = os.pipe()
    os.set_blocking(wake, False)
    signal.set_wakeup_fd(wake)
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    numbers: list[int] = []
    ended = threading.Event()

    def insist() -> None:
        """Repeat a signal until it takes effect: during a library's callback it is lost."""
        if number := os.read(received, 1):  # empty at the end
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
    except KeyboardInterrupt as interruption:
        stop()
        # There is no signal if the run was canceled in the UI.
        number = numbers[0] if numbers else int(signal.SIGINT)
        words = "; ".join((f"The job {job} was interrupted", *interruption.args))
        click.echo(f"{words}.", err=True)
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


@contextmanager
def _progress(console: Console) -> Iterator[StepListener]:
    """Show each step with its time and state in a terminal; elsewhere print a line for each."""
    if not console.is_terminal:
        yield lambda step, state: click.echo(f"{step} {state}", err=True)
        return
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
    courses = f", {report.courses} course{'s' * (report.courses != 1)}" if report.courses else ""
    console.print(f"{report.job}{courses}: {report.seconds:.1f} s")
