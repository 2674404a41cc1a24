"""A gradebook small enough to compute its features by hand, and a gradebook to draw at random."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import pandas as pd

from grade_ml.gradebook import frames, schema
from grade_ml.gradebook.frames import Gradebook

#: Columns with a default, as the database has it.
DEFAULTED = {"attributes", "carried_over", "extra_credit", "grading_policy", "status"}
START = pd.Timestamp("2024-09-02")


def day(number: float | None) -> pd.Timestamp:
    """Return the date of a day of the section `now`; None is unknown."""
    return pd.NaT if number is None else START + pd.Timedelta(days=number)


def gradebook(**rows: list[dict[str, Any]]) -> Gradebook:
    """Return frames with the given rows; columns left out are missing."""
    tables = {}
    all_tables = (*schema.TABLES, schema.earlier_result)
    for table, field in zip(all_tables, fields(Gradebook), strict=True):
        nothing = frames.empty(table)
        frame = pd.DataFrame(rows.get(field.name, []), columns=list(nothing))
        known = frame.astype({name: nothing[name].dtype for name in frame if name not in DEFAULTED})
        tables[field.name] = frames.with_defaults(table, known).astype(nothing.dtypes)
    return Gradebook(**tables)


def section(
    name: str, first: int, last: int, course: str = "math", policy: str = "weights"
) -> dict[str, Any]:
    return {
        "grading_policy": policy,
        "section_id": name,
        "course_id": course,
        "term_id": "t",
        "starts_on": day(first),
        "ends_on": day(last),
    }


def work(
    name: str,
    due: int | None,
    weight: float,
    in_section: str = "now",
    category: str = "essay",
    **others: Any,
) -> dict[str, Any]:
    return {
        "assignment_id": name,
        "section_id": in_section,
        "category": category,
        "due_on": day(due),
        "weight": weight,
        "max_score": 100.0,
        **others,
    }


def result(
    student: str,
    assignment: str,
    score: float | None,
    submitted: int | None,
    graded: int | None,
    **others: Any,
) -> dict[str, Any]:
    return {
        "assignment_id": assignment,
        "student_id": student,
        "score": score,
        "submitted_on": day(submitted),
        "graded_on": day(graded),
        **others,
    }


def enrolled(
    student: str, in_section: str = "now", on: int | None = -5, **others: Any
) -> dict[str, Any]:
    others = {"withdrawn_on": None, "outcome": None, "attributes": "{}"} | others
    return {"section_id": in_section, "student_id": student, "enrolled_on": day(on), **others}


def students(*names: str, **attributes: str) -> list[dict[str, Any]]:
    return [{"student_id": name, "attributes": attributes.get(name, "{}")} for name in names]
