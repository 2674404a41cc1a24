"""The status of a student's latest enrollment in a course on a day, from the gradebook's dates."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Sequence
from datetime import date
from operator import index
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection, RowMapping

from grade_ml.core.errors import NotFoundError
from grade_ml.engine.answers import GradePrediction, Status
from grade_ml.engine.errors import NotEnrolled, UnknownCourse, UnknownStudent
from grade_ml.gradebook import schema

_ENROLLMENT = (
    schema.section.c.section_id,
    schema.section.c.course_id,
    schema.section.c.starts_on,
    schema.section.c.ends_on,
    schema.enrollment.c.student_id,
    schema.enrollment.c.enrolled_on,
    schema.enrollment.c.withdrawn_on,
)


def student_id(value: object) -> str:
    """Return the id of a student as the gradebook has it, which may be given as a whole number.

    Raises
    ------
    UnknownStudent
        No student can have it.
    """
    return _id(value, UnknownStudent, "student")


def course_id(value: object) -> str:
    """Return the id of a course, as `student_id` does.

    Raises
    ------
    UnknownCourse
        No course can have it.
    """
    return _id(value, UnknownCourse, "course")


def _id(value: object, error: type[NotFoundError], kind: str) -> str:
    from grade_ml.gradebook.rules import LONGEST_ID, can_be_id

    remedy = "Pass an id as the gradebook has it: a text, or a whole number."
    if isinstance(value, str):
        if len(value) > LONGEST_ID:
            raise error(f"No {kind} has an id of {len(value):,} characters.", remedy)
        if not can_be_id(value):
            raise error(
                f"{value!r} is no id: it contains a control character, or is not UTF-8.", remedy
            )
        return str(value)
    try:
        if not isinstance(value, bool):
            return str(index(value))  # type: ignore[arg-type]
    except TypeError:
        pass  # no whole number either: raised below
    raise error(f"A value of type {type(value).__name__} is no id of a {kind}.", remedy)


def standings(
    connection: Connection, students: Collection[str], course: str, as_of: date
) -> tuple[dict[str, GradePrediction], dict[str, NotFoundError]]:
    """Return the status of each student's latest enrollment, and why other students have none.

    A section that has started comes before a section that the student has only signed up for.
    """
    rows: defaultdict[str, list[RowMapping]] = defaultdict(list)
    query = (
        sa.select(*_ENROLLMENT)
        .join_from(schema.section, schema.enrollment)
        .where(schema.section.c.course_id == course)
        .where(schema.enrollment.c.student_id.in_(sorted(students)))
        .order_by(schema.section.c.section_id)
    )
    for row in connection.execute(query).mappings():
        rows[row["student_id"]].append(row)
    standings: dict[str, GradePrediction] = {}
    refused: dict[str, NotFoundError] = {}
    for student in students:
        enrollments = rows.get(student, [])
        visible = [row for row in enrollments if _enrolled_on(row) <= as_of]
        if visible:
            latest = max(visible, key=lambda row: (row["starts_on"] <= as_of, row["starts_on"]))
            standings[student] = _standing(latest, as_of)
        elif enrollments:
            first = min(map(_enrolled_on, enrollments))
            refused[student] = NotEnrolled(
                f"On {as_of} the student {student} was not enrolled in the course {course} yet.",
                f"Choose {first} or a later day.",
            )
        else:
            refused[student] = _unknown(connection, student, course)
    return standings, refused


def running(
    connection: Connection, courses: Collection[str] | None, as_of: date
) -> list[GradePrediction]:
    """Return every enrollment that is open in a running section of `courses`, or of all."""
    query = _running(as_of)
    if courses is not None:
        query = query.where(schema.section.c.course_id.in_(sorted(courses)))
    return [_standing(row, as_of) for row in connection.execute(query).mappings()]


def running_courses(connection: Connection, student: str, as_of: date) -> list[str]:
    """Return the courses in which the student takes part on a day, sorted.

    Raises
    ------
    UnknownStudent
        The gradebook has no such student.
    NotEnrolled
        There is no such course.
    """
    query = _running(as_of).where(schema.enrollment.c.student_id == student)
    courses = {row["course_id"] for row in connection.execute(query).mappings()}
    if courses:
        return sorted(courses)
    if not _exists(connection, schema.student.c.student_id == student):
        raise _not_there(UnknownStudent, [f"student {student}"])
    raise NotEnrolled(
        f"On {as_of} the student {student} takes part in no running course.",
        "Choose another student, or another day (GRADE_ML_AS_OF).",
    )


def courses_of(connection: Connection, students: Collection[str]) -> dict[str, set[str]]:
    """Return every course that each student ever took."""
    query = (
        sa.select(schema.enrollment.c.student_id, schema.section.c.course_id)
        .distinct()
        .join_from(schema.section, schema.enrollment)
        .where(schema.enrollment.c.student_id.in_(sorted(students)))
    )
    courses: defaultdict[str, set[str]] = defaultdict(set)
    for student, course in connection.execute(query):
        courses[student].add(course)
    return courses


def require_course(connection: Connection, course: str) -> None:
    """Do nothing if the gradebook has the course.

    Raises
    ------
    UnknownCourse
        The gradebook does not have the course.
    """
    if not _exists(connection, schema.course.c.course_id == course):
        raise _not_there(UnknownCourse, [f"course {course}"])


def _running(as_of: date) -> sa.Select[Any]:
    """Return the query of every enrollment that is open in a running section."""
    section, enrollment = schema.section.c, schema.enrollment.c
    return (
        sa.select(*_ENROLLMENT)
        .join_from(schema.section, schema.enrollment)
        .where(
            sa.literal(as_of).between(section.starts_on, section.ends_on),
            sa.func.coalesce(enrollment.enrolled_on, section.starts_on) <= as_of,
            sa.func.coalesce(enrollment.withdrawn_on > as_of, True),
        )
        .order_by(section.section_id, enrollment.student_id)
    )


def _standing(row: RowMapping, as_of: date) -> GradePrediction:
    return GradePrediction(
        student_id=row["student_id"],
        course_id=row["course_id"],
        section_id=row["section_id"],
        as_of=as_of,
        status=_status(row, as_of),
        starts_on=row["starts_on"],
        ends_on=row["ends_on"],
        withdrawn_on=_visible(row["withdrawn_on"], as_of),
    )


def _unknown(connection: Connection, student: str, course: str) -> NotFoundError:
    """Return the error that names which of the two does not exist."""
    course_there = _exists(connection, schema.course.c.course_id == course)
    missing = [] if course_there else [f"course {course}"]
    if not _exists(connection, schema.student.c.student_id == student):
        return _not_there(UnknownStudent, [f"student {student}", *missing])
    if missing:
        return _not_there(UnknownCourse, missing)
    return NotEnrolled(
        f"The student {student} is not enrolled in the course {course}.",
        "Check both ids; the courses of a student are in gradebook.enrollment.",
    )


def _not_there(error: type[NotFoundError], missing: Sequence[str]) -> NotFoundError:
    return error(
        f"The gradebook has no {' and no '.join(missing)}.",
        "Check the spelling (ids are compared exactly), or load the data with grade-ml load.",
    )


def _exists(connection: Connection, condition: sa.ColumnElement[bool]) -> bool:
    return bool(connection.execute(sa.select(sa.exists().where(condition))).scalar())


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
