"""A gradebook small enough to compute its features by hand, and one to draw at random."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import pandas as pd

from grade_ml.gradebook import schema
from grade_ml.gradebook.frames import Gradebook

START = pd.Timestamp("2024-09-02")


def day(number: float | None) -> pd.Timestamp:
    """Return the date of a day of the section `now`; None is unknown."""
    return pd.NaT if number is None else START + pd.Timedelta(days=number)


def gradebook(**rows: list[dict[str, Any]]) -> Gradebook:
    """Return frames with the given rows; columns left out are missing."""
    frames = {}
    for table, field in zip(schema.TABLES, fields(Gradebook), strict=True):
        frame = pd.DataFrame(rows.get(field.name, []), columns=[c.name for c in table.columns])
        for column in table.columns:
            kind = type(column.type).__name__
            dtype = {
                "Text": "string[pyarrow]",
                "JSONB": "string[pyarrow]",
                "Date": "datetime64[ns]",
                "Double": "float64",
                "BigInteger": "int64",
                "Boolean": "bool",
            }[kind]
            values = frame[column.name].astype(object)
            default = {"JSONB": "{}", "Boolean": False}.get(kind)
            frame[column.name] = values.where(values.notna(), default).astype(dtype)
        frames[field.name] = frame
    return Gradebook(**frames)


def section(name: str, first: int, last: int, course: str = "math") -> dict[str, Any]:
    return {
        "section_id": name,
        "course_id": course,
        "term_id": "t",
        "starts_on": day(first),
        "ends_on": day(last),
    }


def work(
    name: str, due: int | None, weight: float, in_section: str = "now", category: str = "essay"
) -> dict[str, Any]:
    return {
        "assignment_id": name,
        "section_id": in_section,
        "category": category,
        "due_on": day(due),
        "weight": weight,
        "max_score": 100.0,
    }


def result(
    student: str, assignment: str, score: float | None, submitted: int | None, graded: int | None
) -> dict[str, Any]:
    return {
        "assignment_id": assignment,
        "student_id": student,
        "score": score,
        "submitted_on": day(submitted),
        "graded_on": day(graded),
    }


def enrolled(
    student: str, in_section: str = "now", on: int | None = -5, **others: Any
) -> dict[str, Any]:
    others = {"withdrawn_on": None, "outcome": None, "attributes": "{}"} | others
    return {"section_id": in_section, "student_id": student, "enrolled_on": day(on), **others}


def students(*names: str, **attributes: str) -> list[dict[str, Any]]:
    return [{"student_id": name, "attributes": attributes.get(name, "{}")} for name in names]
