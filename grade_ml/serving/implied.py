"""What a predicted final grade implies of the scores still to come, beside the scores that came.

A final grade is known only when a term ends; scores come all along. What a prediction says of the
work to come is what its grade leaves to be earned, and the first truth by which it can be judged.
"""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd

from grade_ml.core.pseudonyms import Pseudonyms
from grade_ml.gradebook.grading import is_exam
from grade_ml.gradebook.outcomes import scored_on


@dataclass(frozen=True)
class ImpliedSettings:
    """The judgements about implied scores, each with its reason."""

    #: A prediction older than this many days says nothing about a score.
    oldest_prediction: int = 35
    #: With fewer points of the final grade to come, a tenth of one is many per cent of a score.
    least_to_come: float = 1.0


SETTINGS = ImpliedSettings()


def implied(grade: pd.Series, collected: pd.Series, weight_remaining: pd.Series) -> pd.Series:
    """Return what the work still to come was predicted to earn on average, 0-100.

    All arguments are points of the final grade. Missing: a grade is, or too little is to come.
    """
    to_come = weight_remaining.where(weight_remaining >= SETTINGS.least_to_come)
    found: pd.Series = (100 * ((grade - collected) / to_come)).clip(0, 100)
    return found


def scores(
    results: pd.DataFrame,
    assignments: pd.DataFrame,
    sections: pd.DataFrame,
    today: pd.Timestamp,
    pseudonyms: Pseudonyms,
) -> pd.DataFrame:
    """Return the scores of coursework that are known on `today`.

    Extra credit, exams and what was carried over from another section are no work to come.

    Parameters
    ----------
    results, assignments
        Of the gradebook.
    sections
        section_id, course_id, starts_on, ends_on.

    Returns
    -------
    pandas.DataFrame
        section_id, course_id, student (a pseudonym), assignment_id, category, score (0-100) and
        scored_on (the day from which on it is known).
    """
    rows = results[~results["carried_over"]].merge(
        assignments.loc[
            ~assignments["extra_credit"], ["assignment_id", "section_id", "category", "due_on"]
        ],
        on="assignment_id",
    )
    rows["score"] = rows["score"].clip(upper=100)
    rows = rows.astype({"section_id": object}).merge(sections, on="section_id")
    rows["scored_on"] = scored_on(rows)
    known = (rows["scored_on"] <= today) & ~is_exam(rows["category"])
    rows = rows[known.fillna(False).astype(bool)]
    rows = rows.assign(student=pseudonyms.of(rows["student_id"]))
    columns = ["section_id", "course_id", "student", "assignment_id", "category", "score"]
    return rows[[*columns, "scored_on"]].reset_index(drop=True)


def events(scores: pd.DataFrame, predictions: pd.DataFrame) -> pd.DataFrame:
    """Return each score beside what the newest prediction before it implied.

    Parameters
    ----------
    scores
        section_id, student, assignment_id, category, score (0-100), scored_on.
    predictions
        section_id, student, on (the day it was made), grade, collected and weight_remaining
        (points of the final grade), and share where a model stretches points to come.

    Returns
    -------
    pandas.DataFrame
        The columns of `scores`, implied (0-100): what the work to come was predicted to earn, and
        share: by how much that was stretched.
        Scores without a prediction of the last weeks before are left out.
    """
    enough = predictions["weight_remaining"] >= SETTINGS.least_to_come
    told = predictions[predictions["grade"].notna() & enough]
    told = told[["section_id", "student", "on"]].assign(
        implied=implied(told["grade"], told["collected"], told["weight_remaining"]),
        share=told.get("share", 0.0),
    )
    paired = newest_before(scores, told)
    return paired[paired["implied"].notna()].drop(columns="on")


def newest_before(scores: pd.DataFrame, told: pd.DataFrame) -> pd.DataFrame:
    """Return each score beside the newest row of `told` that was made before its day.

    Both have section_id and student; scores have scored_on, predictions `on`. A score without a
    prediction of the last weeks before it has missing values.
    """
    return pd.merge_asof(
        scores.sort_values("scored_on", kind="stable"),
        told.sort_values("on", kind="stable"),
        left_on="scored_on",
        right_on="on",
        by=["section_id", "student"],
        tolerance=pd.Timedelta(days=SETTINGS.oldest_prediction),
        allow_exact_matches=False,
    )
