"""A two-way model of grades: how hard a course is, apart from who takes it.

The grade of student i in course j is m_j + a_i + noise: a mean for each course and a random effect
for each student, so that a course is not called easy because able students choose it. The students'
effects are eliminated, which leaves one equation per course; the variances are found by EM
(Searle, Casella and McCulloch, Variance Components, 1992, chapters 7 and 8).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from scipy import sparse

if TYPE_CHECKING:
    from numpy.typing import NDArray

ITERATIONS = 100
TOLERANCE = 1e-4
#: Variance (points squared) below which students do not differ.
LEAST_VARIANCE = 1e-3


def difficulties(grades: pd.DataFrame) -> pd.DataFrame:
    """Return for each course how many points below the average course its grades lie.

    Parameters
    ----------
    grades
        One row per enrollment: `course_id`, `student_id`, `grade` (0-100, none missing).

    Returns
    -------
    pandas.DataFrame
        Indexed by `course_id`: `difficulty` (points; positive is harder) and `error`, its standard
        error. Both are missing where courses cannot be compared: there is only one, or there are
        too few grades.

    Examples
    --------
    Ten able students take the hard course, ten others the easy one, and all take mathematics:

    >>> rows = [
    ...     row
    ...     for n in range(10)
    ...     for row in [
    ...         ("hard", f"able {n}", 70 + n), ("maths", f"able {n}", 80 + n + n % 2),
    ...         ("easy", f"other {n}", 60 + n), ("maths", f"other {n}", 50 + n + n % 2),
    ...     ]
    ... ]
    >>> frame = pd.DataFrame(rows, columns=["course_id", "student_id", "grade"])
    >>> frame.groupby("course_id")["grade"].mean().to_dict()
    {'easy': 64.5, 'hard': 74.5, 'maths': 70.0}
    >>> difficulties(frame)["difficulty"].round(1).to_dict()
    {'easy': -9.8, 'hard': 10.2, 'maths': -0.3}
    """
    course, courses = pd.factorize(grades["course_id"], sort=True)
    student, students = pd.factorize(grades["student_id"])
    grade = grades["grade"].to_numpy(dtype=float)
    found = pd.DataFrame(
        {"difficulty": np.nan, "error": np.nan}, index=pd.Index(courses, name="course_id")
    )
    if len(courses) < 2 or len(grade) <= len(courses):
        return found
    taken = sparse.csr_array(
        (np.ones(len(grade)), (student, course)), shape=(len(students), len(courses))
    )
    mean, covariance = _solve(taken, student, course, grade)
    contrast = np.full((len(courses),) * 2, 1 / len(courses)) - np.eye(len(courses))
    found["difficulty"] = contrast @ mean
    variances = np.einsum("ij,jk,ik->i", contrast, covariance, contrast)
    found["error"] = np.sqrt(np.maximum(variances, 0))
    return found


def _solve(
    taken: sparse.csr_array,
    student: NDArray[np.int64],
    course: NDArray[np.int64],
    grade: NDArray[np.float64],
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the courses' means and their covariance.

    Parameters
    ----------
    taken
        How often each student (row) took each course (column).
    student, course, grade
        The grades, with the row and column of each.
    """
    by_student = np.bincount(student, grade, minlength=taken.shape[0])
    by_course = np.bincount(course, grade, minlength=taken.shape[1])
    counts, sizes = np.asarray(taken.sum(axis=1)), np.asarray(taken.sum(axis=0))
    ratio, variance = 1.0, 0.0
    for _ in range(ITERATIONS):
        weight = 1 / (counts + ratio)
        system = np.diag(sizes) - (taken.T @ sparse.diags_array(weight) @ taken).toarray()
        mean = np.linalg.solve(system, by_course - taken.T @ (weight * by_student))
        effect = weight * (by_student - taken @ mean)
        residual = grade - mean[course] - effect[student]
        variance = float(grade @ residual) / (len(grade) - taken.shape[1])
        spread = max(float(np.mean(effect**2 + variance * weight)), LEAST_VARIANCE)
        previous, ratio = ratio, max(variance, LEAST_VARIANCE) / spread
        if abs(ratio - previous) <= TOLERANCE * previous:
            break
    return mean, max(variance, 0.0) * np.linalg.inv(system)
