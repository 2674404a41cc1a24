"""What follows from the nightly forecasts, by the job on a small simulated campus."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from datetime import date, timedelta

import pandas as pd
import pytest
import sqlalchemy as sa
from dagster import (
    AssetCheckSeverity,
    DagsterInstance,
    ExecuteInProcessResult,
    MarkdownMetadataValue,
)
from sqlalchemy import Engine

from grade_ml.core.settings import Settings
from grade_ml.early_warning import store as risk_store
from grade_ml.early_warning import tables as risk_tables
from grade_ml.engine import PredictiveAnalyticsEngine
from grade_ml.orchestration.build import build_defs
from grade_ml.orchestration.catalog import synchronize
from grade_ml.orchestration.ranges import range_tags
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


def nightly_run(
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


def metadata_of(result: ExecuteInProcessResult, asset: str) -> dict[str, dict[str, object]]:
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
def test_a_week_of_nightly_runs(settings: Settings, engine: Engine, instance, courses, environment):
    settings = settings.model_copy(update={"adviser_load": LOAD})
    in_a_process_of_its_own(environment, EARLIER)
    names_what_it_lacks(engine, courses, EARLIER)
    tonight = nightly_run(settings, instance, courses, TODAY)
    assert tonight.success, [
        str(event.event_specific_data) for event in tonight.get_step_failure_events()
    ]
    names_what_it_lacks(engine, courses, TODAY)
    warnings = {
        evaluation.asset_key.to_user_string(): (
            evaluation.check_name,
            evaluation.severity,
            str(evaluation.metadata["degraded"]),
        )
        for evaluation in tonight.get_asset_check_evaluations()
        if not evaluation.passed
    }
    reasons = dict.fromkeys(
        ("trajectory_model", "trajectory_forecasts"), "tensorflow is not installed"
    )
    assert warnings.keys() == reasons.keys()
    for asset, reason in reasons.items():
        assert warnings[asset][:2] == ("complete", AssetCheckSeverity.WARN)
        assert reason in warnings[asset][2]

    # Periods, with pictures, and figures of a later term.
    periods = rows(engine, risk_tables.risk_period, TODAY)
    assert len(periods)
    assert periods["severity"].between(0.5, 1).all()
    assert (periods["end_week"] >= periods["start_week"]).all()
    by_course = metadata_of(tonight, "risk_periods")
    assert {key: metadata["periods"].value for key, metadata in by_course.items()} == {
        key: int((periods["course_id"] == key).sum()) for key in courses
    }
    worst = by_course[periods["course_id"].mode()[0]]
    for name in ("risk calendar", "running grades"):
        assert isinstance(worst[name], MarkdownMetadataValue)
        assert png(worst[name])
    figures = {row.data["figure"]: row.data["all"] for row in worst["on a later term"].records}
    assert figures["precision (%)"] > figures["weeks in trouble (%)"]
    assert figures["lead time (weeks)"] >= 0

    # Loads are not exceeded, and who is left out is listed.
    tasks = rows(engine, risk_tables.intervention, TODAY)
    planned = tasks[tasks["planned_on"].notna()]
    assert planned.groupby(["section_id", "owner"]).size().max() == LOAD
    assert tasks["planned_on"].isna().sum() > 0
    assert metadata_of(tonight, "interventions")[courses[0]]["load"].value == LOAD
    at_risk = set(periods[["section_id", "student_id"]].itertuples(index=False, name=None))
    assert at_risk <= set(tasks[["section_id", "student_id"]].itertuples(index=False, name=None))

    readers_see_what_the_engine_answers(settings, engine, periods)

    # Nobody is named where all may read.
    for asset in ("risk_periods", "interventions", "performance_anomalies"):
        text = str([(key, str(value)) for key, value in metadata_of(tonight, asset).items()])
        assert not [student for student in set(periods["student_id"]) if student in text]
    anomalies = rows(engine, risk_tables.anomaly, TODAY)
    counted = metadata_of(tonight, "performance_anomalies")
    assert sum(counts["anomalies"].value for counts in counted.values()) == len(anomalies)
    assert (anomalies["p_adjusted"] <= 0.1).all()


EARLIER = TODAY - timedelta(days=7)


def readers_see_what_the_engine_answers(
    settings: Settings, engine: Engine, periods: pd.DataFrame
) -> None:
    """Of the student with the gravest risk period."""
    worst = periods.loc[periods["severity"].idxmax()]
    with PredictiveAnalyticsEngine(settings.model_copy(update={"as_of": TODAY})) as analytics:
        forecast = analytics.generate_time_series_forecast(worst["student_id"], worst["course_id"])
    body = forecast.to_dict()
    with engine.connect() as connection:
        for view, name, order in (
            ("forecasts", "assignments", "horizon"),
            ("interventions", "interventions", "rank"),
        ):
            columns = ", ".join(body[name][0])
            query = sa.text(
                f"select {columns} from published.{view} where section_id = :section "
                f"and student_id = :student order by {order}"
            )
            ids = {"section": worst["section_id"], "student": worst["student_id"]}
            seen = [dict(row) for row in connection.execute(query, ids).mappings()]
            assert rounded(seen) == rounded(body[name]), view
        gravest = connection.execute(sa.text("select max(severity) from published.risk_list"))
    assert gravest.scalar() == worst["severity"]


def rounded(rows: list[dict[str, object]]) -> list[dict[str, object]]:
    """Return rows with dates as texts, and numbers as exactly as frames are written as JSON."""
    return [
        {
            name: round(value, 8) if isinstance(value, float) else value
            for name, value in json.loads(json.dumps(row, default=str)).items()
        }
        for row in rows
    ]


def names_what_it_lacks(engine: Engine, courses: list[str], as_of: date) -> None:
    with engine.connect() as connection:
        run = risk_store.newest_run(connection, courses[0], as_of)
    for name in ("tensorflow", "prophet"):
        assert any(f"{name} is not installed" in reason for reason in run.degraded)


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
    assert {asset["asset"] for asset in report["assets"]} >= {
        "trajectory_model",
        "trajectory_forecasts",
        "risk_periods",
        "interventions",
        "performance_anomalies",
    }
