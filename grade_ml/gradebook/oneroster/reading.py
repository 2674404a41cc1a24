"""What each mirrored file's columns mean: from CSV rows to rows of the mirror.

Nothing here depends on other rows or files; what does is in `deriving`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
from sqlalchemy import Table

from grade_ml.gradebook import schema
from grade_ml.gradebook.csv_files import CsvRows
from grade_ml.gradebook.declared import METADATA
from grade_ml.gradebook.oneroster import tables
from grade_ml.gradebook.schema import Status

STUDENT = "student"
#: Words of scoreStatus, of which only the letters count, and what they mean.
_STATUSES = {
    "exempt": Status.EXEMPT,
    "fullygraded": Status.GRADED,
    "partiallygraded": Status.INCOMPLETE,
    "notsubmitted": Status.MISSING,
    "submitted": Status.SUBMITTED,
}
#: The points of a line item that states no maximum (OneRoster 1.2 allows that).
USUAL_MAXIMUM = 100.0


@dataclass(frozen=True)
class Source:
    """One mirrored file.

    Attributes
    ----------
    name
        Without `.csv`.
    table
        Of the mirror.
    owner
        The gradebook's table whose counts have the rows that were rejected.
    read
        Returns the columns of the mirror's table beside sourced_id and modified.
    required, optional
        The file's columns, beside `status` and `dateLastModified`.
    keys
        The file's columns of the gradebook's key (see `mirror.KEYS`); sourcedId may be missing.
    unknown
        The values of rejected rows whose `keys` can be read.
    """

    name: str
    table: Table
    owner: Table
    read: Callable[[CsvRows], dict[str, Any]]
    required: tuple[str, ...]
    optional: tuple[str, ...] = ()
    keys: tuple[str, ...] = ()
    unknown: Mapping[str, Any] | None = field(default=None)


def _session(rows: CsvRows) -> dict[str, Any]:
    return {
        "title": rows.text("title"),
        "type": rows.text("type"),
        "starts_on": rows.date("startDate"),
        "ends_on": rows.date("endDate"),
        "parent": rows.text("parentSourcedId"),
    }


def _class(rows: CsvRows) -> dict[str, Any]:
    return {
        "course_id": rows.text("courseSourcedId"),
        "sessions": rows.text("termSourcedIds"),
    }


def _category(rows: CsvRows) -> dict[str, Any]:
    return {"title": rows.text("title"), "weight": rows.number("weight")}


def _line_item(rows: CsvRows) -> dict[str, Any]:
    lowest = rows.number("resultValueMin").fillna(0.0).clip(lower=0)
    stated = rows.number("resultValueMax")
    # Exporters write -1 for a maximum that is not set.
    highest = stated.where(stated >= 0, USUAL_MAXIMUM)
    rows.reject(
        highest < lowest,
        "resultValueMax",
        "is below resultValueMin; correct one of them",
    )
    return {
        "section_id": rows.identifier("classSourcedId"),
        "category_id": rows.text("categorySourcedId"),
        "title": rows.text("title"),
        "due_on": rows.date("dueDate"),
        "min_score": lowest,
        "max_score": highest,
        "weight": rows.number(f"{METADATA}weight"),
        "extra_credit": rows.boolean(f"{METADATA}extraCredit"),
        "scale": rows.text("scoreScaleSourcedId"),
    }


def without_maximum(rows: CsvRows) -> int:
    """Return how many line items state no maximum."""
    return int((~(rows.number("resultValueMax") >= 0))[~rows.rejected].sum())


def _score_scale(rows: CsvRows) -> dict[str, Any]:
    return {
        "section_id": rows.text("classSourcedId"),
        "entries": rows.required("scoreScaleValue"),
    }


def _line_item_scale(rows: CsvRows) -> dict[str, Any]:
    return {
        "assignment_id": rows.identifier("lineItemSourcedId"),
        "scale": rows.text("scoreScaleSourcedId"),
    }


def _result_scale(rows: CsvRows) -> dict[str, Any]:
    return {
        "result_id": rows.identifier("resultSourcedId"),
        "scale": rows.text("scoreScaleSourcedId"),
    }


def _enrollment(rows: CsvRows) -> dict[str, Any]:
    rows.required("role")
    begin, end = rows.date("beginDate"), rows.date("endDate")
    rows.reject(end < begin, "endDate", "comes before beginDate; correct one of the two dates")
    return {
        "section_id": rows.identifier("classSourcedId"),
        "student_id": rows.identifier("userSourcedId"),
        "begins_on": begin,
        "ends_on": end,
    }


def _result(rows: CsvRows) -> dict[str, Any]:
    points, words = rows.number_or_text("score")
    words = words.fillna(rows.text("textScore").where(points.isna()))
    return {
        "assignment_id": rows.identifier("lineItemSourcedId"),
        "student_id": rows.identifier("studentSourcedId"),
        **_states(rows, points, words),
        "scale": rows.text("scoreScaleSourcedId"),
        "dated_on": rows.date("scoreDate"),
        "late": rows.boolean("late"),
    }


def _states(rows: CsvRows, points: pd.Series, words: pd.Series) -> dict[str, Any]:
    """Return status, points and words of results; only graded and incomplete ones have a score."""
    letters = rows.text("scoreStatus").str.casefold().str.replace(r"[^a-z]", "", regex=True)
    named = letters.map({word: status.value for word, status in _STATUSES.items()})
    rows.reject(
        rows.text("scoreStatus").notna() & named.isna(),
        "scoreStatus",
        "is unknown; write exempt, fully graded, partially graded, not submitted or submitted",
    )
    missing, unfinished = (
        np.logical_or.reduce([rows.boolean(n).fillna(False).to_numpy(bool) for n in names])
        for names in (["missing"], ["incomplete", "inProgress"])
    )
    scored = (points.notna() | words.notna()).to_numpy(bool)
    reported = {status: named.eq(status.value).fillna(False).to_numpy(bool) for status in Status}
    cases = {
        Status.EXEMPT: reported[Status.EXEMPT],
        # A student with points handed something in.
        Status.MISSING: (missing | reported[Status.MISSING]) & ~(points > 0).to_numpy(bool),
        Status.INCOMPLETE: unfinished | reported[Status.INCOMPLETE],
        Status.SUBMITTED: reported[Status.SUBMITTED] | (~scored & ~reported[Status.GRADED]),
    }
    status = np.select(list(cases.values()), [s.value for s in cases], Status.GRADED.value)
    rows.reject(
        (status == Status.GRADED.value) & ~scored,
        "score",
        "is empty although the result is fully graded; deliver the score, or another scoreStatus",
    )
    has_score = np.isin(status, [Status.GRADED.value, Status.INCOMPLETE.value])
    return {
        "status": pd.Series(status, dtype="string[pyarrow]"),
        "points": points.where(has_score),
        "words": words.where(has_score),
    }


#: In an order in which every reference points backwards.
SOURCES = (
    Source(
        "academicSessions",
        tables.session,
        schema.term,
        _session,
        ("sourcedId", "title", "type", "startDate", "endDate"),
        ("parentSourcedId",),
    ),
    Source(
        "classes",
        tables.class_,
        schema.section,
        _class,
        ("sourcedId", "courseSourcedId", "termSourcedIds"),
    ),
    Source(
        "categories",
        tables.category,
        schema.assignment,
        _category,
        ("sourcedId", "title"),
        ("weight",),
    ),
    Source(
        "lineItems",
        tables.line_item,
        schema.assignment,
        _line_item,
        ("sourcedId", "title", "dueDate", "classSourcedId", "categorySourcedId"),
        (
            "resultValueMin",
            "resultValueMax",
            "scoreScaleSourcedId",
            f"{METADATA}weight",
            f"{METADATA}extraCredit",
        ),
    ),
    Source(
        "scoreScales",
        tables.score_scale,
        schema.result,
        _score_scale,
        ("sourcedId", "scoreScaleValue"),
        ("classSourcedId",),
    ),
    Source(
        "lineItemScoreScales",
        tables.line_item_scale,
        schema.result,
        _line_item_scale,
        ("sourcedId", "lineItemSourcedId", "scoreScaleSourcedId"),
    ),
    Source(
        "resultScoreScales",
        tables.result_scale,
        schema.result,
        _result_scale,
        ("sourcedId", "resultSourcedId", "scoreScaleSourcedId"),
    ),
    Source(
        "enrollments",
        tables.enrollment,
        schema.enrollment,
        _enrollment,
        ("classSourcedId", "userSourcedId", "role"),
        ("sourcedId", "beginDate", "endDate"),
        keys=("classSourcedId", "userSourcedId"),
    ),
    Source(
        "results",
        tables.result,
        schema.result,
        _result,
        ("lineItemSourcedId", "studentSourcedId", "scoreStatus", "score", "scoreDate"),
        (
            "sourcedId",
            "textScore",
            "scoreScaleSourcedId",
            "missing",
            "incomplete",
            "inProgress",
            "late",
        ),
        keys=("lineItemSourcedId", "studentSourcedId"),
        unknown={"status": Status.GRADED.value, "points": None, "words": None},
    ),
)
