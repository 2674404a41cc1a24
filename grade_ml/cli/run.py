"""`grade-ml run`: one of Dagster's jobs, in this process, with progress."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import click

from grade_ml.cli.up import providers_url, providers_variables
from grade_ml.core.errors import GradeMLError
from grade_ml.core.settings import Settings

if TYPE_CHECKING:
    from rich.console import Console

    from grade_ml.orchestration.running import RunReport, StepListener

#: Of an asset's figures, those that a summary shows; `--json` has all of them.
_HEADLINES = ("model_version", "all_rmse", "all_mae", "all_coverage80", "all_auc", "all_brier")


@click.command("run")
@click.argument("job")
@click.option(
    "--course",
    "courses",
    multiple=True,
    metavar="ID",
    help="Only this course; repeat for several. Without it: all courses of the gradebook.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the summary as JSON.")
def command(job: str, courses: tuple[str, ...], as_json: bool) -> None:
    """Run JOB now, in this process, and wait for it.

    JOB is train_traditional_models (features, baseline, predictions), refresh_gradebook (checks
    and features only), generate_time_series_forecasts (every remaining score), load_inbox (what has
    been delivered), sync_gradebook (what changed on the OneRoster server) or collect_external_data
    (the world around, today). The run appears in the Dagster UI like any
    other.
    """
    from rich.console import Console

    from grade_ml.orchestration.instance import open_instance
    from grade_ml.orchestration.running import run_job

    settings = Settings.from_environment()
    _join_demo(settings)
    with open_instance(settings) as instance, _progress(Console(stderr=True)) as on_step:
        report = run_job(settings, instance, job, courses, on_step)
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


def _join_demo(settings: Settings) -> None:
    """Ask the same simulated providers as a running `up --demo`, unless any are set here."""
    url = providers_url(settings.home)
    if url is not None:
        os.environ |= providers_variables(url)


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
        console.print(f"Check failed: {warning}", style="yellow")
    courses = f", {report.courses} courses" if report.courses else ""
    console.print(f"{report.job}{courses}: {report.seconds:.1f} s")
