"""The package's tables: reports by course and day, and the matured rows of the error streams.

Rows are written by key, so that writing the same row again changes nothing, and a day in the past
can be computed again. No table names a student.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from datetime import date, timedelta
from enum import StrEnum
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa
from sqlalchemy import Connection
from sqlalchemy.dialects.postgresql import JSONB, distinct_on, insert

from grade_ml.core.database import read_frame
from grade_ml.core.plain import plain
from grade_ml.core.policy import TablePolicy

if TYPE_CHECKING:
    import pandas as pd

metadata = sa.MetaData(schema="monitoring")

report = sa.Table(
    "report",
    metadata,
    sa.Column(
        "course_id",
        sa.Text,
        primary_key=True,
        comment="id of the course; empty: all courses together",
    ),
    sa.Column("as_of", sa.Date, primary_key=True),
    sa.Column("kind", sa.Text, primary_key=True, comment="drift, performance, concept or health"),
    sa.Column("body", JSONB, nullable=False),
    # Reports are compared with those of the same week a year ago.
    info=TablePolicy("monitoring", time="as_of", days=800, newest=("course_id", "kind")).info,
)
matured_error = sa.Table(
    "matured_error",
    metadata,
    sa.Column("section_id", sa.Text, primary_key=True),
    sa.Column("assignment_id", sa.Text, primary_key=True),
    sa.Column(
        "batch",
        sa.Integer,
        primary_key=True,
        comment="number of the batch of scores, in the order in which they came",
    ),
    sa.Column("course_id", sa.Text, nullable=False),
    sa.Column("matured_on", sa.Date, nullable=False, comment="day on which the batch was complete"),
    sa.Column("scores", sa.Integer, nullable=False, comment="number of scores in the batch"),
    sa.Column("error", sa.Double, nullable=False, comment="mean error of these scores, points"),
    sa.Column(
        "z", sa.Double, nullable=False, comment="the error in standard deviations of training terms"
    ),
    info=TablePolicy("monitoring", time="matured_on").info,
)

#: The course_id of reports on all courses together.
EVERYWHERE = ""


class Kind(StrEnum):
    """The kind of a report."""

    DRIFT = "drift"
    PERFORMANCE = "performance"
    CONCEPT = "concept"
    HEALTH = "health"


@dataclass(frozen=True)
class Stored:
    """One report as it was stored; `body` holds plain values."""

    course_id: str
    as_of: date
    kind: Kind
    body: Mapping[str, Any]


def write(connection: Connection, kind: Kind, as_of: date, bodies: Mapping[str, Any]) -> None:
    """Store one report for each course; it replaces an earlier report of that day.

    Parameters
    ----------
    bodies
        Dataclasses or mappings by course, made of plain values, dates and frames.
    """
    rows = [
        {"course_id": course, "as_of": as_of, "kind": str(kind), "body": plain(body)}
        for course, body in bodies.items()
    ]
    if rows:
        statement = insert(report)
        connection.execute(
            statement.on_conflict_do_update(
                index_elements=["course_id", "as_of", "kind"],
                set_={"body": statement.excluded.body},
            ),
            rows,
        )


def read(
    connection: Connection,
    as_of: date,
    *,
    days: int,
    kinds: Iterable[Kind] = tuple(Kind),
    courses: Collection[str] | None = None,
) -> list[Stored]:
    """Return the reports of the last `days` days up to `as_of`, that day included; oldest first."""
    column = report.c
    query = sa.select(report).where(
        column.as_of.between(as_of - timedelta(days=days - 1), as_of),
        column.kind.in_([str(kind) for kind in kinds]),
    )
    if courses is not None:
        query = query.where(column.course_id.in_(sorted(courses)))
    rows = connection.execute(query.order_by(column.as_of, column.course_id, column.kind))
    return [Stored(row.course_id, row.as_of, Kind(row.kind), row.body) for row in rows]


@dataclass(frozen=True)
class Signal:
    """The description in one report that bears on training again; empty if there is none."""

    course_id: str
    as_of: date
    kind: Kind
    says: str
    alarm_on: date | None


def signals(
    connection: Connection, as_of: date, *, days: int, courses: Collection[str] | None = None
) -> list[Signal]:
    """Return the signals in the reports of the last `days` days, oldest first."""
    column = report.c
    query = sa.select(
        column.course_id,
        column.as_of,
        column.kind,
        column.body["says"].astext.label("says"),
        column.body["alarm_on"].astext.label("alarm_on"),
    ).where(
        column.as_of.between(as_of - timedelta(days=days - 1), as_of),
        column.kind != str(Kind.HEALTH),
        column.course_id != EVERYWHERE,
    )
    if courses is not None:
        query = query.where(column.course_id.in_(sorted(courses)))
    return [
        Signal(
            row.course_id,
            row.as_of,
            Kind(row.kind),
            row.says or "",
            date.fromisoformat(row.alarm_on) if row.alarm_on else None,
        )
        for row in connection.execute(query.order_by(column.as_of))
    ]


@dataclass(frozen=True)
class CourseHealth:
    """The health of a course's model: its score (0-100; None if unknown) and its worst part."""

    score: float | None
    needs: bool
    worst: str

    @property
    def says(self) -> str:
        """Description of what is wrong; empty if the course needs no attention."""
        return f"{self.score:.0f} of 100; {self.worst}" if self.needs else ""


def newest_health(connection: Connection, as_of: date, days: int = 3) -> dict[str, CourseHealth]:
    """Return the newest health of each course that was judged in the last `days` days."""
    column = report.c
    query = (
        sa.select(
            column.course_id,
            column.body["needs"].as_boolean().label("needs"),
            column.body["score"].as_float().label("score"),
            column.body["worst"].astext.label("worst"),
        )
        .ext(distinct_on(column.course_id))
        .where(
            column.kind == str(Kind.HEALTH),
            column.as_of.between(as_of - timedelta(days=days - 1), as_of),
        )
        .order_by(column.course_id, column.as_of.desc())
    )
    return {
        row.course_id: CourseHealth(row.score, row.needs, row.worst)
        for row in connection.execute(query)
    }


def remember_errors(connection: Connection, rows: pd.DataFrame) -> None:
    """Store matured rows (course_id, `concept.STREAM`); rows that are stored stay unchanged."""
    known = matured_errors(connection, rows["matured_on"].max(), rows["course_id"].unique())
    key = list(matured_error.primary_key.columns.keys())
    is_new = ~_index(rows, key).isin(_index(known, key))
    new = rows.assign(matured_on=rows["matured_on"].dt.date)[is_new]
    if len(new):
        values: Any = new.to_dict("records")
        connection.execute(insert(matured_error).on_conflict_do_nothing(), values)


def _index(rows: pd.DataFrame, names: list[str]) -> pd.MultiIndex:
    import pandas as pd

    return pd.MultiIndex.from_frame(rows[names].astype(object))


def matured_errors(
    connection: Connection, as_of: date, courses: Collection[str] | None = None
) -> pd.DataFrame:
    """Return course_id and columns `concept.STREAM` of rows that had matured by `as_of`, sorted."""
    column = matured_error.c
    order = ("matured_on", "section_id", "assignment_id", "batch")
    names = ["course_id", *order, "scores", "error", "z"]
    query = sa.select(*(column[name] for name in names)).where(column.matured_on <= as_of)
    if courses is not None:
        query = query.where(column.course_id.in_(sorted(courses)))
    query = query.order_by(*(column[name] for name in order))
    return read_frame(connection, query)
