"""Requests to train a course again: made on evidence, answered by the training that took them.

They are rows, so neither a restart nor the pruning of runs loses or repeats a request.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import date, datetime

import sqlalchemy as sa
from sqlalchemy import Connection
from sqlalchemy.dialects.postgresql import distinct_on, insert

from grade_ml.core.policy import TablePolicy

metadata = sa.MetaData(schema="training")

request = sa.Table(
    "request",
    metadata,
    sa.Column("id", sa.BigInteger, sa.Identity(), primary_key=True),
    sa.Column("course_id", sa.Text, nullable=False),
    sa.Column("reason", sa.Text, nullable=False),
    sa.Column("evidence_on", sa.Date),
    sa.Column(
        "asked_on",
        sa.Date,
        nullable=False,
        comment="day on whose evidence the training was requested",
    ),
    sa.Column("asked_at", sa.TIMESTAMP(timezone=True), nullable=False),
    sa.Column("run_key", sa.Text, nullable=False, comment="key of the run that was requested last"),
    sa.Column("answered_at", sa.TIMESTAMP(timezone=True)),
    sa.Column("run_id", sa.Text, comment="run of the training that answered"),
    sa.Column(
        "version", sa.Integer, comment="version of the course's model that this training registered"
    ),
    sa.Column("outcome", sa.Text, comment="outcome of that training, as a sentence"),
    info=TablePolicy("training", time="asked_at", days=800, newest=("course_id",)).info,
)
_IS_OPEN = request.c.answered_at.is_(None)


@dataclass(frozen=True)
class Request:
    """A request to train a course.

    Attributes
    ----------
    evidence_on
        The day of the evidence.
    asked_on
        The day for which it was made, the last such day if the training came to nothing.
    run_key
        The key of the requested run; the courses of one run share it.
    """

    course_id: str
    reason: str
    evidence_on: date | None
    asked_on: date
    run_key: str
    is_answered: bool = False


def record(connection: Connection, requests: Collection[Request], at: datetime) -> None:
    """Record the requests; they replace requests of their courses that are still open."""
    rows = [
        {"course_id": made.course_id, "reason": made.reason, "evidence_on": made.evidence_on}
        | {"asked_on": made.asked_on, "asked_at": at, "run_key": made.run_key}
        for made in requests
    ]
    if rows:
        new = insert(request)
        names = ("reason", "evidence_on", "asked_on", "asked_at", "run_key")
        connection.execute(
            new.on_conflict_do_update(
                index_elements=["course_id"],
                index_where=_IS_OPEN,
                set_={name: new.excluded[name] for name in names},
            ),
            rows,
        )


def newest(connection: Connection, as_of: date) -> dict[str, Request]:
    """Return the last request of each course that was made for `as_of` or a day before it."""
    column = request.c
    query = (
        sa.select(request)
        .ext(distinct_on(column.course_id))
        .where(column.asked_on <= as_of)
        .order_by(column.course_id, column.asked_on.desc(), column.id.desc())
    )
    return {
        row.course_id: Request(
            row.course_id,
            row.reason,
            row.evidence_on,
            row.asked_on,
            row.run_key,
            row.answered_at is not None,
        )
        for row in connection.execute(query)
    }


@dataclass(frozen=True)
class Answer:
    """The outcome of the training of a course, and the version that it registered, if any."""

    course_id: str
    outcome: str
    version: int | None = None


def answer(
    connection: Connection, answers: Collection[Answer], run_id: str, at: datetime
) -> list[str]:
    """Record the outcomes of training; return the courses whose requests they answered."""
    column = request.c
    course_ids = [given.course_id for given in answers]
    query = sa.select(column.course_id).where(column.course_id.in_(course_ids), _IS_OPEN)
    requested = set(connection.scalars(query))
    rows = [
        {"course": given.course_id, "outcome": given.outcome, "version": given.version}
        for given in answers
        if given.course_id in requested
    ]
    if rows:
        answered = sa.update(request).where(column.course_id == sa.bindparam("course"), _IS_OPEN)
        connection.execute(answered.values(answered_at=at, run_id=run_id), rows)
    return sorted(requested)
