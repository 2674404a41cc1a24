"""The standard error of a difference whose labels share students and assignments.

Two versions of a model differ from assignment to assignment, for all students alike: one predicts a
hard quiz, the other does not. Each student counts once already; the correlation within assignments
appears in the standard error alone. Without it, OULAD's 2014B decides every single one of 60
experiments in which both versions were drawn again for each assignment, and none is better.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pandas as pd

from grade_ml.experiments.comparison import Comparison, Evidence

Floats = npt.NDArray[np.float64]

#: Assignments of about the same size below which nothing is claimed: how far the next ones may lie
#: from these is known too badly.
LEAST_ITEMS = 5


def crossed(
    comparison: Comparison, differences: Floats, students: pd.Series, items: pd.Series
) -> Comparison:
    """Return the comparison with a standard error that allows for students and assignments.

    Two-way clustering (Cameron, Gelbach & Miller 2011), Satterthwaite's degrees of freedom, and the
    number of assignments by the weight that each has.

    Parameters
    ----------
    comparison
        The paired comparison of the students' means.
    differences
        Treatment less control of each label of those students.
    students, items
        Whose label it is, and of which assignment (of an outcome: of which section).
    """
    if math.isnan(comparison.z):
        return comparison
    student, item = (pd.factorize(keys)[0] for keys in (students, items))
    of_student = np.bincount(student)
    weight = 1 / (len(of_student) * of_student[student])
    shares = np.bincount(item, weight)
    count = float(1 / np.sum(shares**2))
    if count < LEAST_ITEMS:
        few = (
            f"The labels are those of {len(shares)} assignments, worth {count:.1f} of equal size: "
            f"what they say of others is known from {LEAST_ITEMS} on."
        )
        return replace(comparison, z=math.nan, problems=(*comparison.problems, few))
    apart = weight * (differences - comparison.difference)
    between = float(np.sum(np.bincount(item, apart) ** 2)) * count / (count - 1)
    alone = comparison.standard_error**2
    # Where both are the same label, it is counted twice.
    variance = max(alone + between - float(np.sum(apart**2)), alone, between)
    degrees = variance**2 / (between**2 / (count - 1) + alone**2 / comparison.degrees)
    error = math.sqrt(variance)
    skewness = comparison.skewness * (comparison.standard_error / error) ** 3
    figures = (comparison.difference, error, degrees, skewness)
    evidence = Evidence(*(np.asarray(figure) for figure in figures))
    return replace(
        comparison, standard_error=error, degrees=degrees, skewness=skewness, z=float(evidence.z)
    )
