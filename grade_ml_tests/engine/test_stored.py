"""Answers from what the nightly run stored, and what makes the engine compute instead."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import count

import pytest
import sqlalchemy as sa
from sqlalchemy import Engine

from grade_ml.core.clock import Clock
from grade_ml.core.degradation import faults
from grade_ml.core.settings import Settings
from grade_ml.engine import (
    Answers,
    GradePrediction,
    Level,
    Limits,
    Overloaded,
    PredictiveAnalyticsEngine,
    StorageUnavailable,
)
from grade_ml.features.refresh import refresh
from grade_ml.gradebook import schema
from grade_ml.gradebook.frames import Gradebook
from grade_ml.registry.registry import Registry
from grade_ml.registry.workspace import Workspace
from grade_ml.serving.predictions import grade_prediction
from grade_ml.serving.scoring import score_running
from grade_ml_tests.conftest import as_environment
from grade_ml_tests.engine.schemas import require_valid
from grade_ml_tests.ensemble.campus import TODAY, make_champion, redesigned, small, store
from grade_ml_tests.imports import HEAVY, call

NOW = datetime(2025, 11, 10, 14, tzinfo=UTC)


class At(Clock):
    """Stands still."""

    def now(self) -> datetime:
        return NOW


@pytest.fixture(scope="module")
def gradebook() -> Gradebook:
    """Return a campus whose first course was redesigned in its running term."""
    return redesigned(small(), small().courses["course_id"].iloc[0])


_numbers = count()


def loaded(engine: Engine, *courses: str) -> None:
    """Record a load that changed some courses."""
    with engine.begin() as connection:
        connection.execute(
            sa.insert(schema.load).values(
                source="csv",
                loaded_at=NOW - timedelta(hours=6) + timedelta(seconds=next(_numbers)),
                rows_loaded={},
                rows_unchanged={},
                rows_removed={},
                rows_quarantined=0,
                courses=list(courses),
                notes=[],
            )
        )


def nightly_run(engine: Engine, settings: Settings, registry: Registry, courses: list[str]) -> None:
    """Refresh features and score, as a nightly run does."""
    with engine.begin() as connection:
        workspace = Workspace(connection, registry, settings.storage_root, TODAY, NOW)
        refresh(connection, workspace.frames, courses)
        score_running(workspace, courses)


@pytest.fixture
def courses(gradebook: Gradebook) -> list[str]:
    return gradebook.courses["course_id"].tolist()


@pytest.fixture
def analytics(  # noqa: PLR0917 - fixtures
    settings: Settings, engine: Engine, gradebook, courses, baseline_of_small, tmp_path
) -> Iterator[PredictiveAnalyticsEngine]:
    store(engine, gradebook)
    loaded(engine, *courses)
    nightly_run(
        engine, settings, make_champion(settings, baseline_of_small, tmp_path / "m"), courses
    )
    today = settings.model_copy(update={"as_of": TODAY})
    with PredictiveAnalyticsEngine(today, clock=At()) as opened_engine:
        yield opened_engine


def as_computed(prediction: GradePrediction) -> GradePrediction:
    return replace(prediction, stored=False)


def published(engine: Engine, like: GradePrediction) -> dict[tuple[str, str], GradePrediction]:
    """Return the rows of the view for readers in the engine's form."""
    query = sa.text(
        "select told.*, starts_on, ends_on from published.current_predictions as told "
        "join gradebook.section using (section_id)"
    )
    with engine.connect() as connection:
        rows = [dict(row) for row in connection.execute(query).mappings()]
    reasons = [tuple(filter(None, row.pop("degraded").split("; "))) for row in rows]
    return {
        (row["section_id"], row["student_id"]): replace(like, **row, degraded=why)
        for row, why in zip(rows, reasons, strict=True)
    }


def test_what_is_stored_answers_until_a_load_changes_a_course_of_the_student(
    analytics, settings, engine, courses
) -> None:
    before = {
        prediction.student_id: prediction
        for prediction in analytics.predict_final_grades(courses[0]).answers
    }
    assert before and all(
        prediction.stored and prediction.grade is not None for prediction in before.values()
    )
    stored_prediction = next(iter(before.values()))
    assert stored_prediction == analytics.predict_final_grade(
        stored_prediction.student_id, courses[0]
    )
    printed, modules = call(
        *("predict", "--student", stored_prediction.student_id, "--course", courses[0], "--json"),
        env={**as_environment(settings), "GRADE_ML_AS_OF": str(TODAY)},
    )
    assert json.loads(printed)["stored"] and modules.isdisjoint(HEAVY)
    everybody = analytics.predict_final_grades().answers
    for answer in everybody:
        told = [why for why in answer.degraded if "was redesigned: all" in why]
        assert len(told) == (answer.course_id == courses[0]) and not faults(told)
    assert published(engine, stored_prediction) == {
        (a.section_id, a.student_id): a for a in everybody
    }
    assert (
        stored_prediction.level,
        stored_prediction.model_stage,
        stored_prediction.age_hours,
    ) == (Level.BASELINE, "champion", 6.0)
    loaded(engine, "another course")
    again = analytics.predict_final_grade(stored_prediction.student_id, courses[0])
    assert again.stored and as_computed(again) == replace(
        as_computed(stored_prediction), records_from=again.records_from
    )
    loaded(engine, courses[0])
    computed = analytics.predict_final_grades(courses[0]).answers
    newer = computed[0].records_from
    assert not any(other.stored for other in computed)
    # To the last bit: the same rows, by the same code.
    assert list(computed) == [
        replace(as_computed(other), records_from=newer) for other in before.values()
    ]
    alone = [analytics.predict_final_grade(student, courses[0]) for student in list(before)[:3]]
    assert alone == list(computed[:3])
    require_valid("predict_final_grades", analytics.predict_final_grades())
    require_valid("predict_final_grade", alone[0])
    explanations = analytics.get_model_explanations(alone[0].student_id, courses[0], goal=90.0)
    assert explanations.prediction == alone[0] and explanations.what_if is not None
    require_valid("get_model_explanations", explanations)


@pytest.mark.slow
def test_predictions_of_another_model_or_day_do_not_answer(analytics, engine, courses) -> None:
    prediction = analytics.predict_final_grades(courses[0]).answers[0]
    yesterday = TODAY - timedelta(days=1)
    assert not analytics.predict_final_grade(
        prediction.student_id, courses[0], as_of=yesterday
    ).stored
    with engine.begin() as connection:
        connection.execute(sa.update(grade_prediction).values(model_version=7, grade=3.0))
    assert analytics.predict_final_grade(prediction.student_id, courses[0]) == as_computed(
        prediction
    )


def test_many_are_answered_and_who_cannot_be_is_named(analytics, gradebook, courses) -> None:
    known = [
        prediction.student_id for prediction in analytics.predict_final_grades(courses[0]).answers
    ][:2]
    strange = [None, True, 1.5, b"x", "x" * 1_000_000, "'; drop table gradebook.student; --", 12]
    predictions = analytics.predict_final_grades(courses[0], [*known, *strange])
    assert [prediction.student_id for prediction in predictions.answers] == known
    assert [refusal.error for refusal in predictions.refused] == ["UnknownStudent"] * len(strange)
    assert max(len(refusal.message) for refusal in predictions.refused) < 200
    with pytest.raises(ValueError, match="Name the course"):
        analytics.predict_final_grades(user_ids=known)


@pytest.mark.slow
def test_200_callers_are_answered_at_once(analytics, engine, courses) -> None:
    """Stored and computed alike, through ten connections at most."""
    people = analytics.predict_final_grades(courses[0]).answers
    expected = {prediction.student_id: as_computed(prediction) for prediction in people}
    for again in (False, True):
        if again:
            loaded(engine, courses[0])
        with ThreadPoolExecutor(200) as threads:
            several = [people[place % len(people)].student_id for place in range(200)]
            predictions = list(
                threads.map(
                    lambda student: analytics.predict_final_grade(student, courses[0]), several
                )
            )
        assert all(prediction.stored is not again for prediction in predictions)
        newer = predictions[0].records_from
        assert [as_computed(prediction) for prediction in predictions] == [
            replace(expected[student], records_from=newer) for student in several
        ]
    checked_out = analytics._engine.pool.checkedout()
    assert checked_out == 0


@pytest.mark.slow
def test_too_many_computations_are_refused_and_not_queued_without_end(
    settings, analytics, engine, courses
) -> None:
    prediction = analytics.predict_final_grades(courses[0]).answers[0]
    loaded(engine, courses[0])
    limits = Limits(at_once=1, waiting=0)
    today = settings.model_copy(update={"as_of": TODAY})
    with PredictiveAnalyticsEngine(today, limits=limits, clock=At()) as small_engine:
        with small_engine._slots.one(), pytest.raises(Overloaded, match="wait already"):
            small_engine.predict_final_grade(prediction.student_id, courses[0])
        assert (
            small_engine.predict_final_grade(prediction.student_id, courses[0]).grade
            == prediction.grade
        )


@pytest.mark.slow
def test_a_promotion_is_followed(  # noqa: PLR0917 - fixtures
    analytics, settings, engine, courses, baseline_of_small, tmp_path
) -> None:
    prediction = analytics.predict_final_grades(courses[0]).answers[0]
    assert prediction.model_version == 1
    make_champion(settings, baseline_of_small, tmp_path / "newer")
    # Within `champion_seconds` the engine may not know; then it does.
    analytics._champions._read_at = float("-inf")
    newer = analytics.predict_final_grade(prediction.student_id, courses[0])
    assert (newer.model_version, newer.stored) == (2, False)
    assert replace(newer, model_version=1) == as_computed(prediction)


def test_while_postgresql_is_away_the_last_answer_is_given_and_marked_as_old(
    analytics, courses, gradebook
) -> None:
    prediction, other = analytics.predict_final_grades(courses[0]).answers[:2]
    students = [prediction.student_id, "nobody", other.student_id]
    explanations = analytics.get_model_explanations_of(courses[0], students[:2])
    many = analytics.predict_final_grades(courses[0], students)
    away = sa.create_engine("postgresql+psycopg://nobody@/none?host=/nowhere")
    connected, analytics._engine = analytics._engine, away
    kept = analytics.predict_final_grade(prediction.student_id, courses[0])
    assert kept == replace(prediction, degraded=kept.degraded)
    assert kept.degraded[-1].startswith(
        "PostgreSQL does not answer; this was answered on 2025-11-10"
    )
    again = analytics.get_model_explanations(prediction.student_id, courses[0])
    assert again.explanation == explanations.answers[0].explanation and again.prediction.degraded
    # Each answer is kept once, however it was requested.
    assert analytics.predict_final_grade(other.student_id, courses[0]).degraded
    assert analytics.predict_final_grades(courses[0], students) == Answers(
        (kept, replace(other, degraded=kept.degraded)), many.refused
    )
    assert analytics.get_model_explanations_of(courses[0], students[:2]) == Answers(
        (again,), explanations.refused
    )
    with pytest.raises(StorageUnavailable):
        analytics.get_model_explanations(other.student_id, courses[0])
    with pytest.raises(StorageUnavailable):
        analytics.predict_final_grades(courses[1])
    analytics._predictions._seconds = 0.0
    with pytest.raises(StorageUnavailable):
        analytics.predict_final_grade(prediction.student_id, courses[0])
    with pytest.raises(StorageUnavailable):
        analytics.predict_final_grades(courses[0])
    analytics._engine = connected
    assert analytics.predict_final_grade(prediction.student_id, courses[0]) == prediction
