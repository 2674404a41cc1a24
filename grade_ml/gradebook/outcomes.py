"""How an enrollment ended, on the day of the question: its final grade, and whether it went wrong.

This module alone defines from which day on a record may be known, for outcomes and features alike;
`grading` defines what counts towards a grade, and how much.
"""

from __future__ import annotations

from datetime import date

import numpy as np
import pandas as pd

from grade_ml.gradebook import schema
from grade_ml.gradebook.frames import Gradebook
from grade_ml.gradebook.grading import Shares, counting_weights, is_exam
from grade_ml.gradebook.institution import AtRisk, Institution
from grade_ml.gradebook.moves import moves, with_history
from grade_ml.gradebook.schema import GradingPolicy, Status

_ENROLLMENT = ["section_id", "student_id"]
#: What was handed in, with any result.
_HANDED_IN = (Status.GRADED, Status.SUBMITTED, Status.INCOMPLETE)


def outcomes(gradebook: Gradebook, as_of: date, institution: Institution) -> pd.DataFrame:
    """Return the outcomes that are known on `as_of`, one row per ended enrollment.

    Over are those of sections that ended before `as_of`, and withdrawals up to then. A move to
    another section of the course in the same term is no withdrawal; such an enrollment has no
    outcome of its own, and its results count where the student went on.

    Returns
    -------
    pandas.DataFrame
        section_id, student_id; final_grade: 0-100 by the section's grading policy, missing
        assignments counting 0 (NaN: unknown, because a score is, or nothing counts); at_risk
        (nullable boolean): failed or withdrew by the institution's rule; missing: unknown;
        pass_mark: the course's, points of 100.
    """
    today = pd.Timestamp(as_of)
    gone_on = moves(gradebook)
    rows = gradebook.enrollments.merge(gradebook.sections, on="section_id")
    moved = pd.MultiIndex.from_frame(rows[_ENROLLMENT]).isin(gone_on.index)
    ended = rows["ends_on"] < today
    # Who left after the end took part to the end.
    withdrew = (rows["withdrawn_on"] <= today) & (rows["withdrawn_on"] <= rows["ends_on"]) & ~moved
    grade = _final_grades(with_history(gradebook, gone_on), rows, today).mask(moved)
    pass_mark = institution.pass_marks(rows["course_id"])
    below = (grade < pass_mark).astype("boolean")
    rules = {name: institution.at_risk_rule_of(name) for name in rows["course_id"].unique()}
    by_mark = rows["course_id"].astype(object).map(rules) == AtRisk.PASS_MARK
    stated = rows["outcome"].where(ended & ~by_mark)
    failed = stated.isin([schema.Outcome.FAIL, schema.Outcome.WITHDRAWN]).astype("boolean")
    at_risk = failed.mask(stated.isna(), below.mask(grade.isna())).mask(withdrew, True).mask(moved)
    frame = rows[_ENROLLMENT].assign(final_grade=grade, at_risk=at_risk, pass_mark=pass_mark)
    return frame[ended | withdrew].reset_index(drop=True)


def _final_grades(gradebook: Gradebook, rows: pd.DataFrame, today: pd.Timestamp) -> pd.Series:
    """Return the final grade of each of `rows`, from what is known on `today`."""
    assignments = gradebook.assignments
    results = gradebook.results.merge(
        assignments[["assignment_id", "section_id", "category", "due_on"]], on="assignment_id"
    ).merge(gradebook.sections[["section_id", "ends_on"]], on="section_id")
    scored = scored_on(results) <= today
    exams = is_exam(results["category"])
    weights = counting_weights(
        assignments, gradebook.sections, results.loc[exams & scored, "assignment_id"].unique()
    )
    share = results["assignment_id"].map(weights).fillna(0.0)
    keys = pd.MultiIndex.from_frame(rows[_ENROLLMENT])
    points = (results["score"] * share / 100).where(scored)
    collected = points.groupby([results[name] for name in _ENROLLMENT]).sum()
    grade = pd.Series(collected.reindex(keys).fillna(0.0).to_numpy(np.float64), rows.index)
    exempt = (exempt_on(results) <= today) & (share > 0)
    moved_to = assignments.loc[assignments["personal"], "section_id"]
    special = keys.isin(pd.MultiIndex.from_frame(results.loc[exempt, _ENROLLMENT]))
    special |= rows["section_id"].isin(moved_to).to_numpy(bool)
    if special.any():
        results = results.assign(scored=scored, exempt=exempt)
        grade[special] = _own_grades(gradebook, rows.loc[special, _ENROLLMENT], results, weights)
    waiting = (submission_seen_on(results) <= today) & ~scored & (share > 0)
    unknown = keys.isin(pd.MultiIndex.from_frame(results.loc[waiting, _ENROLLMENT]))
    counting = assignments.loc[assignments["assignment_id"].isin(weights.index), "section_id"]
    graded = rows["section_id"].isin(counting)
    return grade.clip(0, 100).where(graded & ~unknown)


def _own_grades(
    gradebook: Gradebook, enrollments: pd.DataFrame, results: pd.DataFrame, weights: pd.Series
) -> pd.Series:
    """Return the grades of students for whom not all of a section's assignments count.

    `results` have the columns scored and exempt. NaN means that nothing counts.
    """
    grades = pd.Series(np.nan, enrollments.index)
    chosen = results.merge(enrollments, on=_ENROLLMENT)
    results_by_section = dict(iter(chosen.groupby("section_id")))
    by_section = dict(iter(gradebook.assignments.groupby("section_id")))
    policies = gradebook.sections.set_index("section_id")["grading_policy"]
    for section, seats in enrollments.groupby("section_id"):
        work = by_section.get(section, gradebook.assignments[:0])
        work = work[work["assignment_id"].isin(weights.index)]
        of_section = results_by_section.get(section, chosen[:0])
        row = pd.Index(seats["student_id"]).get_indexer(of_section["student_id"])
        column = pd.Index(work["assignment_id"]).get_indexer(of_section["assignment_id"])
        counts = column >= 0
        cell = row[counts], column[counts]
        points, exempt = np.zeros((2, len(seats), len(work)))
        # Work without a score earns no points; exempt work does not count (`exempt`, below).
        points[cell] = np.where(of_section["scored"], of_section["score"].fillna(0.0), 0.0)[counts]
        exempt[cell] = of_section["exempt"][counts]
        own = shares(work, weights, str(policies[section])).of(exempt > 0)
        grades[seats.index] = np.where(own.sum(1) > 0, (points * own).sum(1) / 100, np.nan)
    return grades


def shares(assignments: pd.DataFrame, weights: pd.Series, policy: str) -> Shares:
    """Return the shares of one section's assignments, in their order."""
    by_category = policy == GradingPolicy.CATEGORIES
    return Shares(
        assignments["assignment_id"].map(weights).fillna(0.0).to_numpy(np.float64),
        assignments["extra_credit"].to_numpy(bool),
        assignments["personal"].to_numpy(bool),
        pd.factorize(assignments["category"])[0].astype(np.int64) if by_category else None,
    )


def submission_seen_on(results: pd.DataFrame) -> pd.Series:
    """Return the day from which on a submission is known; NaT without one (see `scored_on`)."""
    return _known_on(results["submitted_on"].fillna(results["graded_on"]), results).where(
        results["status"].isin(_HANDED_IN)
    )


def scored_on(results: pd.DataFrame) -> pd.Series:
    """Return the day from which on a final score is known; NaT without one.

    Without a date of grading it is the date of submission, without either the due date, and
    without any the section's end.

    Parameters
    ----------
    results
        Columns of the table and due_on and ends_on of the assignment and its section.
    """
    day = _known_on(results["graded_on"].fillna(results["submitted_on"]), results)
    return day.where(results["score"].notna() & (results["status"] == Status.GRADED))


def exempt_on(results: pd.DataFrame) -> pd.Series:
    """Return the day from which on an exemption is known; NaT without one (see `scored_on`)."""
    day = _known_on(results["graded_on"].fillna(results["submitted_on"]), results)
    return day.where(results["status"] == Status.EXEMPT)


def _known_on(day: pd.Series, results: pd.DataFrame) -> pd.Series:
    return day.fillna(results["due_on"]).fillna(results["ends_on"])
