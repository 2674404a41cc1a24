"""The room's tables: forecasts by day, what each run said, and which models there are.

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
from sqlalchemy.dialects.postgresql import JSONB, insert

from grade_ml.core.database import copy_frame, read_frame
from grade_ml.core.policy import TablePolicy
from grade_ml.forecasting.contract import ACTIVITY, FORECASTS, Forecasts

metadata = sa.MetaData(schema="forecasts")


def _number(name: str, comment: str) -> sa.Column[float]:
    return sa.Column(name, sa.Double, nullable=False, comment=comment)


assignment_forecast = sa.Table(
    "assignment_forecast",
    metadata,
    sa.Column("section_id", sa.Text, primary_key=True),
    sa.Column("student_id", sa.Text, primary_key=True),
    sa.Column("assignment_id", sa.Text, primary_key=True),
    sa.Column("as_of", sa.Date, primary_key=True),
    sa.Column("course_id", sa.Text, nullable=False),
    sa.Column("horizon", sa.BigInteger, nullable=False, comment="1: the next to be due"),
    _number("due_day", "days since the section's start"),
    _number("weight", "share of the final grade, 0-100"),
    _number("mean", "expected score, 0-100, a missed one 0"),
    _number("median", "half of the scores lie below"),
    _number("submit_probability", "chance to hand in, 0-1"),
    _number("low80", "80% lie between"),
    _number("high80", "80% lie between"),
    _number("low95", "95% lie between"),
    _number("high95", "95% lie between"),
    sa.Column("method", sa.Text, nullable=False, comment="forecaster that counts most"),
    info=TablePolicy("forecasting", personal=("student_id",), time="as_of").info,
)
activity_forecast = sa.Table(
    "activity_forecast",
    metadata,
    sa.Column("section_id", sa.Text, primary_key=True),
    sa.Column("student_id", sa.Text, primary_key=True),
    sa.Column("week", sa.BigInteger, primary_key=True, comment="1: the section's first"),
    sa.Column("as_of", sa.Date, primary_key=True),
    sa.Column("course_id", sa.Text, nullable=False),
    _number("mean", "expected actions in the week"),
    _number("low80", "80% lie between"),
    _number("high80", "80% lie between"),
    info=TablePolicy("forecasting", personal=("student_id",), time="as_of").info,
)
course_run = sa.Table(
    "course_run",
    metadata,
    sa.Column("course_id", sa.Text, primary_key=True),
    sa.Column("as_of", sa.Date, primary_key=True),
    sa.Column("model_version", sa.Integer, nullable=False),
    sa.Column("forecasts", sa.Integer, nullable=False),
    sa.Column("fallbacks", JSONB, nullable=False, comment="of the whole run, by reason"),
    sa.Column("nothing", sa.Text, nullable=False, comment="why there is nothing; empty: there is"),
    sa.Column("degraded", JSONB, nullable=False),
    info=TablePolicy("forecasting", time="as_of").info,
)
trajectory_model = sa.Table(
    "trajectory_model",
    metadata,
    sa.Column("version", sa.Integer, primary_key=True),
    sa.Column("as_of", sa.Date, nullable=False, comment="what it was fitted on had ended by then"),
    sa.Column("sections", JSONB, nullable=False, comment="hash by section"),
    sa.Column("accepted", sa.Boolean, nullable=False, comment="its verdicts let it serve"),
    info=TablePolicy("training", time="as_of").info,
)


def write(
    connection: Connection, courses: Collection[str], as_of: date, found: Forecasts, version: int
) -> None:
    """Replace what was said of `courses` on that day.

    Parameters
    ----------
    found
        Forecasts of running sections of `courses`.
    version
        The model's.
    """
    of_section = found.forecasts.drop_duplicates("section_id").set_index("section_id")["course_id"]
    activity = found.activity[found.activity["section_id"].isin(of_section.index)]
    activity = activity.assign(course_id=activity["section_id"].map(of_section), as_of=as_of)
    frames = {assignment_forecast: found.forecasts, activity_forecast: activity}
    for table in (*frames, course_run):
        connection.execute(
            sa.delete(table).where(table.c.course_id.in_(sorted(courses)), table.c.as_of == as_of)
        )
    for table, frame in frames.items():
        names = [column.name for column in table.columns]
        rows = frame[names].astype({"as_of": "datetime64[ns]"})
        copy_frame(connection, table.fullname, rows.assign(as_of=rows["as_of"].dt.date))
    sizes = found.forecasts["course_id"].value_counts()
    connection.execute(
        sa.insert(course_run),
        [
            {"course_id": course, "as_of": as_of, "model_version": version}
            | {"forecasts": int(sizes.get(course, 0)), "nothing": found.nothing.get(course, "")}
            | {"fallbacks": dict(found.fallbacks), "degraded": list(found.degraded)}
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
    """Return the columns `FORECASTS` of what was said on that very day, in order of the key."""
    return _read(connection, assignment_forecast, FORECASTS, as_of, courses, student)


def read_activity(
    connection: Connection,
    as_of: date,
    *,
    courses: Collection[str] | None = None,
    student: str | None = None,
) -> pd.DataFrame:
    """Return the columns `ACTIVITY` of what was said on that very day, in order of the key."""
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


def newest_day(connection: Connection, as_of: date, course: str) -> date | None:
    """Return the last day up to `as_of` on which the course was forecast; None: never."""
    column = course_run.c
    day: date | None = connection.execute(
        sa.select(sa.func.max(column.as_of)).where(
            column.course_id == course, column.as_of <= as_of
        )
    ).scalar()
    return day


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
