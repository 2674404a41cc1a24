"""`grade-ml load`: loads records from one of four sources into the gradebook; prints changes."""

from __future__ import annotations

import json
from datetime import date, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from grade_ml.cli.help import Group, example, prose
from grade_ml.cli.parameters import DAY, Number, pass_clock, settings_at
from grade_ml.cli.progress import Steps
from grade_ml.core import database
from grade_ml.core.clock import Clock
from grade_ml.core.settings import Settings
from grade_ml.core.texts import terminal

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy import Engine

    from grade_ml.gradebook.bundle import Bundle
    from grade_ml.gradebook.loading import LoadReport, Progress

_as_json = click.option("--json", "as_json", is_flag=True, help="Print the summary as JSON.")
_path = click.Path(path_type=Path)


@click.group(cls=Group, epilog=example("grade-ml load csv records"))
def command() -> None:
    """Load records into the gradebook.

    Loading again changes only what differs; nothing is removed unless the source requires it. Rows
    that cannot be right are stored in the table gradebook.quarantine with file, row, column, value
    and reason; the others are loaded. A file that cannot be read leaves the gradebook as it was.
    """


@command.command(epilog=example("grade-ml load oulad downloads/oulad --shift-to-today"))
@click.argument("folder", type=_path)
@click.option(
    "--shift-to-today",
    is_flag=True,
    help="Shift all dates by one whole number of days so that the newest presentations are half "
    "over today. What has not happened by today is left out: later submissions, activity, "
    "registrations and withdrawals, and the outcomes of presentations that still run.",
)
@_as_json
@pass_clock
def oulad(clock: Clock, folder: Path, shift_to_today: bool, as_json: bool) -> None:
    """Load a folder of the Open University Learning Analytics Dataset.

    The files may be plain or gzipped (.csv or .csv.gz); studentVle and vle may be missing.
    """
    from grade_ml.gradebook import oulad as source

    settings = settings_at(clock)
    today = settings.date_at(clock.now()) if shift_to_today else None
    _load(settings, clock, source.bundle(folder, today), as_json)


@command.command(epilog=example("grade-ml load oneroster export.zip"))
@click.argument("path", type=_path)
@click.option(
    "--allow-vanishing",
    is_flag=True,
    help="Load a bulk delivery however many of the known records it leaves out; without this "
    "option, it may leave out at most GRADE_ML_VANISHING_SHARE (30%).",
)
@_as_json
@pass_clock
def oneroster(clock: Clock, path: Path, allow_vanishing: bool, as_json: bool) -> None:
    """Load OneRoster 1.1 or 1.2 CSV: a zip file or a folder, bulk or delta.

    The manifest states which files are bulk and which delta. A delta removes the rows that it marks
    tobedeleted. A bulk file is complete: enrollments that it leaves out end today, line items and
    results are withdrawn. These files are read: academicSessions, courses, classes, users, roles,
    demographics, enrollments (role student), categories, lineItems, results and scoreScales.
    """
    from grade_ml.gradebook import institution
    from grade_ml.gradebook import oneroster as source

    settings = settings_at(clock)
    bundle = source.bundle(
        path,
        settings.date_at(clock.now()),
        institution.read(settings.institution),
        vanishing_share=1.0 if allow_vanishing else settings.vanishing_share,
    )
    _load(settings, clock, bundle, as_json)


@command.command("csv", epilog=example("grade-ml load csv records"))
@click.argument("folder", type=_path)
@_as_json
@pass_clock
def csv_folder(clock: Clock, folder: Path, as_json: bool) -> None:
    """Load a folder with one CSV file per table of the gradebook.

    The files: students, terms, courses, sections, enrollments, assignments, results (.csv or
    .csv.gz), and activity if there is any; the column names are those of the gradebook's tables.
    Scores are per cent of the maximum. Further columns of students and enrollments become their
    attributes. A file may be left out once the gradebook has rows of its table.
    """
    from grade_ml.gradebook import csv_folder as source
    from grade_ml.gradebook import institution

    settings = settings_at(clock)
    bundle = source.bundle(folder, institution.read(settings.institution))
    _load(settings, clock, bundle, as_json)


@command.command(epilog=example("grade-ml load simulated --students 600 --courses 8 --seed 1"))
@click.option(
    "--students",
    default=600,
    show_default=True,
    type=click.IntRange(1),
    help="Students over all terms.",
)
@click.option(
    "--courses",
    default=8,
    show_default=True,
    type=click.IntRange(1),
    help="Courses, each with sections in every term.",
)
@click.option(
    "--terms",
    default=5,
    show_default=True,
    type=click.IntRange(1),
    help="Terms, of which the newest runs today.",
)
@click.option(
    "--seed",
    default=0,
    show_default=True,
    type=click.IntRange(0),
    help="Another seed gives another campus.",
)
@click.option(
    "--grading-shift",
    nargs=2,
    type=(Number(-100, 100), DAY),
    metavar="POINTS DATE",
    help="Grade differently from a date on, as -15 2026-10-20: a drift to be detected.",
)
@click.option(
    "--help-works",
    type=Number(0, 1),
    metavar="SHARE",
    help="Let planned interventions help: from then on, the student hands in this share of what "
    "would have been missed. Without this option, planned interventions have no effect.",
)
@_as_json
@pass_clock
def simulated(  # noqa: PLR0913, PLR0917 - one for each option
    clock: Clock,
    students: int,
    courses: int,
    terms: int,
    seed: int,
    grading_shift: tuple[float, date] | None,
    help_works: float | None,
    as_json: bool,
) -> None:
    """Load a simulated campus, whose newest term runs today.

    The same numbers and the same day give the same campus. On a later day the same numbers add
    what has happened since; other numbers are for an empty gradebook, since they would mix two
    campuses. The truth behind the records (abilities, effects) is written below the storage root,
    into the folder simulated.
    """
    from grade_ml.campus.simulated import CampusConfig, Drift, DriftKind, Help, load_campus
    from grade_ml.core.database import reachable
    from grade_ml.early_warning.store import first_planned

    settings = settings_at(clock)
    drift = (
        Drift(grading_shift[1], DriftKind.GRADING_POLICY, grading_shift[0])
        if grading_shift
        else None
    )
    config = CampusConfig(students=students, courses=courses, terms=terms, seed=seed, drift=drift)

    def store(engine: Engine, now: datetime, progress: Progress) -> LoadReport:
        help_ = None
        if help_works is not None:
            with reachable(engine) as connection:
                help_ = Help(first_planned(connection, settings.date_at(now)), help_works)
        return load_campus(engine, settings, config, help_, loaded_at=now, on_progress=progress)

    _run(settings, clock, store, as_json)


def _load(settings: Settings, clock: Clock, bundle: Bundle, as_json: bool) -> None:
    from grade_ml.gradebook.loading import load

    def store(engine: Engine, now: datetime, progress: Progress) -> LoadReport:
        return load(engine, bundle, loaded_at=now, on_progress=progress)

    _run(settings, clock, store, as_json)


def _run(
    settings: Settings,
    clock: Clock,
    store: Callable[[Engine, datetime, Progress], LoadReport],
    as_json: bool,
) -> None:
    from grade_ml.gradebook import institution
    from grade_ml.gradebook.plausibility import with_findings

    with Steps() as progress:
        progress("Preparing the database")
        engine = database.migrated(database.start(settings).grade_ml)
        now = clock.now()
        report = store(engine, now, progress)
        progress("Checking the grades")
        decided = institution.read(settings.institution)
        report = with_findings(engine, report, settings.date_at(now), decided)
        engine.dispose()
    if as_json:
        click.echo(json.dumps(_as_dict(report)))
    else:
        _print(report)


def _as_dict(report: LoadReport) -> dict[str, Any]:
    from dataclasses import asdict

    return {
        **asdict(report),
        "quarantined": report.quarantined,
        "changed": report.changed,
    }


def _print(report: LoadReport) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console()
    if report.loaded or report.removed or report.rejected:
        table = Table("table", title=f"Loaded from {report.source}")
        for name in ("loaded", "unchanged", "removed", "quarantined"):
            table.add_column(name, justify="right")
        for name in {**report.loaded, **report.removed, **report.rejected}:
            counts = (report.loaded, report.unchanged, report.removed, report.rejected)
            table.add_row(name, *(f"{c.get(name, 0):,}" for c in counts))
        console.print(table)
    if not report.changed:
        console.print("Nothing changed: the gradebook already held all of this.")
    for note in report.notes:
        console.print(terminal(note))
    if report.quarantined:
        console.print(
            f"{report.quarantined:,} rows are in quarantine ({report.newly_rejected:,} "
            "problems are new); correct them in the source and load again. The first of them:"
        )
        for problem in report.problems:
            click.echo(prose(f"- {problem}"))
        console.print(
            "All, with hidden values: select * from gradebook.quarantine.", highlight=False
        )
