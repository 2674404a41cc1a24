"""Computes the stored snapshots of chosen courses anew from the gradebook."""

from __future__ import annotations

from collections.abc import Collection
from datetime import date

from sqlalchemy import Connection

from grade_ml.features.snapshots import grade_snapshots, weekly_cuts
from grade_ml.features.store import write_snapshots
from grade_ml.features.validation import validate
from grade_ml.gradebook import frames


def refresh(
    connection: Connection, root: str, courses: Collection[str], as_of: date
) -> dict[str, int]:
    """Compute and store the snapshots of `courses` at `as_of`; return the rows of each.

    The result for a course does not depend on which others are refreshed with it. All records of
    the courses are in memory at once.
    """
    gradebook = frames.read(connection, courses)
    chosen = gradebook.sections[gradebook.sections["course_id"].isin(courses)]
    snapshots = grade_snapshots(gradebook, weekly_cuts(chosen, as_of), as_of)
    validate(snapshots)
    course_of_row = snapshots["course_id"].astype("string[pyarrow]")
    counts = {}
    for course in courses:
        rows = snapshots[course_of_row == course]
        write_snapshots(root, course, rows, as_of)
        counts[course] = len(rows)
    return counts
