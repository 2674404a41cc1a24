"""Who gets a second opinion, a what-if, a narrative, and what each of them holds, as plain values.

What the three are is in `local_surrogate`, `counterfactuals` and `narratives`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
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
    surrogate,
    who_needs_one,
)
from grade_ml.explanations.messages import languages
from grade_ml.explanations.narratives import Explained, Narrative, Reader, narrate, verify


class Kind(StrEnum):
    """What is said beside an exact explanation."""

    SECOND_OPINION = "second_opinion"
    WHAT_IF = "what_if"
    NARRATIVE = "narrative"


@dataclass(frozen=True)
class AdviceSettings:
    """How much is made in a night, each with its reason."""

    #: Second opinions and what-ifs cost up to a second each; those at most risk come first, the
    #: others are answered when asked for.
    most_per_course: int = 25
    #: Points. A goal further away is no goal for someone who is not at risk.
    within_points: float = 10.0
    risk: float = 0.5


SETTINGS = AdviceSettings()


def narratives(one: Explained) -> dict[str, Any]:
    """Return what each reader is told in each language, and what of it is not stored."""
    told = [narrate(one, reader, language) for reader in Reader for language in languages()]
    return {
        "texts": _texts(told),
        "problems": [problem for text in told for problem in verify(text, one)],
    }


def _texts(told: Iterable[Narrative]) -> dict[str, dict[str, str]]:
    texts: dict[str, dict[str, str]] = {}
    for one in told:
        texts.setdefault(str(one.reader), {})[one.language] = one.text
    return texts


def in_doubt(
    cases: Sequence[Case], challenger: pd.DataFrame | None, pass_mark: float
) -> Iterator[tuple[Case, str]]:
    """Yield those of one course who get a second opinion, and why.

    Parameters
    ----------
    challenger
        Its predictions; None: there is none.
    pass_mark
        Of the course, points of 100.
    """
    predicted = pd.DataFrame([case.predicted for case in cases])
    marks = pd.Series(pass_mark, predicted.index)
    reasons = who_needs_one(predicted, challenger, marks)
    chosen = _most_at_risk(predicted[reasons != ""])
    for place, (case, reason) in enumerate(zip(cases, reasons, strict=True)):
        if place in chosen and case.explanation.grade is not None:
            yield case, reason


def second_opinion(case: Case, reason: str, around: Neighbours, seed: int) -> dict[str, Any] | None:
    """Return what LIME says of a grade; None: a line can say nothing of it."""
    try:
        local = surrogate(case.served.model, case.row, around, seed)
    except NotReadyError:  # nothing moves the grade, or there are no neighbours: no defect
        return None
    return {"reason": reason, **_opinion(local, case.explanation, around)}


def _opinion(local: LocalSurrogate, exact: Explanation, around: Neighbours) -> dict[str, Any]:
    assert exact.grade is not None
    found = agreement(local, exact.grade, around)
    return {
        "effects": [] if local.hidden else [[name, value] for name, value in local.largest(10)],
        "r2": local.r2,
        "hidden": local.hidden,
        "held": list(local.held),
        "imputed": list(local.imputed),
        "jaccard5": found.jaccard5,
        "signs": None if np.isnan(found.signs) else found.signs,
    }


def aims(cases: Sequence[Case], goals: Sequence[float]) -> Iterator[tuple[Case, float]]:
    """Yield those of one course who get a what-if, and the goal of each.

    Parameters
    ----------
    goals
        Of the course, points, rising.
    """
    predicted = pd.DataFrame([case.predicted for case in cases])
    next_goals = [next_goal(grade, goals) for grade in predicted["grade"]]
    away = np.array([goal or np.nan for goal in next_goals]) - predicted["grade"]
    wanted = (predicted["risk"] >= SETTINGS.risk) | (away <= SETTINGS.within_points)
    chosen = _most_at_risk(predicted[wanted & away.notna()])
    for place, (case, goal) in enumerate(zip(cases, next_goals, strict=True)):
        if place in chosen and goal is not None:
            yield case, goal


def _most_at_risk(predicted: pd.DataFrame) -> set[int]:
    return set(predicted["risk"].nlargest(SETTINGS.most_per_course).index)


@dataclass(frozen=True)
class Advice:
    """What is stored of one course for today.

    Attributes
    ----------
    bodies
        Plain values, one per enrollment; no student is named.
    fresh
        How many of them were made anew.
    degraded
        Why there are fewer than there could be, or why they say less.
    """

    bodies: tuple[Mapping[str, Any], ...] = ()
    fresh: int = 0
    degraded: tuple[str, ...] = ()
