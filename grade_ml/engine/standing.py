"""Where a student's latest enrollment in a course stood on a day, from the gradebook's dates."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Sequence
from datetime import date
from operator import index

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


def _id(value: object, error: type[NotFoundError], what: str) -> str:
    from grade_ml.gradebook.rules import LONGEST_ID, can_be_id

    remedy = "Ask for an id as it stands in the gradebook: a text, or a whole number."
    if isinstance(value, str):
        if len(value) > LONGEST_ID:
            raise error(f"No {what} has an id of {len(value):,} characters.", remedy)
        if not can_be_id(value):
            raise error(
                f"{value!r} is no id: it holds a control character, or is not UTF-8.", remedy
            )
        return str(value)
    try:
        if not isinstance(value, bool):
            return str(index(value))  # type: ignore[arg-type]
    except TypeError:
        pass  # no whole number either: said below
    raise error(f"A value of type {type(value).__name__} is no id of a {what}.", remedy)


def standings(
    connection: Connection, students: Collection[str], course: str, as_of: date
) -> tuple[dict[str, GradePrediction], dict[str, NotFoundError]]:
    """Return where each student's latest enrollment stands, and why others have none.

    A section that has started comes before one that the student has only signed up for.
    """
    found: defaultdict[str, list[RowMapping]] = defaultdict(list)
    query = (
        sa.select(*_ENROLLMENT)
        .join_from(schema.section, schema.enrollment)
        .where(schema.section.c.course_id == course)
        .where(schema.enrollment.c.student_id.in_(sorted(students)))
        .order_by(schema.section.c.section_id)
    )
    for row in connection.execute(query).mappings():
        found[row["student_id"]].append(row)
    stand: dict[str, GradePrediction] = {}
    refused: dict[str, NotFoundError] = {}
    for student in students:
        enrollments = found.get(student, [])
        visible = [row for row in enrollments if _enrolled_on(row) <= as_of]
        if visible:
            latest = max(visible, key=lambda row: (row["starts_on"] <= as_of, row["starts_on"]))
            stand[student] = _standing(latest, as_of)
        elif enrollments:
            first = min(map(_enrolled_on, enrollments))
            refused[student] = NotEnrolled(
                f"On {as_of} the student {student} was not enrolled in the course {course} yet.",
                f"Ask for {first} or a later day.",
            )
        else:
            refused[student] = _unknown(connection, student, course)
    return stand, refused


def running(
    connection: Connection, courses: Collection[str] | None, as_of: date
) -> list[GradePrediction]:
    """Return every enrollment that is open in a running section of `courses`, or of all."""
    section, enrollment = schema.section.c, schema.enrollment.c
    query = (
        sa.select(*_ENROLLMENT)
        .join_from(schema.section, schema.enrollment)
        .where(
            sa.literal(as_of).between(section.starts_on, section.ends_on),
            sa.func.coalesce(enrollment.enrolled_on, section.starts_on) <= as_of,
            sa.func.coalesce(enrollment.withdrawn_on > as_of, True),
        )
        .order_by(section.section_id, enrollment.student_id)
    )
    if courses is not None:
        query = query.where(section.course_id.in_(sorted(courses)))
    return [_standing(row, as_of) for row in connection.execute(query).mappings()]


def courses_of(connection: Connection, students: Collection[str]) -> dict[str, set[str]]:
    """Return every course that each student ever took."""
    query = (
        sa.select(schema.enrollment.c.student_id, schema.section.c.course_id)
        .distinct()
        .join_from(schema.section, schema.enrollment)
        .where(schema.enrollment.c.student_id.in_(sorted(students)))
    )
    found: defaultdict[str, set[str]] = defaultdict(set)
    for student, course in connection.execute(query):
        found[student].add(course)
    return found


def require_course(connection: Connection, course: str) -> None:
    """Do nothing where the gradebook has the course.

    Raises
    ------
    UnknownCourse
        It does not.
    """
    if not _exists(connection, schema.course.c.course_id == course):
        raise _not_there(UnknownCourse, [f"course {course}"])


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
    """Return the error that says which of the two does not exist."""
    course_there = _exists(connection, schema.course.c.course_id == course)
    missing = [] if course_there else [f"course {course}"]
    if not _exists(connection, schema.student.c.student_id == student):
        return _not_there(UnknownStudent, [f"student {student}", *missing])
    if missing:
        return _not_there(UnknownCourse, missing)
    return NotEnrolled(
        f"The student {student} is not enrolled in the course {course}.",
        "Check both ids; the courses of a student stand in gradebook.enrollment.",
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
