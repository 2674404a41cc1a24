"""Second opinions, what-ifs and narratives: stability, validity, speed and exact numbers.

A part of `explain.py`, whose ensemble predicts students of OULAD's 2014B, spread evenly over
the risk, at half of each section.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from ensemble import TEST, TRAIN

from grade_ml.core.process import peak_megabytes
from grade_ml.ensemble.pooled import PooledModel
from grade_ml.explanations.attribution import explain
from grade_ml.explanations.counterfactuals import (
    SETTINGS,
    Answer,
    Kind,
    Status,
    WhatIf,
    next_goal,
    what_ifs,
)
from grade_ml.explanations.local_surrogate import (
    LocalSurrogate,
    Neighbours,
    agreement,
    neighbours,
    surrogate,
)
from grade_ml.explanations.messages import languages
from grade_ml.explanations.narratives import Explained, Reader, narrate, verify
from grade_ml.features.continuations import Continuation, Doing
from grade_ml.features.snapshots import fraction_cuts, grade_snapshots, weekly_cuts
from grade_ml.features.validation import schema
from grade_ml.gradebook.frames import Gradebook
from grade_ml.gradebook.institution import DEFAULTS
from grade_ml.training.backtest import without_terms
from out_of_time import read_oulad

#: Students who are explained.
STUDENTS = 60


def whatif(oulad: Path, folder: Path) -> dict[str, Any]:
    """Return the figures of the ensemble that `explain.prepare` keeps in `folder`."""
    gradebook = read_oulad(oulad)
    end = (gradebook.sections["ends_on"].max() + pd.Timedelta(days=1)).date()
    past = without_terms(gradebook, TEST)
    sections = past.sections[past.sections["term_id"].isin(TRAIN)]
    training = grade_snapshots(past, weekly_cuts(sections, end), end)
    return measure(PooledModel.load(folder / "model"), gradebook, TEST, training, STUDENTS)


def measure(  # noqa: PLR0913, PLR0917 - model, students and data
    model: PooledModel,
    gradebook: Gradebook,
    terms: Sequence[str],
    training: pd.DataFrame,
    students: int,
    seed: int = 0,
) -> dict[str, Any]:
    """Return the figures of `students` of the sections of `terms`, each at half of its days.

    Parameters
    ----------
    training
        The snapshots that `model` was fitted on.
    """
    sections = gradebook.sections[gradebook.sections["term_id"].isin(terms)]
    end = (sections["ends_on"].max() + pd.Timedelta(days=1)).date()
    rows = grade_snapshots(gradebook, fraction_cuts(sections, [0.5]), end)
    risk = model.predict(rows)["risk"].to_numpy()
    spread = np.linspace(0, len(rows) - 1, students).astype(int)
    chosen = rows.iloc[np.argsort(risk, kind="stable")[spread]].reset_index(drop=True)
    figures = {
        "lime": _lime(model, chosen, training, seed),
        "counterfactuals": _counterfactuals(model, chosen, gradebook, seed),
        **_narratives(model, rows),
        "students": students,
        "whatif_peak_mb": round(peak_megabytes()),
    }
    _say("Measured")
    return figures


def _lime(
    model: PooledModel, rows: pd.DataFrame, training: pd.DataFrame, seed: int
) -> dict[str, Any]:
    known: dict[tuple[str, float], Neighbours] = {}
    explanations = list(explain(model, rows).explanations())
    pairs: list[tuple[LocalSurrogate, LocalSurrogate]] = []
    identical, signs, overlap, seconds = [], [], [], []
    for place, exact in enumerate(explanations):
        row = rows.iloc[[place]].reset_index(drop=True)
        of_course = training[training["course_id"].astype(str) == str(row["course_id"].iloc[0])]
        progress = float(row["progress"].iloc[0])
        if (key := (str(row["course_id"].iloc[0]), progress)) not in known:
            chosen = of_course if len(of_course) else training
            known[key] = neighbours(model, chosen, progress, seed)
        around = known[key]
        start = time.perf_counter()
        first = surrogate(model, row, around, seed)
        seconds.append(time.perf_counter() - start)
        if place < 5:
            identical.append(first == surrogate(model, row, around, seed))
        other = surrogate(model, row, around, seed + 1)
        pairs.append((first, other))
        if not first.hidden and exact.grade is not None:
            agreed = agreement(first, exact.grade, around)
            signs.append(agreed.signs)
            overlap.append(agreed.jaccard5)
    return {
        "identical": all(identical),
        "jaccard5": float(np.mean([_jaccard5(*pair) for pair in pairs])),
        "sign_agreement": float(np.nanmean(signs)) if signs else None,
        "jaccard5_with_shap": float(np.mean(overlap)) if overlap else None,
        "shown": len(signs) / len(rows),
        "median_r2": float(np.median([first.r2 for first, _ in pairs])),
        "median_s": float(np.median(seconds)),
    }


def _jaccard5(first: LocalSurrogate, second: LocalSurrogate) -> float:
    largest, other_largest = ({name for name, _ in local.largest(5)} for local in (first, second))
    return len(largest & other_largest) / len(largest | other_largest)


def _counterfactuals(
    model: PooledModel, rows: pd.DataFrame, gradebook: Gradebook, seed: int
) -> dict[str, Any]:
    seconds, unreachable_s, questions = [], [], []
    for row, carried in _carried(rows, gradebook):
        goal = next_goal(float(model.predict(row)["grade"].iloc[0]), DEFAULTS.goals_of(""))
        if goal is not None:
            start = time.perf_counter()
            answer = what_ifs(model, carried, row, goal, seed)
            seconds.append(time.perf_counter() - start)
            questions.append((row, carried, answer))
        start = time.perf_counter()
        hopeless = what_ifs(model, carried, row, 100.0, seed)
        if hopeless.status is Status.NOT_REACHABLE:
            unreachable_s.append(time.perf_counter() - start)
    reached = [question for question in questions if question[2].status is Status.REACHED]
    judged = [
        _judged(model, row, carried, answer, what_if)
        for row, carried, answer in reached
        for what_if in answer.what_ifs
    ]
    changes = [len(what_if.changes) for _, _, answer in reached for what_if in answer.what_ifs]
    distinct = [len(answer.what_ifs) for _, _, answer in reached]
    statuses = pd.Series([str(answer.status) for _, _, answer in questions]).value_counts()
    return {
        "valid": float(np.mean([valid for valid, _ in judged])) if judged else None,
        "violations": sum(violations for _, violations in judged),
        "median_changes": float(np.median(changes)) if changes else None,
        "distinct": float(np.median(distinct)) if distinct else None,
        "share_with_3": float(np.mean(np.array(distinct) >= 3)) if distinct else None,
        "p50_s": float(np.quantile(seconds, 0.5)),
        "p95_s": float(np.quantile(seconds, 0.95)),
        "unreachable_s": max(unreachable_s, default=None),
        "statuses": {str(name): int(number) for name, number in statuses.items()},
    }


def _carried(
    rows: pd.DataFrame, gradebook: Gradebook
) -> Iterator[tuple[pd.DataFrame, Continuation]]:
    known: dict[str, Continuation] = {}
    for place in range(len(rows)):
        row = rows.iloc[[place]].reset_index(drop=True)
        section = str(row["section_id"].iloc[0])
        if section not in known:
            known[section] = Continuation(gradebook, section, row["cut_on"].iloc[0].date())
        yield row, known[section]


def _judged(
    model: PooledModel, row: pd.DataFrame, carried: Continuation, answer: Answer, what_if: WhatIf
) -> tuple[bool, int]:
    """Return whether a what-if reaches its goal, rebuilt from its words alone, and what it breaks.

    Broken are: columns that no one can change, bounds of the features, plausible scores, and dates.
    """
    until = answer.until
    assert until is not None
    left = carried.open_assignments(str(row["student_id"].iloc[0]))
    scores = np.array([[assignment.score for assignment in left]])
    ids = [assignment.assignment_id for assignment in left]
    on_time, days = False, np.nan
    for change in what_if.changes:
        on_time |= change.kind is Kind.ON_TIME
        if change.kind is Kind.ACTIVE_DAYS:
            days = change.to
        for name in change.assignments:
            place = ids.index(name)
            scores[0, place] = np.fmax(scores[0, place], change.to)
    doing = Doing(scores, np.array([on_time]), np.array([days]))
    future = carried.snapshots(row, doing, until)
    grade = float(model.predict(future)["grade"].iloc[0])
    fixed = [
        name
        for name in row.columns
        if name.startswith(("attribute_", "protected_", "earlier_", "external_", "course_"))
        or name in ("section_id", "student_id", "enrolled_days_ahead")
    ]
    violations = sum(not _same(row[name].iloc[0], future[name].iloc[0]) for name in fixed)
    schema().validate(future)
    top = np.nanquantile(carried.scores, SETTINGS.score_quantile)
    scores_to_reach = [change.to for change in what_if.changes if change.kind is Kind.SCORE]
    violations += sum(score > top for score in scores_to_reach)
    violations += any(
        change.first is not None and change.first > until for change in what_if.changes
    )
    return grade >= answer.goal and abs(grade - what_if.grade) < 1e-6, int(violations)


def _same(before: object, after: object) -> bool:
    return before == after or (pd.isna(before) and pd.isna(after))  # type: ignore[call-overload]


def _narratives(model: PooledModel, rows: pd.DataFrame) -> Mapping[str, Any]:
    explanations = explain(model, rows)
    bounds = explanations.predictions[["lower80", "upper80"]].itertuples(index=False, name=None)
    start = time.perf_counter()
    verified = [
        verify(narrate(explained, reader, language), explained) == ()
        for explained in (
            Explained(explanation, *interval)
            for explanation, interval in zip(explanations.explanations(), bounds, strict=True)
        )
        for reader in Reader
        for language in languages()
    ]
    return {
        "narratives_verified": float(np.mean(verified)),
        "narratives": len(verified),
        "narratives_per_s": len(verified) / (time.perf_counter() - start),
    }


def _say(message: str) -> None:
    print(message, file=sys.stderr, flush=True)
