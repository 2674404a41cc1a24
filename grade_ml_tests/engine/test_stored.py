"""Answers from what the night stored, and what makes the engine compute instead."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import count

import pytest
import sqlalchemy as sa
from sqlalchemy import Engine

from grade_ml.core.clock import Clock
from grade_ml.core.settings import Settings
from grade_ml.engine import (
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
from grade_ml_tests.engine.schemas import require_valid
from grade_ml_tests.ensemble.campus import TODAY, make_champion, small, store

NOW = datetime(2025, 11, 10, 14, tzinfo=UTC)


class At(Clock):
    """Stands still."""

    def now(self) -> datetime:
        return NOW


@pytest.fixture(scope="module")
def gradebook() -> Gradebook:
    return small()


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


def night(engine: Engine, settings: Settings, registry: Registry, courses: list[str]) -> None:
    """Refresh features and score, as a night does."""
    with engine.begin() as connection:
        workspace = Workspace(connection, registry, settings.storage_root, TODAY, NOW)
        refresh(connection, workspace.frames, courses)
        score_running(workspace, courses)


@pytest.fixture
def courses(gradebook: Gradebook) -> list[str]:
    return gradebook.courses["course_id"].tolist()


@pytest.fixture
def asked(  # noqa: PLR0917 - fixtures
    settings: Settings, engine: Engine, gradebook, courses, baseline_of_small, tmp_path
) -> Iterator[PredictiveAnalyticsEngine]:
    store(engine, gradebook)
    loaded(engine, *courses)
    night(engine, settings, make_champion(settings, baseline_of_small, tmp_path / "m"), courses)
    today = settings.model_copy(update={"as_of": TODAY})
    with PredictiveAnalyticsEngine(today, clock=At()) as one:
        yield one


def anew(one: GradePrediction) -> GradePrediction:
    return replace(one, stored=False)


def test_what_is_stored_answers_until_a_load_changes_a_course_of_the_student(
    asked, engine, courses
) -> None:
    before = {one.student_id: one for one in asked.predict_final_grades(courses[0]).answers}
    assert before and all(one.stored and one.grade is not None for one in before.values())
    one = next(iter(before.values()))
    assert one == asked.predict_final_grade(one.student_id, courses[0])
    assert (one.level, one.model_stage, one.age_hours) == (Level.BASELINE, "champion", 6.0)
    loaded(engine, "another course")
    again = asked.predict_final_grade(one.student_id, courses[0])
    assert again.stored and anew(again) == replace(anew(one), records_from=again.records_from)
    loaded(engine, courses[0])
    computed = asked.predict_final_grades(courses[0]).answers
    newer = computed[0].records_from
    assert not any(other.stored for other in computed)
    # To the last bit: the same rows, by the same code.
    assert list(computed) == [replace(anew(other), records_from=newer) for other in before.values()]
    alone = [asked.predict_final_grade(student, courses[0]) for student in list(before)[:3]]
    assert alone == list(computed[:3])
    require_valid("predict_final_grades", asked.predict_final_grades())
    require_valid("predict_final_grade", alone[0])
    told = asked.get_model_explanations(alone[0].student_id, courses[0], goal=90.0)
    assert told.prediction == alone[0] and told.what_if is not None
    require_valid("get_model_explanations", told)


@pytest.mark.slow
def test_what_another_model_or_another_day_said_does_not_answer(asked, engine, courses) -> None:
    one = asked.predict_final_grades(courses[0]).answers[0]
    yesterday = TODAY - timedelta(days=1)
    assert not asked.predict_final_grade(one.student_id, courses[0], as_of=yesterday).stored
    with engine.begin() as connection:
        connection.execute(sa.update(grade_prediction).values(model_version=7, grade=3.0))
    assert asked.predict_final_grade(one.student_id, courses[0]) == anew(one)


def test_many_are_answered_and_who_cannot_be_is_named(asked, gradebook, courses) -> None:
    known = [one.student_id for one in asked.predict_final_grades(courses[0]).answers][:2]
    strange = [None, True, 1.5, b"x", "x" * 1_000_000, "'; drop table gradebook.student; --", 12]
    found = asked.predict_final_grades(courses[0], [*known, *strange])
    assert [one.student_id for one in found.answers] == known
    assert [one.error for one in found.refused] == ["UnknownStudent"] * len(strange)
    assert max(len(one.message) for one in found.refused) < 200
    with pytest.raises(ValueError, match="Name the course"):
        asked.predict_final_grades(user_ids=known)


@pytest.mark.slow
def test_200_callers_are_answered_at_once(asked, engine, courses) -> None:
    """Stored and computed alike, through ten connections at most."""
    people = asked.predict_final_grades(courses[0]).answers
    expected = {one.student_id: anew(one) for one in people}
    for again in (False, True):
        if again:
            loaded(engine, courses[0])
        with ThreadPoolExecutor(200) as threads:
            several = [people[place % len(people)].student_id for place in range(200)]
            found = list(
                threads.map(lambda one: asked.predict_final_grade(one, courses[0]), several)
            )
        assert all(one.stored is not again for one in found)
        newer = found[0].records_from
        assert [anew(one) for one in found] == [
            replace(expected[student], records_from=newer) for student in several
        ]
    checked_out = asked._engine.pool.checkedout()
    assert checked_out == 0


@pytest.mark.slow
def test_too_many_computations_are_refused_and_not_queued_without_end(
    settings, asked, engine, courses
) -> None:
    one = asked.predict_final_grades(courses[0]).answers[0]
    loaded(engine, courses[0])
    limits = Limits(at_once=1, waiting=0)
    today = settings.model_copy(update={"as_of": TODAY})
    with PredictiveAnalyticsEngine(today, limits=limits, clock=At()) as small_one:
        with small_one._slots.one(), pytest.raises(Overloaded, match="wait already"):
            small_one.predict_final_grade(one.student_id, courses[0])
        assert small_one.predict_final_grade(one.student_id, courses[0]).grade == one.grade


@pytest.mark.slow
def test_a_promotion_is_followed(  # noqa: PLR0917 - fixtures
    asked, settings, engine, courses, baseline_of_small, tmp_path
) -> None:
    one = asked.predict_final_grades(courses[0]).answers[0]
    assert one.model_version == 1
    make_champion(settings, baseline_of_small, tmp_path / "newer")
    # Within `champion_seconds` the engine may not know; then it does.
    asked._champions._read_at = float("-inf")
    newer = asked.predict_final_grade(one.student_id, courses[0])
    assert (newer.model_version, newer.stored) == (2, False)
    assert replace(newer, model_version=1) == anew(one)


def test_while_postgresql_is_away_the_last_answer_is_given_and_said_to_be_old(
    asked, courses, gradebook
) -> None:
    one, other = asked.predict_final_grades(courses[0]).answers[:2]
    told = asked.get_model_explanations(one.student_id, courses[0])
    assert asked.predict_final_grade(one.student_id, courses[0]) == one
    away = sa.create_engine("postgresql+psycopg://nobody@/none?host=/nowhere")
    there, asked._engine = asked._engine, away
    kept = asked.predict_final_grade(one.student_id, courses[0])
    assert kept == replace(one, degraded=kept.degraded)
    assert kept.degraded[-1].startswith(
        "PostgreSQL does not answer; this was answered on 2025-11-10"
    )
    again = asked.get_model_explanations(one.student_id, courses[0])
    assert again.explanation == told.explanation and again.prediction.degraded
    with pytest.raises(StorageUnavailable):
        asked.predict_final_grade(other.student_id, courses[0])
    with pytest.raises(StorageUnavailable):
        asked.predict_final_grades(courses[0])
    asked._limits = replace(asked._limits, kept_seconds=0.0)
    with pytest.raises(StorageUnavailable):
        asked.predict_final_grade(one.student_id, courses[0])
    asked._engine = there
    assert asked.predict_final_grade(one.student_id, courses[0]) == one
