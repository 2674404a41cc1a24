"""Answers from what the night stored, where that is as new as the records and by the champion.

Records are those of the gradebook: what was observed of the world outside since then changes a
prediction in the next night only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from grade_ml.engine.answers import GradePrediction, Level
from grade_ml.engine.standing import courses_of
from grade_ml.registry.registry import Alias
from grade_ml.serving.predictions import NUMBERS, grade_prediction

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from grade_ml.engine.champions import Champions
    from grade_ml.engine.loads import Loads
    from grade_ml.explanations.contract import Explanation

#: Enrollments that one statement names; beyond it whole sections are read.
_NAMED = 1000
Key = tuple[str, str]


def level_of(model: str) -> Level:
    """Return what the model of a name is."""
    from grade_ml.ensemble.baseline import NAME as BASELINE
    from grade_ml.ensemble.pooled import NAME as POOLED

    known = {BASELINE: Level.BASELINE, POOLED: Level.POOLED_ENSEMBLE}
    return known.get(model, Level.COURSE_ENSEMBLE)


def predictions(
    connection: Connection,
    asked: Sequence[GradePrediction],
    loads: Loads,
    champions: Champions,
) -> dict[Key, GradePrediction]:
    """Return the stored predictions, by section and student, that answer running enrollments.

    Parameters
    ----------
    asked
        Where the enrollments stand, all on one day.
    """
    rows = _rows(connection, asked)
    by_key = {(one.section_id, one.student_id): one for one in asked}
    found = [(by_key[key], row) for key, row in rows.items() if key in by_key]
    ours = [
        (one, row)
        for one, row in found
        if champions.first(one.course_id) == (row.model_name, row.model_version)
    ]
    newest = [pair for pair in ours if loads.is_newest(pair[1].origin)]
    others = [pair for pair in ours if not loads.is_newest(pair[1].origin)]
    if others:
        courses = courses_of(connection, {one.student_id for one, _ in others})
        newest += [
            (one, row)
            for one, row in others
            if loads.are_known(row.origin, courses.get(one.student_id, ()))
        ]
    return {(one.section_id, one.student_id): _answer(one, row) for one, row in newest}


def _rows(connection: Connection, asked: Sequence[GradePrediction]) -> dict[Key, sa.Row[Any]]:
    table = grade_prediction.c
    query = sa.select(grade_prediction).where(
        table.as_of == asked[0].as_of,
        table.section_id.in_(sorted({one.section_id for one in asked})),
    )
    if len(asked) <= _NAMED:
        query = query.where(table.student_id.in_(sorted({one.student_id for one in asked})))
    return {(row.section_id, row.student_id): row for row in connection.execute(query)}


def _answer(one: GradePrediction, row: sa.Row[Any]) -> GradePrediction:
    return replace(
        one,
        **{name: getattr(row, name) for name in NUMBERS},
        naive=row.naive,
        level=level_of(row.model_name),
        model_name=row.model_name,
        model_version=row.model_version,
        model_stage=str(Alias.CHAMPION),
        stored=True,
        degraded=tuple(row.degraded),
    )


def explanation(
    connection: Connection, prediction: GradePrediction
) -> tuple[Explanation, dict[str, Any]] | None:
    """Return what was stored of why a stored prediction says what it says, and its `STATE`.

    It belongs to a prediction of the same day and model that is the same number.
    """
    from grade_ml.explanations import store
    from grade_ml.explanations.contract import Account, Explanation
    from grade_ml.explanations.loading import STATE

    table = store.attribution.c
    row = connection.execute(
        sa.select(store.attribution).where(
            table.section_id == prediction.section_id,
            table.student_id == prediction.student_id,
            table.as_of == prediction.as_of,
            table.model_name == prediction.model_name,
            table.model_version == prediction.model_version,
        )
    ).one_or_none()
    if row is None:
        return None
    grade = None if row.grade is None else Account(**row.grade)
    risk = Account(**row.risk)
    points = None if grade is None else grade.predicted
    chance = risk.in_probability().predicted
    if not (_same(points, prediction.grade) and _same(chance, prediction.risk)):
        return None
    found = Explanation(
        row.section_id,
        row.student_id,
        float((prediction.as_of - prediction.starts_on).days),
        grade,
        risk,
        row.feature_values,
        f"{row.model_name} {row.model_version}",
        tuple(row.degraded),
    )
    return found, {name: getattr(row, name) for name in STATE}


def _same(a: float | None, b: float | None) -> bool:
    """Return whether two numbers are the same but for the order in which they were added up."""
    return a is b if a is None or b is None else abs(a - b) < 1e-6


def narratives(connection: Connection, state: dict[str, Any]) -> Any | None:
    """Return the sound narratives that were made from a `STATE`, by reader and language."""
    from grade_ml.explanations import store
    from grade_ml.explanations.advice import Kind

    body = store.advice_made_from(connection, Kind.NARRATIVE, state)
    return body["texts"] if body and not body["problems"] else None
