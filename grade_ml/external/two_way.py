"""A two-way model of grades: how hard a course is, apart from who takes it.

The grade of student i in course j is a_i + m_j + noise, with an effect for each student, so that a
course is not called easy because able students choose it. The effects are fixed ones: with random
ones, as soon as able students chose the hard courses of a test, the difficulties were 0.9 points
off instead of 0.3, and their standard errors did not show it. So only students who took several
courses carry information, and the standard errors state how much.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import sparse
from scipy.sparse.csgraph import connected_components


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
        error. Both are missing where a course cannot be compared: no chain of students who took
        two courses leads from it to most others, or there are too few grades.

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
    enrollment_matrix = sparse.csr_array(
        (np.ones(len(grade)), (student, course)), shape=(len(students), len(courses))
    )
    _, group = connected_components(enrollment_matrix.T @ enrollment_matrix, directed=False)
    compared = group == np.bincount(group).argmax() if len(courses) else np.zeros(0, dtype=bool)

    counts: NDArray[np.float64] = np.asarray(enrollment_matrix.sum(axis=1))
    # A student's courses are all in one group, so that of the others can stay in the sums.
    system = (
        np.diag(np.asarray(enrollment_matrix.sum(axis=0)))
        - (enrollment_matrix.T @ sparse.diags_array(1 / counts) @ enrollment_matrix).toarray()
    )
    from_mean = grade - (np.bincount(student, grade, minlength=len(students)) / counts)[student]
    sums = np.bincount(course, from_mean, minlength=len(courses))
    # The rows of the system add up to 0, as only differences matter: its inverse with mean 0.
    level = np.full((compared.sum(),) * 2, 1 / max(compared.sum(), 1))
    inverse = np.linalg.inv(system[np.ix_(compared, compared)] + level) - level
    effect = np.zeros(len(courses))
    effect[compared] = inverse @ sums[compared]

    rows = compared[course]
    expected = effect[course]
    expected -= (np.bincount(student, expected, minlength=len(students)) / counts)[student]
    free = rows.sum() - len(np.unique(student[rows])) - compared.sum() + 1
    estimates = pd.DataFrame(
        {"difficulty": np.nan, "error": np.nan}, index=pd.Index(courses, name="course_id")
    )
    if compared.sum() > 1 and free > 0:
        variance = np.sum((from_mean - expected)[rows] ** 2) / free
        estimates.loc[compared, "difficulty"] = -effect[compared]
        estimates.loc[compared, "error"] = np.sqrt(np.maximum(variance * np.diag(inverse), 0))
    return estimates
