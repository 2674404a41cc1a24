"""Writes and reads the package's tables.

A day's rows of a course replace those of the same day; those of other days stay.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import date
from typing import Any

import pandas as pd
import sqlalchemy as sa
from sqlalchemy import Connection
from sqlalchemy.dialects.postgresql import distinct_on

from grade_ml.core.database import copy_frame, read_frame
from grade_ml.early_warning.tables import intervention
from grade_ml.forecasting.contract import FORECASTS
from grade_ml.forecasting.tables import assignment_forecast, course_run


def replace(
    connection: Connection,
    table: sa.Table,
    courses: Collection[str],
    as_of: date,
    rows: pd.DataFrame,
) -> None:
    """Put `rows` in the place of what the table holds of `courses` and that day."""
    connection.execute(
        sa.delete(table).where(table.c.course_id.in_(sorted(courses)), table.c.as_of == as_of)
    )
    names = [column.name for column in table.columns]
    dates = [column.name for column in table.columns if isinstance(column.type, sa.Date)]
    if len(rows):
        typed = rows[names].assign(**{name: pd.to_datetime(rows[name]).dt.date for name in dates})
        copy_frame(connection, table.fullname, typed)


def read(
    connection: Connection, table: sa.Table, *conditions: sa.ColumnElement[bool]
) -> pd.DataFrame:
    """Return the rows of one of the tables that meet all conditions, in order of the key."""
    query = sa.select(table).where(*conditions).order_by(*table.primary_key)
    return _typed(connection, query, {column.name: column.type for column in table.columns})


def newest_forecasts(
    connection: Connection, assignments: Collection[str], since: date, until: date
) -> pd.DataFrame:
    """Return the columns `FORECASTS`, of each student and assignment the newest of those days."""
    column = assignment_forecast.c
    key = (column.section_id, column.student_id, column.assignment_id)
    query = (
        sa.select(*(column[name] for name in FORECASTS))
        .ext(distinct_on(*key))
        .where(
            column.assignment_id.in_(sorted(assignments)),
            column.as_of.between(since, until),
        )
        .order_by(*key, column.as_of.desc())
    )
    return _typed(connection, query, {name: column[name].type for name in FORECASTS})


def _typed(connection: Connection, query: sa.Select[Any], types: dict[str, Any]) -> pd.DataFrame:
    frame = read_frame(connection, query)
    texts = {name: "object" for name, kind in types.items() if isinstance(kind, sa.Text)}
    return frame.astype(texts)


def first_planned(connection: Connection, as_of: date) -> dict[tuple[str, str], date]:
    """Return by section and student the first day on which something was planned, up to `as_of`."""
    column = intervention.c
    rows = connection.execute(
        sa.select(column.section_id, column.student_id, sa.func.min(column.planned_on))
        .where(column.as_of <= as_of, column.planned_on.is_not(None))
        .group_by(column.section_id, column.student_id)
    )
    return {(section, student): day for section, student, day in rows}


def versions(connection: Connection, courses: Collection[str], as_of: date) -> dict[str, int]:
    """Return by which model's version each course was forecast on that day."""
    column = course_run.c
    rows = connection.execute(
        sa.select(column.course_id, column.model_version).where(
            column.course_id.in_(sorted(courses)), column.as_of == as_of
        )
    )
    return {row.course_id: row.model_version for row in rows}


@dataclass(frozen=True)
class CourseRun:
    """What a nightly run stored of its forecasts of one course.

    `degraded` gives the reasons why they are less than they could be, `origin` their records
    (`origin.origin_of`; `None` if not known).
    """

    as_of: date
    version: int
    degraded: tuple[str, ...]
    origin: str | None


def newest_run(connection: Connection, course: str, as_of: date) -> CourseRun | None:
    """Return the last run of a course up to `as_of`, or `None` if it was never forecast."""
    column = course_run.c
    row = connection.execute(
        sa.select(column.as_of, column.model_version, column.degraded, column.origin)
        .where(column.course_id == course, column.as_of <= as_of)
        .order_by(column.as_of.desc())
        .limit(1)
    ).one_or_none()
    return row and CourseRun(row.as_of, row.model_version, tuple(row.degraded), row.origin)
