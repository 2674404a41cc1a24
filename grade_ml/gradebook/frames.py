"""The gradebook as typed frames: the only form in which other packages see records."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field, fields
from functools import cache, partial
from typing import Any

import pandas as pd
import sqlalchemy as sa
from sqlalchemy import Connection, Select
from sqlalchemy.dialects.postgresql import JSONB

from grade_ml.core.database import read_frame
from grade_ml.gradebook import schema

_READ = (*schema.TABLES, schema.earlier_result)
_DTYPES = {
    sa.Text: "string[pyarrow]",
    JSONB: "string[pyarrow]",
    sa.Date: "datetime64[ns]",
    sa.Double: "float64",
    sa.BigInteger: "int64",
    sa.Boolean: "bool",
}
#: The value of a column that a row leaves out, as in the database.
_DEFAULTS: dict[str, Any] = {
    "attributes": "{}",
    "carried_over": False,
    "extra_credit": False,
    "grading_policy": schema.GradingPolicy.WEIGHTS.value,
}


def empty(table: sa.Table) -> pd.DataFrame:
    """Return a frame of the table without rows."""
    return _empty(table).copy()


@cache
def _empty(table: sa.Table) -> pd.DataFrame:
    return pd.DataFrame(
        {
            column.name: pd.Series(
                dtype="boolean" if column.name == "late" else _DTYPES[type(column.type)]
            )
            for column in table.columns
        }
    )


def with_defaults(table: sa.Table, rows: pd.DataFrame) -> pd.DataFrame:
    """Return the rows with the defaults of the columns that they leave out or leave empty.

    A result without a status is graded if it has a score, else it was submitted.

    >>> rows = pd.DataFrame({"score": [80.0, None]})
    >>> with_defaults(schema.result, rows)["status"].tolist()
    ['graded', 'submitted']
    """
    filled: dict[str, pd.Series] = {}
    for name in (c.name for c in table.columns if c.name in _DEFAULTS):
        default = _DEFAULTS[name]
        kind = "boolean" if isinstance(default, bool) else "string[pyarrow]"
        given = rows[name] if name in rows else pd.Series(pd.NA, rows.index)
        given = given.astype(kind).fillna(default)  # type: ignore[call-overload]
        filled[name] = given.astype(bool) if isinstance(default, bool) else given
    if table is schema.result:
        given = rows["late"] if "late" in rows else pd.Series(pd.NA, rows.index)
        filled["late"] = given.astype("boolean")
        given = rows["status"] if "status" in rows else pd.Series(pd.NA, rows.index)
        scored = rows["score"].notna()
        usual = scored.map({True: schema.Status.GRADED.value, False: schema.Status.SUBMITTED.value})
        filled["status"] = given.astype("string[pyarrow]").fillna(usual.astype("string[pyarrow]"))
    return rows.assign(**filled)


@dataclass(frozen=True)
class Gradebook:
    """The eight tables and earlier results, one frame each, with the columns of `schema` in order.

    Ids and other texts are `string[pyarrow]`, dates `datetime64[ns]` at midnight (missing: NaT),
    numbers float64 or int64, yes or no bool (`late`: missing where unknown); `attributes` holds
    JSON text. A table that is left out has no rows.
    """

    students: pd.DataFrame = field(default_factory=partial(empty, schema.student))
    terms: pd.DataFrame = field(default_factory=partial(empty, schema.term))
    courses: pd.DataFrame = field(default_factory=partial(empty, schema.course))
    sections: pd.DataFrame = field(default_factory=partial(empty, schema.section))
    enrollments: pd.DataFrame = field(default_factory=partial(empty, schema.enrollment))
    assignments: pd.DataFrame = field(default_factory=partial(empty, schema.assignment))
    results: pd.DataFrame = field(default_factory=partial(empty, schema.result))
    activity: pd.DataFrame = field(default_factory=partial(empty, schema.activity))
    earlier_results: pd.DataFrame = field(default_factory=partial(empty, schema.earlier_result))


def read(
    connection: Connection,
    courses: Collection[str] | None = None,
    *,
    without: Collection[str] = (),
) -> Gradebook:
    """Read the gradebook of `courses`, or all of it.

    With `courses`, students and enrollments are those of their sections, and every other section
    that one of those students ever took comes along with its own records of those students, so
    that a student's history is whole. Records of other students in those other sections are left
    out, except exam results, which decide whether an exam counts (see `outcomes`). The tables named
    in `without` are not read; their frames are empty.
    """
    queries = _queries(courses)
    queries |= {name: queries[name].where(sa.false()) for name in without}
    frames = {table.name: _read(connection, queries[table.name]) for table in _READ}
    return Gradebook(
        students=frames["student"],
        terms=frames["term"],
        courses=frames["course"],
        sections=frames["section"],
        enrollments=frames["enrollment"],
        assignments=frames["assignment"],
        results=frames["result"],
        activity=frames["activity"],
        earlier_results=frames["earlier_result"],
    )


def together(books: Collection[Gradebook]) -> Gradebook:
    """Return the union of several gradebooks, without repeats."""
    parts = {
        table: [getattr(book, field.name) for book in books]
        for table, field in zip(_READ, fields(Gradebook), strict=True)
    }
    return Gradebook(
        *(
            pd.concat(of_table).drop_duplicates(
                [c.name for c in table.primary_key], ignore_index=True
            )
            for table, of_table in parts.items()
        )
    )


def read_class(connection: Connection, section_id: str) -> Gradebook:
    """Read a section with its activity, and the other sections of its course without theirs.

    The other sections show the course's past and who moved between them. What the
    students did in other courses is left out (`read_histories`).
    """
    section, enrollment = schema.section.c, schema.enrollment.c
    assignment = schema.assignment.c
    own_course = sa.select(section.course_id).where(section.section_id == section_id)
    sections = sa.select(section.section_id).where(
        section.course_id == own_course.scalar_subquery()
    )
    work = sa.select(assignment.assignment_id).where(assignment.section_id.in_(sections))
    students = sa.select(enrollment.student_id).where(enrollment.section_id.in_(sections))
    own_work = work.where(assignment.section_id == section_id)
    return Gradebook(
        students=read_table(connection, schema.student, schema.student.c.student_id.in_(students)),
        sections=read_table(connection, schema.section, section.section_id.in_(sections)),
        enrollments=read_table(connection, schema.enrollment, enrollment.section_id.in_(sections)),
        assignments=read_table(connection, schema.assignment, assignment.section_id.in_(sections)),
        results=read_table(connection, schema.result, schema.result.c.assignment_id.in_(work)),
        activity=read_table(
            connection, schema.activity, schema.activity.c.section_id == section_id
        ),
        earlier_results=read_table(
            connection,
            schema.earlier_result,
            schema.earlier_result.c.assignment_id.in_(own_work),
        ),
    )


def read_histories(
    connection: Connection, students: Collection[str], *, exams: bool = False
) -> Gradebook:
    """Read every section that some students ever took, with their own results and no others'.

    With `exams` the results of everybody's exams come along, which decide whether an exam counts.
    """
    enrollment, assignment, result = schema.enrollment.c, schema.assignment.c, schema.result.c
    chosen = sorted(students)
    sections = sa.select(enrollment.section_id).where(enrollment.student_id.in_(chosen))
    work = sa.select(assignment.assignment_id).where(assignment.section_id.in_(sections))
    whose: sa.ColumnElement[bool] = result.student_id.in_(chosen)
    if exams:
        is_exam = sa.func.lower(assignment.category) == schema.EXAM_CATEGORY
        whose |= result.assignment_id.in_(work.where(is_exam))
    return Gradebook(
        sections=read_table(connection, schema.section, schema.section.c.section_id.in_(sections)),
        enrollments=read_table(connection, schema.enrollment, enrollment.student_id.in_(chosen)),
        assignments=read_table(connection, schema.assignment, assignment.section_id.in_(sections)),
        results=read_table(connection, schema.result, whose, result.assignment_id.in_(work)),
    )


def read_table(
    connection: Connection, table: sa.Table, *conditions: sa.ColumnElement[bool]
) -> pd.DataFrame:
    """Read the rows of a table that meet all `conditions`, in the order of its key.

    The columns are as in `Gradebook`.
    """
    query = sa.select(table).where(*conditions).order_by(*table.primary_key)
    return _read(connection, query)


def _read(connection: Connection, query: Select[Any]) -> pd.DataFrame:
    frame = read_frame(connection, query)
    return frame.astype({"late": "boolean"}) if "late" in frame else frame


def _queries(courses: Collection[str] | None) -> dict[str, Select[Any]]:
    queries = {table.name: sa.select(table).order_by(*table.primary_key) for table in _READ}
    if courses is None:
        return queries
    section, enrollment = schema.section.c, schema.enrollment.c
    assignment = schema.assignment.c
    chosen_sections = sa.select(section.section_id).where(section.course_id.in_(sorted(courses)))
    chosen_students = (
        sa.select(enrollment.student_id)
        .where(enrollment.section_id.in_(chosen_sections))
        .distinct()
    )
    seen_sections = (
        sa.select(enrollment.section_id)
        .where(enrollment.student_id.in_(chosen_students))
        .distinct()
    ).union(chosen_sections)
    seen_assignments = sa.select(assignment.assignment_id).where(
        assignment.section_id.in_(seen_sections)
    )
    seen_exams = seen_assignments.where(sa.func.lower(assignment.category) == schema.EXAM_CATEGORY)
    seen_courses = sa.select(section.course_id).where(section.section_id.in_(seen_sections))
    return queries | {
        "student": queries["student"].where(schema.student.c.student_id.in_(chosen_students)),
        "course": queries["course"].where(schema.course.c.course_id.in_(seen_courses)),
        "section": queries["section"].where(section.section_id.in_(seen_sections)),
        "enrollment": queries["enrollment"].where(enrollment.student_id.in_(chosen_students)),
        "assignment": queries["assignment"].where(assignment.section_id.in_(seen_sections)),
        "result": queries["result"].where(
            schema.result.c.assignment_id.in_(seen_assignments),
            schema.result.c.student_id.in_(chosen_students)
            | schema.result.c.assignment_id.in_(seen_exams),
        ),
        "earlier_result": queries["earlier_result"].where(
            schema.earlier_result.c.assignment_id.in_(seen_assignments),
            schema.earlier_result.c.student_id.in_(chosen_students),
        ),
        "activity": queries["activity"].where(
            schema.activity.c.section_id.in_(chosen_sections),
        ),
    }
