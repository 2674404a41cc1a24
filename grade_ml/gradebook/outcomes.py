"""How an enrollment ended, on the day of the question: its final grade, and whether it went wrong.

Which results count, with what weight, and from which day on a record may be known is said here
once, for outcomes and features alike.
"""

from __future__ import annotations

from datetime import date

import numpy as np
import numpy.typing as npt
import pandas as pd

from grade_ml.gradebook import schema
from grade_ml.gradebook.frames import Gradebook

#: Where a source states no outcome (OneRoster has none), an enrollment that ended below this many
#: points of 100 counts as failed: the usual pass mark of British universities, OULAD's among them.
PASS_MARK = 40.0

_ENROLLMENT = ["section_id", "student_id"]


def outcomes(gradebook: Gradebook, as_of: date) -> pd.DataFrame:
    """Return the outcomes that are known on `as_of`, one row per enrollment.

    Known are those of sections that ended before `as_of`, and withdrawals up to then.

    Returns
    -------
    pandas.DataFrame
        section_id, student_id; final_grade: the weighted mean of the scores, 0-100, work without a
        score counting 0 (NaN: the section has no coursework); at_risk (bool): failed or withdrew.
    """
    today = pd.Timestamp(as_of)
    rows = gradebook.enrollments.merge(gradebook.sections, on="section_id")
    ended = rows["ends_on"] < today
    withdrew = rows["withdrawn_on"] <= today
    grade = _final_grades(gradebook, rows, today)
    stated = rows["outcome"].where(ended)
    failed = stated.isin([schema.Outcome.FAIL, schema.Outcome.WITHDRAWN]) | withdrew
    unstated = stated.isna() & ~withdrew
    at_risk = failed.mask(unstated, grade < PASS_MARK)
    known = withdrew | (ended & ~(unstated & grade.isna()))
    frame = rows[_ENROLLMENT].assign(final_grade=grade, at_risk=at_risk.astype(bool))
    return frame[known].reset_index(drop=True)


def _final_grades(gradebook: Gradebook, rows: pd.DataFrame, today: pd.Timestamp) -> pd.Series:
    """Return the final grade of each of `rows`, from what is known on `today`."""
    results = gradebook.results.merge(
        gradebook.assignments[["assignment_id", "section_id", "category", "weight", "due_on"]],
        on="assignment_id",
    ).merge(gradebook.sections[["section_id", "ends_on"]], on="section_id")
    results = results[scored_on(results) <= today]
    graded_exams = results.loc[is_exam(results["category"]), "assignment_id"].unique()
    weights = counting_weights(gradebook.assignments, graded_exams)
    points = results["score"] * results["assignment_id"].map(weights).fillna(0.0) / 100
    collected = points.groupby([results[name] for name in _ENROLLMENT]).sum()
    keys = pd.MultiIndex.from_frame(rows[_ENROLLMENT])
    graded = rows["section_id"].isin(
        gradebook.assignments.loc[
            gradebook.assignments["assignment_id"].isin(weights.index), "section_id"
        ]
    )
    grade = pd.Series(collected.reindex(keys).fillna(0.0).to_numpy(np.float64), rows.index)
    return grade.clip(0, 100).where(graded)


def counting_weights(
    assignments: pd.DataFrame, graded_exams: npt.ArrayLike | pd.Series
) -> pd.Series:
    """Return the share of the final grade (summing to 100 a section) by assignment_id.

    Coursework counts by its weight, equally where all weights of the section are 0; an exam only
    if it is one of `graded_exams`. Assignments of sections in which nothing counts are left out.
    """
    exam = is_exam(assignments["category"]).to_numpy()
    section = assignments["section_id"].to_numpy(object)
    weight = assignments["weight"].to_numpy(np.float64).copy()
    coursework = pd.Series(np.where(exam, 0.0, weight)).groupby(section).transform("sum")
    weight[(coursework.to_numpy() == 0) & ~exam] = 1.0
    weight[exam & ~assignments["assignment_id"].isin(np.asarray(graded_exams)).to_numpy()] = 0.0
    total = pd.Series(weight).groupby(section).transform("sum").to_numpy()
    counts = total > 0
    return pd.Series(
        100 * weight[counts] / total[counts], pd.Index(assignments["assignment_id"][counts])
    )


def is_exam(category: pd.Series) -> pd.Series:
    """Return which categories are those of final exams."""
    return category.str.lower() == schema.EXAM_CATEGORY


def submission_seen_on(results: pd.DataFrame) -> pd.Series:
    """Return the day from which on a submission is known (see `scored_on` for the columns)."""
    return results["submitted_on"].fillna(results["graded_on"]).fillna(_due_on(results))


def scored_on(results: pd.DataFrame) -> pd.Series:
    """Return the day from which on a score is known; NaT without a score.

    Without a date of grading it is the date of submission, without either the due date, and
    without any the section's end.

    Parameters
    ----------
    results
        Columns of the table and due_on and ends_on of the assignment and its section.
    """
    day = results["graded_on"].fillna(results["submitted_on"]).fillna(_due_on(results))
    return day.where(results["score"].notna())


def _due_on(results: pd.DataFrame) -> pd.Series:
    return results["due_on"].fillna(results["ends_on"])
