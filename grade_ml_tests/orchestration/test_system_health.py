"""The installation looks at itself: what Dagster knows of it, and what a run leaves behind."""

from __future__ import annotations

import stat
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from dagster import (
    AssetCheckEvaluation,
    AssetKey,
    AssetMaterialization,
    DagsterEvent,
    DagsterEventType,
    DagsterInstance,
    DagsterRun,
    TableMetadataValue,
)
from dagster import DagsterRunStatus as Status
from dagster._core.definitions.asset_checks.asset_check_evaluation import (
    AssetCheckEvaluationPlanned,
)
from dagster._core.remote_origin import (
    RegisteredCodeLocationOrigin,
    RemoteJobOrigin,
    RemoteRepositoryOrigin,
)
from dagster._core.test_utils import create_run_for_test
from prometheus_client.parser import text_string_to_metric_families
from sqlalchemy import Engine, select

from grade_ml.core.optional import absence
from grade_ml.core.settings import Settings
from grade_ml.maintenance import history, libraries
from grade_ml.maintenance.facts import Queue
from grade_ml.orchestration import standing
from grade_ml.orchestration.build import build_defs
from grade_ml.orchestration.degradation import completeness, repairable
from grade_ml.orchestration.results import Summary
from grade_ml.orchestration.running import QUIET

IN_MEMORY = True


def test_a_run_stores_what_it_measured_and_writes_a_page_and_figures(
    settings: Settings, engine: Engine, instance: DagsterInstance, tmp_path: Path
):
    place = tmp_path / "collected" / "grade_ml.prom"
    settings = settings.model_copy(update={"metrics_file": place})
    job = build_defs(settings).resolve_job_def("system_health")
    result = job.execute_in_process(run_config=QUIET, instance=instance)
    (materialization,) = result.asset_materializations_for_node("look_at_the_system")
    assert materialization.asset_key == AssetKey("system_health")
    report = Summary()
    report.add_run(result.all_events)
    assert [(asset.asset, asset.seconds > 0) for asset in report.assets] == [
        ("system_health", True)
    ]
    with engine.begin() as connection:
        stored = history.newest(connection)
        assert "lime" in connection.execute(select(libraries.library.c.name)).scalars().all()
    # Of an empty installation too little is known for a score.
    assert stored and stored.score is None and "score (of 100)" not in materialization.metadata
    assert {"runs", "freshness", "records", "models"} <= set(stored.unknown)
    assert (
        stored.parts["database"].points
        == materialization.metadata["database (points of 100)"].value
        == 100
    )
    assert stored.parts["disk"].points is not None

    page = Path(str(materialization.metadata["page"].value)).read_text()
    assert "Health of grade_ml" in page and page.count("<img") == 1
    assert isinstance(materialization.metadata["parts"], TableMetadataValue)
    for title in ("trend", "durations"):
        assert "data:image" not in str(materialization.metadata[title].value), (
            "there is nothing to draw yet"
        )
    families = {family.name: family for family in text_string_to_metric_families(place.read_text())}
    parts = families["grade_ml_health_part_score"].samples
    points = {sample.labels["part"]: sample.value for sample in parts}
    assert points["database"] == 100 and "runs" not in points
    assert stat.S_IMODE(place.stat().st_mode) == 0o644
    assert list(place.parent.iterdir()) == [place]


def test_the_queue_is_of_runs_that_wait_and_work(instance: DagsterInstance):
    place = RemoteRepositoryOrigin(RegisteredCodeLocationOrigin("grade_ml"), "__repository__")

    def run(status: Status, job: str = "night") -> DagsterRun:
        origin = RemoteJobOrigin(place, job)
        return create_run_for_test(
            instance, job_name=job, status=status, remote_job_origin=origin, job_code_origin=None
        )

    assert standing.queue(instance, datetime.now(UTC)) == Queue()
    for status in (Status.QUEUED, Status.NOT_STARTED, Status.STARTED, Status.SUCCESS):
        run(status)
    own = run(Status.STARTED, "system_health")
    runs = standing.queue(instance, datetime.now(UTC) + timedelta(hours=2), own.run_id)
    assert (runs.queued, runs.started) == (2, 1)
    assert runs.longest_wait_seconds == pytest.approx(7200, abs=60)


def test_assets_are_as_old_and_as_whole_as_in_dagster(instance: DagsterInstance):
    started = datetime.now(UTC)
    for name in ("grade_predictions", "external_features", "students", "gone"):
        instance.report_runless_asset_event(AssetMaterialization(name, partition="2026-11-02"))
    assets = standing.made(instance)
    assert {name: asset.daily for name, asset in assets.items()} == {
        "grade_predictions": False,
        "external_features": True,
    }
    assert all(started <= asset.at <= datetime.now(UTC) for asset in assets.values())

    for name, reasons in (("grade_predictions", []), ("gone", ["no xgboost"])):
        evaluation = AssetCheckEvaluation(
            asset_key=AssetKey(name),
            check_name="complete",
            passed=not reasons,
            metadata={"degraded": reasons},
        )
        instance.report_runless_asset_event(evaluation)
    whole = {"gone": ("no xgboost",), "grade_predictions": ()}
    assert completeness(instance) == whole

    # A run that has begun, and may never come to its check.
    run = create_run_for_test(instance, job_name="night", status=Status.STARTED)
    for name in whole:
        planned = DagsterEvent(
            DagsterEventType.ASSET_CHECK_EVALUATION_PLANNED.value,
            "night",
            event_specific_data=AssetCheckEvaluationPlanned(
                asset_key=AssetKey(name), check_name="complete"
            ),
        )
        instance.report_dagster_event(planned, run.run_id)
    assert completeness(instance) == whole


def test_of_missing_libraries_only_a_lost_one_makes_an_asset_degraded(instance: DagsterInstance):
    why = {
        "pooled_ensemble": f"{absence('xgboost')}; the ensemble goes without it",
        "lime_explanations": f"{absence('lime')}: no second opinions",
        "grade_predictions": "pooled 3 cannot be read: The library xgboost is not installed",
    }
    for name, reason in why.items():
        evaluation = AssetCheckEvaluation(
            asset_key=AssetKey(name),
            check_name="complete",
            passed=False,
            metadata={"degraded": [reason]},
        )
        instance.report_runless_asset_event(AssetMaterialization(name))
        instance.report_runless_asset_event(evaluation)
    assert repairable(instance, {"lime"}) == {
        "grade_predictions": (why["grade_predictions"],),
        "lime_explanations": (why["lime_explanations"],),
        "pooled_ensemble": (),
    }


def test_refused_deliveries_are_those_of_the_last_week(instance: DagsterInstance):
    for refused in (0, 2, 1):
        metadata = {"deliveries": 3, "refused": refused}
        event = AssetMaterialization("inbox_deliveries", metadata=metadata)
        instance.report_runless_asset_event(event)
    now = datetime.now(UTC)
    assert standing.refused(instance, now + timedelta(minutes=1)) == 3
    assert standing.refused(instance, now + timedelta(days=8)) == 0
