"""Which students get a second opinion, a what-if or a narrative, and its content as plain values.

The modules `local_surrogate`, `counterfactuals` and `narratives` make the three.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import numpy as np
import pandas as pd

from grade_ml.core.errors import NotReadyError
from grade_ml.explanations.contract import Explanation
from grade_ml.explanations.counterfactuals import next_goal
from grade_ml.explanations.loading import Case
from grade_ml.explanations.local_surrogate import (
    LocalSurrogate,
    Neighbours,
    agreement,
    second_opinion_reasons,
    surrogate,
)
from grade_ml.explanations.messages import Reader, languages
from grade_ml.explanations.narratives import Explained, Narrative, narrate, verify


class Kind(StrEnum):
    """The kinds of advice beside an exact explanation."""

    SECOND_OPINION = "second_opinion"
    WHAT_IF = "what_if"
    NARRATIVE = "narrative"


@dataclass(frozen=True)
class AdviceSettings:
    """How much advice a nightly run makes, each limit with its reason."""

    #: Second opinions and what-ifs cost up to a second each; the students with the highest risk
    #: come first, those of the others are computed on request.
    most_per_course: int = 25
    #: Points. A goal further away is no goal for a student who is not at risk.
    within_points: float = 10.0
    risk: float = 0.5


SETTINGS = AdviceSettings()


def narratives(explained: Explained) -> dict[str, Any]:
    """Return the texts for each reader in each language, and the problems that `verify` reports."""
    written = [
        narrate(explained, reader, language) for reader in Reader for language in languages()
    ]
    return {
        "texts": _texts(written),
        "problems": [problem for text in written for problem in verify(text, explained)],
    }


def _texts(written: Iterable[Narrative]) -> dict[str, dict[str, str]]:
    texts: dict[str, dict[str, str]] = {}
    for narrative in written:
        texts.setdefault(str(narrative.reader), {})[narrative.language] = narrative.text
    return texts


def in_doubt(
    predicted: pd.DataFrame, challenger: pd.DataFrame | None, pass_mark: float
) -> pd.Series:
    """Return the reasons for a second opinion in one course, by the place in `predicted`.

    Parameters
    ----------
    predicted
        The prediction of each enrollment of the course.
    challenger
        The challenger's predictions; None if there is no challenger.
    pass_mark
        Of the course, points of 100.
    """
    marks = pd.Series(pass_mark, predicted.index)
    reasons = second_opinion_reasons(predicted, challenger, marks)
    return reasons[_most_at_risk(predicted[reasons != ""])]


def second_opinion(case: Case, reason: str, around: Neighbours, seed: int) -> dict[str, Any] | None:
    """Return LIME's explanation of a grade; None if LIME cannot explain it."""
    if case.explanation.grade is None:
        return None
    try:
        local = surrogate(case.served.model, case.row, around, seed)
    except NotReadyError:  # nothing moves the grade, or there are no neighbours: no defect
        return None
    return {"reason": reason, **_opinion(local, case.explanation, around)}


def _opinion(local: LocalSurrogate, exact: Explanation, around: Neighbours) -> dict[str, Any]:
    assert exact.grade is not None
    agreed = agreement(local, exact.grade, around)
    return {
        "effects": [] if local.hidden else [[name, value] for name, value in local.largest(10)],
        "r2": local.r2,
        "hidden": local.hidden,
        "held": list(local.held),
        "imputed": list(local.imputed),
        "jaccard5": agreed.jaccard5,
        "signs": None if np.isnan(agreed.signs) else agreed.signs,
    }


def aims(predicted: pd.DataFrame, goals: Sequence[float]) -> pd.Series:
    """Return the goals of the students of one course who get a what-if, by place in `predicted`.

    Parameters
    ----------
    predicted
        The prediction of each enrollment of the course.
    goals
        Of the course, points, rising.
    """
    next_goals = [next_goal(grade, goals) for grade in predicted["grade"]]
    # A goal of 0 is no student's next goal.
    aimed = pd.Series([goal or np.nan for goal in next_goals], predicted.index, dtype=float)
    away = aimed - predicted["grade"]
    eligible = (predicted["risk"] >= SETTINGS.risk) | (away <= SETTINGS.within_points)
    return aimed[_most_at_risk(predicted[eligible & away.notna()])]


def _most_at_risk(predicted: pd.DataFrame) -> pd.Index:
    """Return the places of the students with the highest risk, in order."""
    return predicted["risk"].nlargest(SETTINGS.most_per_course).index.sort_values()


@dataclass(frozen=True)
class Advice:
    """The stored advice of one course for today.

    Attributes
    ----------
    bodies
        Plain values, one per enrollment; no student is named.
    fresh
        How many of them were made in this run.
    degraded
        The reasons why there are fewer than there could be, or why they are degraded.
    """

    bodies: tuple[Mapping[str, Any], ...] = ()
    fresh: int = 0
    degraded: tuple[str, ...] = ()
