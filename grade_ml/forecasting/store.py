"""Writes and reads the package's tables.

A day's forecasts of a course replace those of the same day; those of other days stay. No foreign
key ties them to the gradebook, whose loader may replace an enrollment at any time.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from datetime import date
from typing import Any

import pandas as pd
import sqlalchemy as sa
from sqlalchemy import Connection
from sqlalchemy.dialects.postgresql import insert

from grade_ml.core.database import copy_frame, read_frame
from grade_ml.forecasting.contract import ACTIVITY, FORECASTS, Forecasts
from grade_ml.forecasting.tables import (
    activity_forecast,
    assignment_forecast,
    course_run,
    trajectory_model,
)


def write(  # noqa: PLR0913, PLR0917
    connection: Connection,
    courses: Collection[str],
    as_of: date,
    forecasts: Forecasts,
    version: int,
    origins: Mapping[str, str | None],
) -> None:
    """Replace the forecasts of `courses` for that day.

    Parameters
    ----------
    forecasts
        Forecasts of running sections of `courses`.
    version
        The model's.
    origins
        By course, the mark of the records from which the features were made (`origin.origin_of`).
    """
    of_section = forecasts.forecasts.drop_duplicates("section_id").set_index("section_id")[
        "course_id"
    ]
    activity = forecasts.activity[forecasts.activity["section_id"].isin(of_section.index)]
    activity = activity.assign(course_id=activity["section_id"].map(of_section), as_of=as_of)
    frames = {assignment_forecast: forecasts.forecasts, activity_forecast: activity}
    for table in (*frames, course_run):
        connection.execute(
            sa.delete(table).where(table.c.course_id.in_(sorted(courses)), table.c.as_of == as_of)
        )
    for table, frame in frames.items():
        names = [column.name for column in table.columns]
        rows = frame[names].astype({"as_of": "datetime64[ns]"})
        copy_frame(connection, table.fullname, rows.assign(as_of=rows["as_of"].dt.date))
    sizes = forecasts.forecasts["course_id"].value_counts()
    connection.execute(
        sa.insert(course_run),
        [
            {"course_id": course, "as_of": as_of, "model_version": version}
            | {"forecasts": int(sizes.get(course, 0)), "nothing": forecasts.nothing.get(course, "")}
            | {"fallbacks": dict(forecasts.fallbacks), "origin": origins[course]}
            | {"degraded": [*forecasts.degraded, *forecasts.degraded_of.get(course, ())]}
            for course in sorted(courses)
        ],
    )


def read_forecasts(
    connection: Connection,
    as_of: date,
    *,
    courses: Collection[str] | None = None,
    student: str | None = None,
) -> pd.DataFrame:
    """Return the columns `FORECASTS` of the forecasts of that very day, in order of the key."""
    return _read(connection, assignment_forecast, FORECASTS, as_of, courses, student)


def read_activity(
    connection: Connection,
    as_of: date,
    *,
    courses: Collection[str] | None = None,
    student: str | None = None,
) -> pd.DataFrame:
    """Return the columns `ACTIVITY` of the forecasts of that very day, in order of the key."""
    return _read(connection, activity_forecast, ACTIVITY, as_of, courses, student)


def _read(  # noqa: PLR0913, PLR0917
    connection: Connection,
    table: sa.Table,
    columns: Mapping[str, tuple[Any, ...]],
    as_of: date,
    courses: Collection[str] | None,
    student: str | None,
) -> pd.DataFrame:
    query = sa.select(*(table.c[name] for name in columns)).where(table.c.as_of == as_of)
    if courses is not None:
        query = query.where(table.c.course_id.in_(sorted(courses)))
    if student is not None:
        query = query.where(table.c.student_id == student)
    frame = read_frame(connection, query.order_by(*table.primary_key))
    return frame.astype({name: kind[0] for name, kind in columns.items()})


def newest_model(connection: Connection, as_of: date) -> tuple[int, Mapping[str, int]] | None:
    """Return version and section hashes of the newest model that knows nothing after `as_of`."""
    column = trajectory_model.c
    row = connection.execute(
        sa.select(column.version, column.sections)
        .where(column.as_of <= as_of)
        .order_by(column.as_of.desc(), column.version.desc())
        .limit(1)
    ).one_or_none()
    return None if row is None else (row.version, row.sections)


def models_by_merit(connection: Connection, as_of: date) -> list[tuple[int, bool]]:
    """Return the models that know nothing after the day: version, and whether it may serve.

    Those that may come first, and among them the newest.
    """
    column = trajectory_model.c
    rows = connection.execute(
        sa.select(column.version, column.accepted)
        .where(column.as_of <= as_of)
        .order_by(column.accepted.desc(), column.as_of.desc(), column.version.desc())
    )
    return [(row.version, row.accepted) for row in rows]


def remember_model(
    connection: Connection,
    version: int,
    as_of: date,
    sections: Mapping[str, int],
    *,
    accepted: bool,
) -> None:
    """Write down a model, what it was fitted on, and whether its verdicts let it serve."""
    row = {"version": version, "as_of": as_of, "sections": dict(sections), "accepted": accepted}
    connection.execute(insert(trajectory_model).values(row))
