"""The tables of what follows from forecasts: risk periods, interventions, anomalies, by day.

A day's rows of a course replace those of the same day; those of other days stay.
"""

from __future__ import annotations

from collections.abc import Collection
from datetime import date
from typing import Any

import pandas as pd
import sqlalchemy as sa
from sqlalchemy import Connection
from sqlalchemy.dialects.postgresql import distinct_on

from grade_ml.core.database import copy_frame, read_frame
from grade_ml.core.policy import TablePolicy
from grade_ml.forecasting.contract import FORECASTS
from grade_ml.forecasting.store import assignment_forecast, course_run, metadata


def _table(
    name: str, key: Collection[str], columns: dict[str, Any], nullable: str = ""
) -> sa.Table:
    return sa.Table(
        name,
        metadata,
        sa.Column("section_id", sa.Text, primary_key=True),
        sa.Column("as_of", sa.Date, primary_key=True),
        sa.Column("student_id", sa.Text, primary_key=True),
        *(
            sa.Column(one, kind, primary_key=one in key, nullable=one in nullable.split())
            for one, kind in columns.items()
        ),
        sa.Column("course_id", sa.Text, nullable=False),
        info=TablePolicy("early_warning", personal=("student_id",), time="as_of").info,
    )


risk_period = _table(
    "risk_period",
    ["start_week"],
    {
        "start_week": sa.BigInteger,
        "end_week": sa.BigInteger,
        "starts_on": sa.Date,
        "weeks_ahead": sa.BigInteger,
        "severity": sa.Double,
        "below_pass_probability": sa.Double,
        "missed_probability": sa.Double,
        "driver": sa.Text,
    },
)
intervention = _table(
    "intervention",
    ["owner", "action"],
    {
        "owner": sa.Text,
        "action": sa.Text,
        "rank": sa.BigInteger,
        "driver": sa.Text,
        "timing": sa.Text,
        "evidence": sa.Text,
        "severity": sa.Double,
        "start_week": sa.BigInteger,
        "planned_on": sa.Date,
        "left_out": sa.Text,
    },
    nullable="planned_on",
)
anomaly = _table(
    "anomaly",
    ["kind", "assignment_id"],
    {
        "kind": sa.Text,
        "assignment_id": sa.Text,
        "observed": sa.Double,
        "expected": sa.Double,
        "low": sa.Double,
        "high": sa.Double,
        "p": sa.Double,
        "p_adjusted": sa.Double,
        "says": sa.Text,
    },
    nullable="low high",
)


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


def degraded(connection: Connection, course: str, as_of: date) -> tuple[str, ...]:
    """Return why the course's forecasts of that day are less than they could be."""
    column = course_run.c
    found = connection.execute(
        sa.select(column.degraded).where(column.course_id == course, column.as_of == as_of)
    ).scalar_one()
    return tuple(found)
