"""From stored frames to stored forecasts, on a real database."""

from __future__ import annotations

from datetime import timedelta

from sqlalchemy import Engine

from grade_ml.core.settings import Settings
from grade_ml.early_warning.store import newest_run
from grade_ml.forecasting import store
from grade_ml.serving.forecasts import ServedTrajectory, forecast_running
from grade_ml_tests.ensemble.campus import redesigned
from grade_ml_tests.ensemble.campus import store as fill
from grade_ml_tests.forecasting.campus import TODAY, campus, compute, fitted, workspace


def test_old_features_are_reported_and_forecasts_of_an_earlier_day_stay(
    engine: Engine, settings: Settings
):
    redesigned_course = sorted(campus().courses["course_id"])[0]
    fill(engine, redesigned(campus(), redesigned_course))
    courses = compute(engine, settings, campus(), TODAY)
    served = ServedTrajectory(fitted().model, 1)
    with workspace(engine, settings) as at:
        forecast = forecast_running(at, courses, served)
    assert len(forecast.forecasts) and not any(
        "features of" in reason for reason in forecast.degraded
    )
    assert not forecast.forecasts.duplicated(["section_id", "student_id", "assignment_id"]).any()

    with workspace(engine, settings, TODAY + timedelta(days=2)) as at:
        stale = forecast_running(at, courses, served)
        assert any("features of 2025-11-10" in reason for reason in stale.degraded)
        kept = store.read_forecasts(at.connection, TODAY)
        told = {course: newest_run(at.connection, course, TODAY).degraded for course in courses}
    assert len(kept) == len(forecast.forecasts)
    assert {
        course for course, reasons in told.items() if "was redesigned" in " ".join(reasons)
    } == {redesigned_course}
