"""Who can take part in an experiment on a day, and in which stratum each student is."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import date

import pandas as pd
import sqlalchemy as sa
from sqlalchemy import Connection

from grade_ml.core.database import read_frame
from grade_ml.core.errors import ExperimentError
from grade_ml.features.attribute_columns import attribute_columns
from grade_ml.features.attributes import ATTRIBUTE, PROTECTED
from grade_ml.gradebook import schema
from grade_ml.gradebook.attributes import Declarations
from grade_ml.gradebook.frames import read_table
from grade_ml.gradebook.institution import Use

#: The stratum that is no attribute: the courses that a student takes.
COURSE = "course"
#: The value of an unknown attribute, and the text between the values of several attributes.
_UNKNOWN, _AND = "unknown", " | "


def enrolled(connection: Connection, courses: Collection[str], as_of: date) -> pd.DataFrame:
    """Return who is enrolled on the day in a section that runs.

    Parameters
    ----------
    courses
        Ids; empty: all.

    Returns
    -------
    pandas.DataFrame
        student_id, course_id and section_id, in order.
    """
    section, enrollment = schema.section.c, schema.enrollment.c
    query = (
        sa.select(enrollment.student_id, section.course_id, section.section_id)
        .join_from(schema.enrollment, schema.section, enrollment.section_id == section.section_id)
        .where(
            sa.literal(as_of).between(section.starts_on, section.ends_on),
            sa.func.coalesce(enrollment.enrolled_on <= as_of, True),
            sa.func.coalesce(enrollment.withdrawn_on > as_of, True),
        )
        .order_by(enrollment.student_id, section.course_id, section.section_id)
    )
    if courses:
        query = query.where(section.course_id.in_(sorted(courses)))
    return read_frame(connection, query).astype(object)


def require_known(strata: Sequence[str], declared: Declarations) -> None:
    """Refuse unknown strata.

    Raises
    ------
    ExperimentError
        One is neither `COURSE` nor an attribute that models or audits may read.
    """
    readable = (Use.USABLE, Use.PROTECTED)
    unknown = [name for name in strata if name != COURSE and declared.use_of(name) not in readable]
    if unknown:
        raise ExperimentError(
            f"There are no strata by {', '.join(unknown)}: no attribute of that name may be read.",
            f"Name {COURSE}, or an attribute that its source or the institution's file declares "
            "usable or protected.",
        )


def with_strata(
    connection: Connection,
    enrollments: pd.DataFrame,
    strata: Sequence[str],
    declared: Declarations,
) -> pd.DataFrame:
    """Return student_id and stratum of each student, in order of student_id.

    Parameters
    ----------
    enrollments
        As `enrolled` returns them. If an attribute differs between them, the first value counts.
    strata
        Columns by which students are stratified, as `require_known` lets pass; may be empty.
    """
    first = enrollments.drop_duplicates("student_id").reset_index(drop=True)
    values: dict[str, pd.Series] = {}
    if set(strata) - {COURSE}:
        values = _by_name(attributes(connection, first, declared), first["student_id"])
    if COURSE in strata:
        of_courses = enrollments.drop_duplicates(["student_id", "course_id"])
        values[COURSE] = of_courses.groupby("student_id")["course_id"].agg(" + ".join)
    students = pd.Index(first["student_id"])
    stratum = pd.Series("", students)
    for name in strata:
        known = values.get(name, pd.Series(dtype=object)).reindex(students)
        stratum += (_AND if stratum.ne("").any() else "") + known.fillna(_UNKNOWN).astype(str)
    return stratum.rename("stratum").rename_axis("student_id").reset_index().astype(object)


def attributes(
    connection: Connection, enrollments: pd.DataFrame, declared: Declarations
) -> pd.DataFrame:
    """Return the prepared attributes (`features.attributes`), one row per row of `enrollments`.

    Parameters
    ----------
    enrollments
        section_id and student_id.
    """
    sections = sorted(enrollments["section_id"].unique())
    # All students: a list of 100,000 ids makes a longer statement than their table is.
    students = read_table(connection, schema.student)
    own = read_table(connection, schema.enrollment, schema.enrollment.c.section_id.in_(sections))
    key = ["section_id", "student_id"]
    rows = enrollments[key].merge(own[[*key, "attributes"]].astype(object), on=key, how="left")
    return attribute_columns(students, rows.fillna({"attributes": "{}"}), declared)


def _by_name(columns: pd.DataFrame, students: pd.Series) -> dict[str, pd.Series]:
    people = pd.Index(students)
    return {
        str(name).removeprefix(ATTRIBUTE).removeprefix(PROTECTED): pd.Series(
            columns[name].astype(object).to_numpy(), people
        )
        for name in columns
    }
