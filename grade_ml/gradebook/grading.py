"""How the results of a section make a student's final grade: what counts, and how much.

The only module that knows grading policies, exams, exemptions and extra credit, for outcomes and
features alike. `outcomes` defines the day from which on a result may be known.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd

from grade_ml.gradebook import schema
from grade_ml.gradebook.schema import GradingPolicy

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]


def counting_weights(
    assignments: pd.DataFrame, sections: pd.DataFrame, graded_exams: npt.ArrayLike | pd.Series
) -> pd.Series:
    """Return each assignment's share of the final grade of its section, by assignment_id.

    The shares of a section sum to 100; extra credit and what single students bring along from
    another section (see `moves`) come on top of them, in the same unit. An
    exam counts only if it is one of `graded_exams`. Assignments of sections in which nothing
    counts are left out.

    Parameters
    ----------
    assignments
        Columns of the table, and personal (see `moves.with_history`).
    sections
        Columns section_id and grading_policy; a section that is not there has the policy of
        weights.
    """
    exam = is_exam(assignments["category"]).to_numpy(bool)
    beside = assignments["extra_credit"].to_numpy(bool) | assignments["personal"].to_numpy(bool)
    section = assignments["section_id"].to_numpy(object)
    policies = pd.Series(
        sections["grading_policy"].to_numpy(object), sections["section_id"].astype(object)
    )
    policy = pd.Series(section).map(policies).to_numpy(object)
    weight = np.select(
        [policy == GradingPolicy.POINTS, policy == GradingPolicy.EQUAL],
        [assignments["max_score"].to_numpy(np.float64), 1.0],
        assignments["weight"].to_numpy(np.float64),
    )
    weighed = pd.Series(np.where(exam | beside, 0.0, weight)).groupby(section).transform("sum")
    weight[(weighed.to_numpy() == 0) & ~exam & ~beside] = 1.0
    weight[exam & ~assignments["assignment_id"].isin(np.asarray(graded_exams)).to_numpy()] = 0.0
    total = pd.Series(np.where(beside, 0.0, weight)).groupby(section).transform("sum").to_numpy()
    counts = total > 0
    return pd.Series(
        100 * weight[counts] / total[counts], pd.Index(assignments["assignment_id"][counts])
    )


@dataclass(frozen=True)
class Shares:
    """The shares of the final grade in one section of m assignments.

    Attributes
    ----------
    weight
        (m,): as `counting_weights` returns them.
    extra, personal
        (m,): extra credit, and what some students bring along from another section.
    category
        (m,): the category of each, where the weight of a category is shared by those of its
        assignments that count for a student; `None`: what counts keeps its weight in proportion.
    """

    weight: Floats
    extra: Bools
    personal: Bools
    category: Ints | None

    def of(self, exempt: Bools) -> Floats:
        """Return the shares of students for whom some assignments do not count.

        Parameters
        ----------
        exempt
            (..., m).

        Returns
        -------
        numpy.ndarray
            (..., m), summing to 100 without extra credit, or all 0 where nothing counts.

        Examples
        --------
        Of two quizzes (30 together) and a test (70), the first quiz does not count:

        >>> none = np.zeros(3, bool)
        >>> shares = Shares(np.array([15.0, 15.0, 70.0]), none, none, np.array([0, 0, 1]))
        >>> shares.of(np.array([True, False, False])).tolist()
        [0.0, 30.0, 70.0]
        """
        own = np.where(exempt, 0.0, self.weight)
        required = np.where(self.extra, 0.0, own)
        if self.category is not None:
            of_section = np.where(self.extra | self.personal, 0.0, self.weight)
            for category in np.unique(self.category):
                members = self.category == category
                kept = required[..., members].sum(-1, keepdims=True)
                whole = of_section[members].sum() or kept
                own[..., members] *= _ratio(np.broadcast_to(whole, kept.shape), kept)
            required = np.where(self.extra, 0.0, own)
        total = required.sum(-1, keepdims=True)
        return own * _ratio(np.full(total.shape, 100.0), total)


def is_exam(category: pd.Series) -> pd.Series:
    """Return which categories are those of final exams."""
    return category.str.lower() == schema.EXAM_CATEGORY


def _ratio(part: Floats, whole: Floats) -> Floats:
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(np.where(whole > 0, part / whole, 0.0))
