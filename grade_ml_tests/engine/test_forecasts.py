"""Forecasts that the nightly run stored, and those that are computed once newer records came."""

from __future__ import annotations

import sys
from dataclasses import replace
from datetime import date, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy import Engine

from grade_ml.core.optional import absence
from grade_ml.core.settings import Settings
from grade_ml.early_warning.student import StudentForecast
from grade_ml.engine import PredictiveAnalyticsEngine
from grade_ml.features.store import SEQUENCES, SNAPSHOTS
from grade_ml.forecasting import store as forecasts
from grade_ml.forecasting.contract import Method
from grade_ml.gradebook import schema
from grade_ml.serving.forecasts import ServedTrajectory, forecast_running
from grade_ml_tests.early_warning.test_nightly import forecast, nightly_run
from grade_ml_tests.engine.schemas import require_valid
from grade_ml_tests.engine.test_stored import NOW, At, loaded
from grade_ml_tests.ensemble.campus import redesigned
from grade_ml_tests.ensemble.campus import store as fill
from grade_ml_tests.forecasting.campus import TODAY, campus, compute, fitted, workspace

pytestmark = pytest.mark.slow


def drop_others(engine: Engine, settings: Settings, course: str, student: str) -> None:
    """Leave only one student's rows in the stored frames of a course."""
    with workspace(engine, settings) as day_workspace:
        for kind, read in (
            (SNAPSHOTS, day_workspace.frames.snapshots),
            (SEQUENCES, day_workspace.frames.sequences),
        ):
            rows = read([course], student=student)
            assert 0 < len(rows) < len(read([course]))
            day_workspace.frames.write(course, rows, kind)


class On(At):
    """Stands still on a day."""

    def __init__(self, day: date) -> None:
        self.day = day

    def now(self) -> datetime:
        return NOW + (self.day - TODAY)


def engine_on(settings: Settings, day: date) -> PredictiveAnalyticsEngine:
    return PredictiveAnalyticsEngine(settings.model_copy(update={"as_of": day}), clock=On(day))


def remember(engine: Engine, *, version: int = 1, as_of: date = TODAY) -> None:
    """Record that a version of the trajectory model may serve from a day on."""
    with engine.begin() as connection:
        forecasts.remember_model(connection, version, as_of, {}, accepted=True)


def comparable(student_forecast: StudentForecast) -> dict[str, Any]:
    """Return a forecast without where it comes from and how old the records are."""
    values = student_forecast.to_dict()
    for name in ("stored", "records_from", "age_hours", "interventions"):
        del values[name]
    return values


def test_a_forecast_from_newer_records_equals_that_of_the_nightly_run(
    settings: Settings, engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a model that reads features, of students who take two courses."""
    names = campus().courses["course_id"].tolist()
    fill(engine, redesigned(campus(), names[0]))
    loaded(engine, *names)
    model = fitted(Method.BOOSTED)
    assert Method.BOOSTED in model.model.combination.used()
    forecast(engine, settings, tmp_path, TODAY, more=(Method.BOOSTED,))
    remember(engine)
    with workspace(engine, settings) as day_workspace:
        nightly_run(day_workspace, names)
    tomorrow = TODAY + timedelta(days=1)
    with engine_on(settings, TODAY) as analytics, engine_on(settings, tomorrow) as later:
        before = analytics.generate_time_series_forecasts(names[0]).answers
        assert before and all(answer.stored for answer in before)
        assert "was redesigned" in " ".join(before[0].degraded)
        loaded(engine, names[0])
        # The same records: the same forecast, to the last bit, of many and of each.
        again = analytics.generate_time_series_forecasts(names[0])
        require_valid("generate_time_series_forecasts", again)
        assert not any(answer.stored for answer in again.answers)
        assert list(map(comparable, again.answers)) == list(map(comparable, before))
        assert [answer.proposals.to_dict() for answer in again.answers] == [
            answer.proposals.to_dict() for answer in before
        ]
        student = max(before, key=lambda answer: len(answer.results)).student_id
        (was,) = (answer for answer in before if answer.student_id == student)
        with engine.begin() as connection:
            connection.execute(
                sa.delete(schema.result).where(
                    schema.result.c.student_id == student,
                    schema.result.c.assignment_id.in_(was.results["assignment_id"].tolist()),
                )
            )
        loaded(engine, names[0])
        missed = analytics.generate_time_series_forecast(student, names[0])
        assert comparable(missed)["assignments"] != comparable(was)["assignments"]
        next_day = later.generate_time_series_forecast(student, names[0])
        assert next_day.as_of == tomorrow and not next_day.stored
        assert next_day.degraded == was.degraded
        everyone = analytics.generate_time_series_forecasts(names[0]).answers
        compute(engine, settings, campus(), TODAY)
        with workspace(engine, settings) as day_workspace:
            forecast_running(day_workspace, names, ServedTrajectory(model.model, 1))
        stored = analytics.generate_time_series_forecasts(names[0]).answers
        assert all(answer.stored for answer in stored)
        assert list(map(comparable, stored)) == list(map(comparable, everyone))
        (mine,) = (answer for answer in stored if answer.student_id == student)
        assert comparable(mine) == comparable(missed)
        # If this process lacks a forecaster of the nightly run, the stored forecast is returned.
        loaded(engine, names[0])
        with engine_on(settings, TODAY) as without, monkeypatch.context() as patch:
            patch.setitem(sys.modules, "lightgbm", None)
            lacking = without.generate_time_series_forecast(student, names[0])
        own = comparable(mine)["degraded"]
        assert lacking.stored and comparable(lacking) | {"degraded": own} == comparable(mine)
        assert lacking.degraded[1:] == (
            f"a newer forecast cannot be computed: boosted: {absence('lightgbm')}",
            *own,
        )


def test_a_forecast_is_that_of_the_nightly_run_and_states_what_it_does_not_know(
    settings: Settings, engine: Engine, tmp_path: Path
) -> None:
    fill(engine, campus())
    names = campus().courses["course_id"].tolist()
    loaded(engine, *names)
    forecast(engine, settings, tmp_path, TODAY)
    with workspace(engine, settings) as day_workspace:
        nightly_run(day_workspace, names)
    on = partial(engine_on, settings)
    with on(TODAY) as analytics, on(TODAY + timedelta(days=1)) as tomorrow:
        all_forecasts = analytics.generate_time_series_forecasts(names[0])
        require_valid("generate_time_series_forecasts", all_forecasts)
        assert all_forecasts.answers and not all_forecasts.refused
        longest = max(all_forecasts.answers, key=lambda answer: len(answer.assignments))
        require_valid("generate_time_series_forecast", longest)
        assert (
            longest.as_of == TODAY
            and len(longest.weeks)
            and longest.age_hours == pytest.approx(6, abs=0.1)
        )
        assert longest.records_from is not None and longest.records_from < NOW
        assert not any("records" in reason for reason in longest.degraded)
        student, course = longest.student_id, longest.course_id
        drop_others(engine, settings, course, student)
        assert (
            analytics.generate_time_series_forecast(student, course).to_dict() == longest.to_dict()
        )
        loaded(engine, "another course")
        again = analytics.generate_time_series_forecast(student, course)
        assert again.degraded == longest.degraded and again.records_from > longest.records_from
        loaded(engine, course)
        # No version is recorded that may serve, so that nothing can be computed.
        behind = analytics.generate_time_series_forecast(student, course)
        assert behind.stored
        assert behind.degraded[0].startswith("records of the student's courses came after")
        assert behind.degraded[1].startswith(
            "a newer forecast cannot be computed: There is no model for forecasts"
        )
        assert behind.degraded[2:] == longest.degraded
        later = tomorrow.generate_time_series_forecast(student, course)
        assert later.degraded[:2] == (
            f"the newest forecast is that of {TODAY}",
            behind.degraded[0],
        )
        # For a past day the forecast of that day is returned.
        past = tomorrow.generate_time_series_forecast(student, course, as_of=TODAY)
        assert past.degraded == longest.degraded
        analytics._engine = sa.create_engine("postgresql+psycopg://nobody@/none?host=/nowhere")
        kept = analytics.generate_time_series_forecasts(names[0])
        assert [answer.student_id for answer in kept.answers] == [
            answer.student_id for answer in all_forecasts.answers
        ]
        assert all("PostgreSQL does not answer" in answer.degraded[-1] for answer in kept.answers)
        (mine,) = (other for other in kept.answers if other.student_id == student)
        assert replace(mine, degraded=()).to_dict() == replace(behind, degraded=()).to_dict()
