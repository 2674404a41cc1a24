"""The mean score that a predicted final grade implies for the remaining work, and actual scores.

A final grade is known only when a term ends; scores come all along. The points that a predicted
grade leaves to be earned imply a mean score of the remaining work, and the scores that come are
the first labels by which the prediction can be judged.
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

    #: Days. Scores are not compared with an older prediction.
    oldest_prediction: int = 35
    #: With fewer points of the final grade to come, a tenth of a point is many per cent of a score.
    least_to_come: float = 1.0


SETTINGS = ImpliedSettings()


def implied(grade: pd.Series, collected: pd.Series, weight_remaining: pd.Series) -> pd.Series:
    """Return the predicted mean score of the remaining work, 0-100.

    All arguments are points of the final grade. The result is missing if the grade is, or if too
    little work remains.
    """
    to_come = weight_remaining.where(weight_remaining >= SETTINGS.least_to_come)
    mean: pd.Series = (100 * ((grade - collected) / to_come)).clip(0, 100)
    return mean


def scores(
    results: pd.DataFrame,
    assignments: pd.DataFrame,
    sections: pd.DataFrame,
    today: pd.Timestamp,
    pseudonyms: Pseudonyms,
) -> pd.DataFrame:
    """Return the scores of coursework that are known on `today`.

    Extra credit, exams and results carried over from another section do not count.

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
    """Return each score with the score that the newest prediction before it implied.

    Parameters
    ----------
    scores
        section_id, student, assignment_id, category, score (0-100), scored_on.
    predictions
        section_id, student, on (the day it was made), grade, collected and weight_remaining
        (points of the final grade), and share if a model stretches the points to come.

    Returns
    -------
    pandas.DataFrame
        The columns of `scores`, implied (0-100): the predicted mean score of the remaining work,
        and share: by how much that was stretched.
        Scores without a prediction of the last weeks before are left out.
    """
    enough = predictions["weight_remaining"] >= SETTINGS.least_to_come
    usable = predictions[predictions["grade"].notna() & enough]
    usable = usable[["section_id", "student", "on"]].assign(
        implied=implied(usable["grade"], usable["collected"], usable["weight_remaining"]),
        share=usable.get("share", 0.0),
    )
    paired = newest_before(scores, usable)
    return paired[paired["implied"].notna()].drop(columns="on")


def newest_before(scores: pd.DataFrame, predictions: pd.DataFrame) -> pd.DataFrame:
    """Return each score with the newest row of `predictions` that was made before its day.

    Both have section_id and student; scores have scored_on, predictions `on`. A score without a
    prediction of the last weeks before it has missing values.
    """
    return pd.merge_asof(
        scores.sort_values("scored_on", kind="stable"),
        predictions.sort_values("on", kind="stable"),
        left_on="scored_on",
        right_on="on",
        by=["section_id", "student"],
        tolerance=pd.Timedelta(days=SETTINGS.oldest_prediction),
        allow_exact_matches=False,
    )
