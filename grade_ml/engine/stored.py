"""Answers from what the nightly run stored, if that is as new as the records and by the champion.

Records are those of the gradebook: new external data change a prediction in the next nightly run
only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from grade_ml.engine.answers import GradePrediction, Level
from grade_ml.engine.enrollments import courses_of
from grade_ml.ensemble.names import BASELINE, POOLED
from grade_ml.registry.registry import Alias
from grade_ml.serving.predictions import NUMBERS, grade_prediction

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from grade_ml.early_warning.store import CourseRun
    from grade_ml.engine.champions import Champions
    from grade_ml.engine.loads import Loads
    from grade_ml.explanations.contract import Explanation

#: Enrollments that one query names; for more, whole sections are read.
_NAMED = 1000
Key = tuple[str, str]


def level_of(model: str) -> Level:
    """Return the level of the model with this name."""
    known = {BASELINE: Level.BASELINE, POOLED: Level.POOLED_ENSEMBLE}
    return known.get(model, Level.COURSE_ENSEMBLE)


def predictions(
    connection: Connection,
    enrollments: Sequence[GradePrediction],
    loads: Loads,
    champions: Champions,
) -> dict[Key, GradePrediction]:
    """Return the stored predictions, by section and student, that answer running enrollments.

    Parameters
    ----------
    enrollments
        All on one day.
    """
    rows = _rows(connection, enrollments)
    by_key = {
        (enrollment.section_id, enrollment.student_id): enrollment for enrollment in enrollments
    }
    pairs = [(by_key[key], row) for key, row in rows.items() if key in by_key]
    ours = [
        (enrollment, row)
        for enrollment, row in pairs
        if champions.first(enrollment.course_id) == (row.model_name, row.model_version)
    ]
    newest = [pair for pair in ours if loads.is_newest(pair[1].origin)]
    others = [pair for pair in ours if not loads.is_newest(pair[1].origin)]
    if others:
        courses = courses_of(connection, {enrollment.student_id for enrollment, _ in others})
        newest += [
            (enrollment, row)
            for enrollment, row in others
            if loads.are_known(row.origin, courses.get(enrollment.student_id, ()))
        ]
    return {
        (enrollment.section_id, enrollment.student_id): _answer(enrollment, row)
        for enrollment, row in newest
    }


def _rows(connection: Connection, enrollments: Sequence[GradePrediction]) -> dict[Key, sa.Row[Any]]:
    table = grade_prediction.c
    query = sa.select(grade_prediction).where(
        table.as_of == enrollments[0].as_of,
        table.section_id.in_(sorted({enrollment.section_id for enrollment in enrollments})),
    )
    if len(enrollments) <= _NAMED:
        query = query.where(
            table.student_id.in_(sorted({enrollment.student_id for enrollment in enrollments}))
        )
    return {(row.section_id, row.student_id): row for row in connection.execute(query)}


def _answer(enrollment: GradePrediction, row: sa.Row[Any]) -> GradePrediction:
    return replace(
        enrollment,
        **{name: getattr(row, name) for name in NUMBERS},
        naive=row.naive,
        level=level_of(row.model_name),
        model_name=row.model_name,
        model_version=row.model_version,
        model_stage=str(Alias.CHAMPION),
        stored=True,
        degraded=tuple(row.degraded),
    )


def behind(
    connection: Connection,
    run: CourseRun | None,
    enrollments: Sequence[GradePrediction],
    loads: Loads | None,
) -> dict[str, tuple[str, ...]]:
    """Return by student why a run's forecast is not of the day or lacks the newest records.

    Parameters
    ----------
    run
        The newest of the course up to the day; None if the course was never forecast.
    enrollments
        In one section, all on one day.
    loads
        None if the question is about a past day; then the forecast of that day is up to date.
    """
    if run is None:
        return {
            enrollment.student_id: ("the course was never forecast",) for enrollment in enrollments
        }
    as_of = enrollments[0].as_of
    older = () if run.as_of == as_of else (f"the newest forecast is that of {run.as_of}",)
    if loads is None or loads.is_newest(run.origin):
        return {enrollment.student_id: older for enrollment in enrollments}
    courses = courses_of(connection, {enrollment.student_id for enrollment in enrollments})
    newer = (
        "records of the student's courses came after this forecast; the next night counts them"
        if run.origin
        else "it is not known whether newer records came after this forecast"
    )
    return {
        student: older if loads.are_known(run.origin, own) else (*older, newer)
        for student, own in courses.items()
    }


def explanation(
    connection: Connection, prediction: GradePrediction
) -> tuple[Explanation, dict[str, Any]] | None:
    """Return the stored explanation of a stored prediction, and its `STATE`.

    It explains a prediction of the same day and model with the same grade and risk.
    """
    from grade_ml.explanations.contract import Account, Explanation
    from grade_ml.explanations.loading import STATE
    from grade_ml.explanations.tables import attribution

    table = attribution.c
    row = connection.execute(
        sa.select(attribution).where(
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
    stored = Explanation(
        row.section_id,
        row.student_id,
        float((prediction.as_of - prediction.starts_on).days),
        grade,
        risk,
        row.feature_values,
        f"{row.model_name} {row.model_version}",
        tuple(row.degraded),
    )
    return stored, {name: getattr(row, name) for name in STATE}


def _same(a: float | None, b: float | None) -> bool:
    """Return whether two numbers are the same but for the order in which they were added up."""
    return a is b if a is None or b is None else abs(a - b) < 1e-6


def narratives(connection: Connection, state: dict[str, Any]) -> Any | None:
    """Return the sound narratives that were made from a `STATE`, by reader and language."""
    from grade_ml.explanations import store
    from grade_ml.explanations.advice import Kind

    body = store.advice_made_from(connection, Kind.NARRATIVE, state)
    return body["texts"] if body and not body["problems"] else None
