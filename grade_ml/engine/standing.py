"""Where a student's latest enrollment in a course stood on a day, from the gradebook's dates."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date

import sqlalchemy as sa
from sqlalchemy import Connection, RowMapping

from grade_ml.core.errors import NotFoundError
from grade_ml.engine.answers import GradePrediction, Status
from grade_ml.gradebook import schema
from grade_ml.gradebook.rules import can_be_id


def standing(
    connection: Connection, student_id: str, course_id: str, as_of: date
) -> GradePrediction:
    """Return where the student's latest enrollment in the course stands, without predictions."""
    for text in (student_id, course_id):
        if not can_be_id(text):
            raise NotFoundError(
                f"{text!r} is no id: it holds a control character, or is not UTF-8.",
                "Ask for an id as it stands in the gradebook.",
            )
    enrollments = _enrollments(connection, student_id, course_id)
    if not enrollments:
        raise _unknown(connection, student_id, course_id)
    visible = [row for row in enrollments if _enrolled_on(row) <= as_of]
    if not visible:
        first = min(map(_enrolled_on, enrollments))
        raise NotFoundError(
            f"On {as_of} the student {student_id} was not enrolled in the course {course_id} yet.",
            f"Ask for {first} or a later day.",
        )
    # A section that has started comes before one that the student has only signed up for.
    latest = max(visible, key=lambda row: (row["starts_on"] <= as_of, row["starts_on"]))
    return GradePrediction(
        student_id=student_id,
        course_id=course_id,
        section_id=latest["section_id"],
        as_of=as_of,
        status=_status(latest, as_of),
        starts_on=latest["starts_on"],
        ends_on=latest["ends_on"],
        withdrawn_on=_visible(latest["withdrawn_on"], as_of),
    )


def _enrollments(connection: Connection, student_id: str, course_id: str) -> Sequence[RowMapping]:
    section, enrollment = schema.section.c, schema.enrollment.c
    query = (
        sa.select(
            section.section_id,
            section.starts_on,
            section.ends_on,
            enrollment.enrolled_on,
            enrollment.withdrawn_on,
        )
        .join_from(schema.section, schema.enrollment)
        .where(section.course_id == course_id, enrollment.student_id == student_id)
        .order_by(section.section_id)
    )
    return connection.execute(query).mappings().all()


def _unknown(connection: Connection, student_id: str, course_id: str) -> NotFoundError:
    """Return the error that says which of the two does not exist."""
    known = schema.student.c.student_id == student_id, schema.course.c.course_id == course_id
    missing = [
        name
        for name, condition in zip(
            (f"student {student_id}", f"course {course_id}"), known, strict=True
        )
        if not connection.execute(sa.select(sa.exists().where(condition))).scalar()
    ]
    if not missing:
        return NotFoundError(
            f"The student {student_id} is not enrolled in the course {course_id}.",
            "Check both ids; the courses of a student stand in gradebook.enrollment.",
        )
    return NotFoundError(
        f"The gradebook has no {' and no '.join(missing)}.",
        "Check the spelling (ids are compared exactly), or load the data with grade-ml load.",
    )


def _enrolled_on(enrollment: RowMapping) -> date:
    day: date = enrollment["enrolled_on"] or enrollment["starts_on"]
    return day


def _visible(day: date | None, as_of: date) -> date | None:
    return day if day is not None and day <= as_of else None


def _status(enrollment: RowMapping, as_of: date) -> Status:
    if _visible(enrollment["withdrawn_on"], as_of):
        return Status.WITHDRAWN
    if enrollment["ends_on"] < as_of:
        return Status.ENDED
    return Status.RUNNING if enrollment["starts_on"] <= as_of else Status.UPCOMING
