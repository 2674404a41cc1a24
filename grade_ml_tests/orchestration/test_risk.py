"""What follows from the night's forecasts, by the job on a small simulated campus."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from datetime import date, timedelta

import pandas as pd
import pytest
from dagster import (
    AssetCheckSeverity,
    DagsterInstance,
    ExecuteInProcessResult,
    MarkdownMetadataValue,
)
from sqlalchemy import Engine

from grade_ml.core.settings import Settings
from grade_ml.early_warning import store as risk_store
from grade_ml.orchestration.build import build_defs
from grade_ml.orchestration.catalog import synchronize
from grade_ml.orchestration.partitions import range_tags
from grade_ml.orchestration.running import QUIET
from grade_ml_tests.ensemble.campus import store as fill
from grade_ml_tests.forecasting.campus import TODAY, campus
from grade_ml_tests.orchestration.test_plots import png

pytestmark = pytest.mark.slow

JOB = "generate_time_series_forecasts"
#: Modules that are not there.
WITHOUT = ("tensorflow", "keras", "prophet")
#: A small load, so that some are left out.
LOAD = 1


def night(
    settings: Settings, instance: DagsterInstance, courses: list[str], as_of: date
) -> ExecuteInProcessResult:
    return (
        build_defs(settings)
        .resolve_job_def(JOB)
        .execute_in_process(
            run_config={**QUIET, "resources": {"platform": {"config": {"as_of": str(as_of)}}}},
            instance=instance,
            tags=range_tags(courses[0], courses[-1]),
            raise_on_error=False,
        )
    )


def rows(engine: Engine, table, as_of: date) -> pd.DataFrame:
    with engine.connect() as connection:
        return risk_store.read(connection, table, table.c.as_of == as_of)


def told(result: ExecuteInProcessResult, asset: str) -> dict[str, dict[str, object]]:
    events = result.asset_materializations_for_node(asset)
    return {event.partition: event.metadata for event in events}


@pytest.fixture
def courses(engine: Engine, instance: DagsterInstance) -> list[str]:
    fill(engine, campus())
    return synchronize(instance, list(campus().courses["course_id"]))


@pytest.fixture
def without(monkeypatch: pytest.MonkeyPatch) -> None:
    """No TensorFlow and no Prophet, as in an installation without their extras."""
    for name in WITHOUT:
        monkeypatch.setitem(sys.modules, name, None)


@pytest.mark.usefixtures("without")
def test_a_week_of_nights(settings: Settings, engine: Engine, instance, courses, environment):
    settings = settings.model_copy(update={"adviser_load": LOAD})
    in_a_process_of_its_own(environment, EARLIER)
    says_what_it_lacks(engine, courses, EARLIER)
    tonight = night(settings, instance, courses, TODAY)
    assert tonight.success, [
        str(event.event_specific_data) for event in tonight.get_step_failure_events()
    ]
    says_what_it_lacks(engine, courses, TODAY)
    warnings = {
        one.asset_key.to_user_string(): (
            one.check_name,
            one.severity,
            str(one.metadata["degraded"]),
        )
        for one in tonight.get_asset_check_evaluations()
        if not one.passed
    }
    reasons = dict.fromkeys(
        ("trajectory_model", "trajectory_forecasts"), "tensorflow is not installed"
    )
    assert warnings.keys() == reasons.keys()
    for asset, reason in reasons.items():
        assert warnings[asset][:2] == ("complete", AssetCheckSeverity.WARN)
        assert reason in warnings[asset][2]

    # Periods, with pictures, and figures of a later term.
    periods = rows(engine, risk_store.risk_period, TODAY)
    assert len(periods)
    assert periods["severity"].between(0.5, 1).all()
    assert (periods["end_week"] >= periods["start_week"]).all()
    by_course = told(tonight, "risk_periods")
    assert {key: metadata["periods"].value for key, metadata in by_course.items()} == {
        key: int((periods["course_id"] == key).sum()) for key in courses
    }
    worst = by_course[periods["course_id"].mode()[0]]
    for name in ("risk_calendar", "running_grades"):
        assert isinstance(worst[name], MarkdownMetadataValue)
        assert png(worst[name])
    figures = {row.data["group"]: row.data for row in worst["on_a_later_term"].records}
    assert figures["all"]["precision"] > figures["all"]["base_rate"]
    assert figures["all"]["lead_weeks"] >= 0

    # Loads are kept, and who is left out is listed.
    tasks = rows(engine, risk_store.intervention, TODAY)
    planned = tasks[tasks["planned_on"].notna()]
    assert planned.groupby(["section_id", "owner"]).size().max() == LOAD
    assert tasks["planned_on"].isna().sum() > 0
    assert told(tonight, "interventions")[courses[0]]["load"].value == LOAD
    at_risk = set(periods[["section_id", "student_id"]].itertuples(index=False, name=None))
    assert at_risk <= set(tasks[["section_id", "student_id"]].itertuples(index=False, name=None))

    # Nobody is named where all may read.
    for asset in ("risk_periods", "interventions", "performance_anomalies"):
        text = str([(key, str(value)) for key, value in told(tonight, asset).items()])
        assert not [one for one in set(periods["student_id"]) if one in text]
    anomalies = rows(engine, risk_store.anomaly, TODAY)
    counted = told(tonight, "performance_anomalies")
    assert sum(one["anomalies"].value for one in counted.values()) == len(anomalies)
    assert (anomalies["p_adjusted"] <= 0.1).all()


EARLIER = TODAY - timedelta(days=7)


def says_what_it_lacks(engine: Engine, courses: list[str], as_of: date) -> None:
    with engine.connect() as connection:
        degraded = risk_store.degraded(connection, courses[0], as_of)
    for name in ("tensorflow", "prophet"):
        assert any(f"{name} is not installed" in reason for reason in degraded)


def in_a_process_of_its_own(environment: dict[str, str], as_of: date) -> None:
    """Run the job by the command, in a process that never could import what is missing."""
    program = "; ".join(
        [
            "import sys",
            f"sys.modules.update(dict.fromkeys({WITHOUT}))",
            "from grade_ml.cli import main",
            f"sys.argv = ['grade-ml', 'run', '{JOB}', '--json']",
            "main()",
        ]
    )
    ran = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        env={**os.environ, **environment, "GRADE_ML_AS_OF": str(as_of)},
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    report = json.loads(ran.stdout.strip().splitlines()[-1])
    assert report["success"]
    assert {one["asset"] for one in report["assets"]} >= {
        "trajectory_model",
        "trajectory_forecasts",
        "risk_periods",
        "interventions",
        "performance_anomalies",
    }
