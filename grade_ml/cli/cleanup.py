"""`grade-ml cleanup`: removes what is outdated, as the jobs for data and for models do."""

from __future__ import annotations

import json
from contextlib import closing
from typing import TYPE_CHECKING

import click

from grade_ml.cli.help import example
from grade_ml.cli.parameters import pass_clock, settings_at
from grade_ml.core.clock import Clock
from grade_ml.core.errors import GradeMLError
from grade_ml.core.settings import RetentionSettings
from grade_ml.core.texts import terminal

if TYPE_CHECKING:
    from grade_ml.maintenance.cleaning import Report


@click.command("cleanup", epilog=example("grade-ml cleanup --dry-run", "grade-ml cleanup data"))
@click.argument("what", type=click.Choice(["data", "models"]), required=False)
@click.option("--dry-run", is_flag=True, help="Remove nothing; list what would be removed.")
@click.option("--force", is_flag=True, help="Remove even if nothing of a kind would be left.")
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON.")
@pass_clock
def command(clock: Clock, what: str | None, dry_run: bool, force: bool, as_json: bool) -> None:
    """Remove what is outdated: data (rows, files, runs), models, or both by default.

    docs/operations.md lists what is kept, and for how long.
    """
    from grade_ml.orchestration import cleanup
    from grade_ml.orchestration.instance import open_instance
    from grade_ml.orchestration.resources import Platform

    settings, retention = settings_at(clock), RetentionSettings.from_environment()
    reports: dict[str, Report] = {}
    with open_instance(settings) as instance, closing(Platform(settings, clock)) as platform:
        if what in (None, "data"):
            reports["data"] = cleanup.clean_data(
                platform, instance, retention, dry_run=dry_run, force=force
            )
        if what in (None, "models"):
            reports["models"] = cleanup.clean_models(
                platform, retention, dry_run=dry_run, force=force
            )
    if as_json:
        click.echo(json.dumps({name: report.to_dict() for name, report in reports.items()}))
    else:
        for name, report in reports.items():
            _print(name, report)
    problems = [problem for report in reports.values() for problem in report.problems]
    if problems:
        raise GradeMLError(" ".join(problems))


def _print(name: str, report: Report) -> None:
    from rich import filesize
    from rich.console import Console
    from rich.table import Table

    columns = (f"{name}: kind", "outdated", "size", "kept", "removed", "freed", "reusable")
    table = Table(*columns, box=None)
    for part in report.parts:
        outdated, freed = part.found, part.freed
        if outdated is None or not outdated.count:
            continue
        table.add_row(
            terminal(part.kind),
            f"{outdated.count:,}",
            filesize.decimal(outdated.bytes),
            f"{outdated.kept:,}",
            f"{freed.count:,}" if freed else "-",
            filesize.decimal(freed.freed) if freed else "-",
            filesize.decimal(freed.reusable) if freed else "-",
        )
    console = Console()
    if table.row_count:
        console.print(table)
    else:
        console.print(f"{name}: nothing is outdated.")
