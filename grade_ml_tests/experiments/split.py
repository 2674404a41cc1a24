"""A split on a gradebook made by hand: two courses, in one of which acting helps."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import date, timedelta

import pandas as pd
from sqlalchemy import Engine

from grade_ml.core.settings import Settings
from grade_ml.early_warning import store as risk_store
from grade_ml.early_warning import tables as risk_tables
from grade_ml.early_warning.risk_periods import PERIODS, Driver
from grade_ml.gradebook.frames import Gradebook
from grade_ml.registry.workspace import Workspace
from grade_ml_tests.features.records import START, enrolled, gradebook, section, students, work
from grade_ml_tests.forecasting.campus import workspace

NAMES = [f"s{n:02}" for n in range(40)]
#: Days of the sections on which each is due.
DUE = (10, 30, 50, 70)


def on(number: int) -> date:
    """Return the date of a day of the sections."""
    return START.date() + timedelta(days=number)


def book(results: Iterable[dict[str, object]] = (), names: Iterable[str] = NAMES) -> Gradebook:
    """Return everybody in `math`, and the first half also in `art`."""
    names = list(names)
    sex = {name: f'{{"gender": "{"FM"[n % 2]}"}}' for n, name in enumerate(names)}
    courses = {"math": names, "art": names[: len(names) // 2]}
    return gradebook(
        students=students(*names, **sex),
        terms=[{"term_id": "t", "starts_on": START, "ends_on": START + pd.Timedelta(days=100)}],
        courses=[{"course_id": name} for name in courses],
        sections=[section(f"{name}-1", 0, 100, course=name) for name in courses],
        enrollments=[
            enrolled(member, f"{name}-1") for name, members in courses.items() for member in members
        ],
        assignments=[
            work(f"{name}-{due}", due, 25, f"{name}-1") for name in courses for due in DUE
        ],
        results=list(results),
    )


@contextmanager
def at(engine: Engine, settings: Settings, number: int) -> Iterator[Workspace]:
    """Open a workspace on a day of the sections."""
    with workspace(engine, settings, on(number)) as opened:
        yield opened


def put_at_risk(day_workspace: Workspace, course: str, names: Iterable[str]) -> None:
    """Store a risk period of the day for each of the students."""
    rows = [
        {
            "course_id": course,
            "section_id": f"{course}-1",
            "student_id": name,
            "as_of": day_workspace.as_of,
            "start_week": 4,
            "end_week": 5,
            "starts_on": day_workspace.as_of,
            "weeks_ahead": 0,
            "severity": 0.9,
            "below_pass_probability": 0.9,
            "missed_probability": 0.5,
            "driver": str(Driver.WORK_DUE),
        }
        for name in names
    ]
    frame = pd.DataFrame(rows, columns=list(PERIODS))
    risk_store.replace(
        day_workspace.connection, risk_tables.risk_period, [course], day_workspace.as_of, frame
    )
