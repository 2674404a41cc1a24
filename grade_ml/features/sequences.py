"""One row per enrollment and assignment, with the day from which on each thing is known.

Nothing is left out by date: a forecast as of a day compares that day with the row's days. Which
results count as handed in, graded or carried over is defined in `gradebook.outcomes`.
"""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
import pandas as pd

from grade_ml.features.catalogue import SEQUENCE_COLUMNS
from grade_ml.features.records import Floats
from grade_ml.gradebook.frames import Gradebook
from grade_ml.gradebook.grading import counting_weights, is_exam
from grade_ml.gradebook.institution import Institution
from grade_ml.gradebook.outcomes import exempt_on, scored_on, submission_seen_on

_IDS = ("course_id", "section_id", "student_id", "assignment_id", "category")


def score_sequences(
    gradebook: Gradebook, courses: Collection[str], institution: Institution
) -> pd.DataFrame:
    """Return the columns `SEQUENCE_COLUMNS` of all sections of `courses`.

    Rows are in order of section, student, due day and assignment, and every enrollment has one
    for each assignment of its section that is coursework; exams, extra credit and results of
    unknown assignments are left out. Of several results of one student for one assignment there
    is the latest.
    """
    sections = gradebook.sections[gradebook.sections["course_id"].isin(courses)]
    work = _coursework(gradebook.assignments, sections)
    enrollments = gradebook.enrollments[["section_id", "student_id", "enrolled_on", "withdrawn_on"]]
    rows = enrollments.merge(work, on="section_id").merge(
        gradebook.results[
            [
                *("assignment_id", "student_id", "status", "score"),
                *("submitted_on", "graded_on", "carried_over"),
            ]
        ],
        on=["assignment_id", "student_id"],
        how="left",
        indicator="has",
    )
    has = rows["has"] == "both"
    start = rows["starts_on"]

    def days(dates: pd.Series) -> Floats:
        apart = (dates - start).to_numpy("timedelta64[D]")
        return np.where(np.isnat(apart), np.nan, apart.astype(np.float64))

    frame = pd.DataFrame(
        {
            **{name: rows[name].astype(object) for name in _IDS},
            "due_day": days(rows["due_on"]),
            "weight": rows["weight"],
            "score": rows["score"].astype("float64").clip(upper=100),
            "seen_day": days(submission_seen_on(rows).where(has)),
            "scored_day": days(scored_on(rows).where(has)),
            "exempt_day": days(exempt_on(rows).where(has)),
            "carried_over": rows["carried_over"].astype("boolean").fillna(False).astype(bool),
            "enrolled_day": days(rows["enrolled_on"]),
            "withdrawn_day": days(rows["withdrawn_on"]),
            "started_on": (start - pd.Timestamp(0)) / pd.Timedelta(days=1),
            "length": days(rows["ends_on"]),
            "pass_mark": institution.pass_marks(rows["course_id"]),
        }
    )
    order = ["section_id", "student_id", "due_day", "assignment_id"]
    frame = frame.sort_values(order, ignore_index=True)
    return frame.astype(dict.fromkeys(_IDS, "category"))[list(SEQUENCE_COLUMNS)]


def _coursework(assignments: pd.DataFrame, sections: pd.DataFrame) -> pd.DataFrame:
    """Return the coursework of `sections` with its weight, due date and the section's dates."""
    weights = counting_weights(assignments.assign(personal=False), sections, graded_exams=[])
    chosen = ~is_exam(assignments["category"]) & ~assignments["extra_credit"]
    work = assignments[chosen.to_numpy(bool)]
    work = work[["assignment_id", "section_id", "category", "due_on"]].merge(
        sections[["section_id", "course_id", "starts_on", "ends_on"]], on="section_id"
    )
    return work.assign(
        due_on=work["due_on"].fillna(work["ends_on"]),
        weight=work["assignment_id"].map(weights).fillna(0.0),
        category=work["category"].fillna(""),
    )
