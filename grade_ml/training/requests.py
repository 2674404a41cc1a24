"""Requests to train a course again: asked for on evidence, answered by the training that took them.

They are rows, so that neither a restart nor the pruning of runs forgets or repeats one.
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
    sa.Column("asked_on", sa.Date, nullable=False, comment="the day computed, or replayed"),
    sa.Column("asked_at", sa.TIMESTAMP(timezone=True), nullable=False),
    sa.Column("run_key", sa.Text, nullable=False, comment="of the run that was asked for last"),
    sa.Column("answered_at", sa.TIMESTAMP(timezone=True)),
    sa.Column("run_id", sa.Text, comment="of the training that answered"),
    sa.Column("version", sa.Integer, comment="of the course's model that it registered"),
    sa.Column("outcome", sa.Text, comment="of that training, in words"),
    info=TablePolicy("training", time="asked_at").info,
)
_IS_OPEN = request.c.answered_at.is_(None)


@dataclass(frozen=True)
class Request:
    """A training that was asked for.

    Attributes
    ----------
    evidence_on
        The day of what decided it.
    asked_on
        The day of which it was asked for, the last time if the training came to nothing.
    run_key
        What the run that was asked for is known by; the courses of one run share it.
    """

    course_id: str
    reason: str
    evidence_on: date | None
    asked_on: date
    run_key: str
    is_answered: bool = False


def ask(connection: Connection, wanted: Collection[Request], at: datetime) -> None:
    """Record the requests; one that is still open is asked for anew."""
    rows = [
        {"course_id": one.course_id, "reason": one.reason, "evidence_on": one.evidence_on}
        | {"asked_on": one.asked_on, "asked_at": at, "run_key": one.run_key}
        for one in wanted
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
    """Return the last request of each course that was asked for up to `as_of`."""
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
    """What came of the training of a course, and the version that it registered, if it did."""

    course_id: str
    outcome: str
    version: int | None = None


def answer(
    connection: Connection, answers: Collection[Answer], run_id: str, at: datetime
) -> list[str]:
    """Record what training came to; return the courses that had asked for it."""
    column = request.c
    some = [one.course_id for one in answers]
    query = sa.select(column.course_id).where(column.course_id.in_(some), _IS_OPEN)
    asked = set(connection.scalars(query))
    rows = [
        {"course": one.course_id, "outcome": one.outcome, "version": one.version}
        for one in answers
        if one.course_id in asked
    ]
    if rows:
        answered = sa.update(request).where(column.course_id == sa.bindparam("course"), _IS_OPEN)
        connection.execute(answered.values(answered_at=at, run_id=run_id), rows)
    return sorted(asked)
