"""The coursework of students, and the day from which on it counts.

An assignment counts for all its students at once, some days after it was due: scores alone leave
out students who never hand in, and would favour a version that predicts too high, or an arm that
drives weak students away.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

import numpy as np
import pandas as pd

from grade_ml.experiments.plan import Metric
from grade_ml.gradebook.frames import Gradebook
from grade_ml.gradebook.grading import is_exam
from grade_ml.gradebook.moves import moves
from grade_ml.gradebook.outcomes import exempt_on, scored_on, submission_seen_on

_SEAT = ["section_id", "student_id"]


@dataclass(frozen=True)
class CourseworkSettings:
    """The judgements about when coursework counts, each with its reason."""

    #: Days after the due date from which an assignment counts, for all its students at once (95% of
    #: OULAD's scores arrive within 14). Until then students who missed it are known and students
    #: who wait for a score are not, and an arm that hands in more would look worse for it.
    settled: int = 14


SETTINGS = CourseworkSettings()


def placed(book: Gradebook) -> pd.DataFrame:
    """Return the enrollments with their sections.

    moved_on is the day on which a student continued in another section of the course.
    """
    moved = moves(book).reset_index()[[*_SEAT, "moved_on"]]
    sections = book.sections[["section_id", "course_id", "term_id", "starts_on", "ends_on"]]
    rows = book.enrollments[[*_SEAT, "enrolled_on", "withdrawn_on"]]
    rows = rows.merge(sections, on="section_id").merge(moved, on=_SEAT, how="left")
    return rows.astype(dict.fromkeys(("student_id", "section_id", "course_id", "term_id"), object))


def coursework(book: Gradebook, seats: pd.DataFrame) -> pd.DataFrame:
    """Return the coursework of each seat, with its result and the day from which it is known."""
    columns = ["assignment_id", "section_id", "due_on"]
    counts = ~book.assignments["extra_credit"] & ~is_exam(book.assignments["category"])
    work = book.assignments.loc[counts, columns].astype({"section_id": object})
    rows = seats.merge(work, on="section_id")
    rows["due_on"] = rows["due_on"].fillna(rows["ends_on"])
    rows = rows[~(rows["due_on"] < rows["enrolled_on"]) & ~(rows["due_on"] > rows["moved_on"])]
    known = book.results.merge(work, on="assignment_id").merge(
        seats.drop_duplicates("section_id")[["section_id", "ends_on"]], on="section_id"
    )
    known = known[["assignment_id", "student_id", "score", "carried_over"]].assign(
        seen_on=submission_seen_on(known),
        scored_on=scored_on(known),
        exempt_on=exempt_on(known),
    )
    key = ["assignment_id", "student_id"]
    rows = rows.merge(known.astype({"student_id": object}), on=key, how="left")
    # An attempt of an earlier term was made before any exposure.
    return rows[~rows["carried_over"].eq(True)]


def worth(work: pd.DataFrame, on: pd.Timestamp | pd.Series, metric: Metric) -> pd.Series:
    """Return the value of each assignment on a day; NaN if it does not count, or not yet."""
    settled = work["due_on"] + timedelta(days=SETTINGS.settled) <= on
    counts = settled & ~(work["exempt_on"] <= on)
    seen = work["seen_on"] <= on
    if metric is Metric.SUBMITTED:
        return seen.astype(float).where(counts)
    scored = work["scored_on"] <= on
    value = work["score"].clip(0, 100).where(scored, np.nan)
    # Handed in and not scored yet, or with an unreadable score: unknown.
    return value.where(scored | seen, 0.0).where(counts)
