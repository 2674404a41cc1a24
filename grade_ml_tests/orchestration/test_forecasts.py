"""The nightly forecasts by the job, on a small simulated campus and a real database."""

from __future__ import annotations

from datetime import date, timedelta

import pandas as pd
import pytest
from dagster import DagsterInstance, ExecuteInProcessResult
from sqlalchemy import Engine

from grade_ml.core.settings import Settings
from grade_ml.forecasting import store
from grade_ml.orchestration.build import build_defs
from grade_ml.orchestration.catalog import synchronize
from grade_ml.orchestration.ranges import range_tags
from grade_ml.orchestration.running import QUIET
from grade_ml_tests.ensemble.campus import store as fill
from grade_ml_tests.forecasting.campus import TODAY, campus

pytestmark = pytest.mark.slow


def forecast(
    settings: Settings, instance: DagsterInstance, courses: list[str], as_of: date = TODAY
) -> ExecuteInProcessResult:
    job = build_defs(settings).resolve_job_def("generate_time_series_forecasts")
    config = {**QUIET, "resources": {"platform": {"config": {"as_of": as_of.isoformat()}}}}
    return job.execute_in_process(
        run_config=config,
        instance=instance,
        tags=range_tags(courses[0], courses[-1]),
        raise_on_error=False,
    )


def stored(engine: Engine, as_of: date) -> pd.DataFrame:
    with engine.connect() as connection:
        return store.read_forecasts(connection, as_of)


def test_a_nightly_run_forecasts_everybody_and_past_days_stay_and_can_be_forecast_again(
    settings: Settings, engine: Engine, instance: DagsterInstance
):
    fill(engine, campus())
    courses = synchronize(instance, list(campus().courses["course_id"]))
    early = TODAY - timedelta(days=21)
    first = forecast(settings, instance, courses, early)
    assert first.success, first.all_events[-1]
    (trained,) = first.asset_materializations_for_node("trajectory_model")
    assert (
        trained.metadata["fitted"].value and "became champion" in trained.metadata["outcome"].value
    )
    assert len(trained.metadata["weights"].records) >= 4
    naive = trained.metadata["RMSE of the naive forecast (points)"].value
    assert trained.metadata["RMSE (points)"].value < naive
    before = stored(engine, early)
    assert len(before) > 100 and set(before["course_id"]) == set(courses)

    tonight = forecast(settings, instance, courses)
    assert tonight.success
    per_course = tonight.asset_materializations_for_node("trajectory_forecasts")
    metadata = per_course[0].metadata
    assert sum(event.metadata["dagster/row_count"].value for event in per_course) == len(
        stored(engine, TODAY)
    )
    # No section has ended since: the model of the earlier day serves, and its words are kept.
    (kept,) = tonight.asset_materializations_for_node("trajectory_model")
    assert not kept.metadata["fitted"].value
    assert metadata["model version"].value == trained.metadata["model version"].value == 1
    assert metadata["degraded"].value == []
    checks = tonight.get_asset_check_evaluations()
    passed = {
        (evaluation.asset_key.to_user_string(), evaluation.check_name): evaluation.passed
        for evaluation in checks
    }
    complete = ("trajectory_model", "trajectory_forecasts", "risk_periods", "interventions")
    for check in ("better_than_naive", "intervals_cover"):
        assert passed.pop(("trajectory_model", check))
    assert {asset for asset, name in passed if name == "complete"} == set(complete)
    assert all(passed.values())
    pd.testing.assert_frame_equal(stored(engine, early), before)

    again = forecast(settings, instance, courses[:1], early)
    assert again.success
    pd.testing.assert_frame_equal(stored(engine, early), before)
