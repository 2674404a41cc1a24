"""What a clean-up leaves of Dagster: every partition as it is, and what counts of it."""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import sqlalchemy as sa
from dagster import (
    AssetCheckResult,
    AssetCheckSpec,
    AssetKey,
    AssetsDefinition,
    DagsterInstance,
    DagsterRunStatus,
    Definitions,
    MaterializeResult,
    StaticPartitionsDefinition,
    asset,
    define_asset_job,
)
from dagster._core.definitions.run_request import InstigatorType
from dagster._core.execution.backfill import BulkActionStatus, PartitionBackfill
from dagster._core.scheduler.instigation import TickData, TickStatus
from dagster._core.storage.event_log.schema import SqlEventLogStorageTable
from dagster._core.storage.tags import BACKFILL_ID_TAG
from dagster._core.test_utils import create_run_for_test
from sqlalchemy import Engine

from grade_ml.alerts import conditions
from grade_ml.alerts.decisions import unrepaired
from grade_ml.core.settings import RetentionSettings
from grade_ml.maintenance import results
from grade_ml.maintenance.cleaning import Report, clean
from grade_ml.orchestration import pruning
from grade_ml.orchestration.sensors.facts import ended_runs

NAMES = ["a", "b", "c"]
LATER = datetime.now(UTC) + timedelta(days=100)


@asset(
    partitions_def=StaticPartitionsDefinition(NAMES),
    check_specs=[AssetCheckSpec("sound", asset="graded")],
)
def graded() -> MaterializeResult:
    print("something to read")
    return MaterializeResult(check_results=[AssetCheckResult(passed=True)], tags={"k": "v"})


ASSETS: list[AssetsDefinition] = [graded]
DEFINITIONS = Definitions(ASSETS, jobs=[define_asset_job("grade", ASSETS)])


def grade(instance: DagsterInstance, partition: str) -> str:
    job = DEFINITIONS.resolve_job_def("grade")
    return job.execute_in_process(instance=instance, partition_key=partition).run_id


def cleaned(
    instance: DagsterInstance, engine: Engine, at: datetime = LATER, **options: bool
) -> Report:
    return clean(pruning.outdated(instance, engine, at, 90, 30), **options)


def removed(report: Report) -> dict[str, int]:
    assert not report.problems
    return {part.kind: part.freed.count for part in report.parts if part.freed}


def state(instance: DagsterInstance) -> tuple[object, ...]:
    """Return what the UI shows of the partitions and the check."""
    key = AssetKey("graded")
    newest = instance.get_latest_materialization_event(key)
    (check,) = instance.event_log_storage.get_latest_asset_check_execution_by_key(
        [spec.key for spec in graded.check_specs]
    ).values()
    assert newest and check
    return (
        instance.get_materialized_partitions(key),
        newest.run_id,
        check.run_id,
        check.status,
        instance.get_latest_storage_id_by_partition(key, newest.dagster_event.event_type),
    )


def runs(instance: DagsterInstance) -> set[str]:
    return {run.run_id for run in instance.get_runs()}


def rows(instance: DagsterInstance, run_id: str) -> int:
    """Return how many rows of Dagster's tables, files of logs included, are about a run."""
    with pruning._events(instance) as connection:
        counts = [
            connection.execute(
                sa.text(f"select count(*) from {table} where run_id = :run"), {"run": run_id}
            ).scalar_one()
            for table in ("event_logs", "asset_check_executions", "runs", "run_tags")
        ]
    logs = Path(str(instance.compute_log_manager._base_dir)) / run_id
    return sum(counts) + logs.exists()


def test_every_partition_and_check_is_as_before_and_nothing_else_is_left(
    opened: DagsterInstance, engine: Engine
) -> None:
    first = [grade(opened, name) for name in ("a", "a", "b", "c", "b")]
    failed = create_run_for_test(opened, "grade", status=DagsterRunStatus.FAILURE).run_id
    running = create_run_for_test(opened, "grade", status=DagsterRunStatus.STARTED).run_id
    before = state(opened)
    assert removed(cleaned(opened, engine, datetime.now(UTC))) == {}, "they are young"
    dry = cleaned(opened, engine, dry_run=True)
    assert dry.parts[0].found and dry.parts[0].found.count == 3
    assert dry.parts[0].found.bytes > 2 * 1000
    assert runs(opened) == {*first, running, failed}
    report = cleaned(opened, engine)
    # The executions of checks and the logs are what `delete_run` leaves.
    assert removed(report)["Dagster runs"] == 3
    assert removed(report)["events and checks without a run"] == 2
    assert runs(opened) == {first[1], first[3], first[4], running}
    assert state(opened) == before
    assert [rows(opened, run_id) for run_id in (first[0], first[2], failed)] == [0, 0, 0]
    assert removed(cleaned(opened, engine)) == {}
    with engine.connect() as connection:
        kept = {result.run_id: result.status for result in results.newest(connection)}
    assert kept == {first[0]: "success", first[2]: "success", failed: "failure"}
    with pruning._events(opened) as connection:
        tagged = sa.text("select count(distinct event_id) from asset_event_tags")
        assert connection.execute(tagged).scalar() == 3


def test_runs_of_a_running_backfill_stay(opened: DagsterInstance, engine: Engine) -> None:
    backfill = PartitionBackfill("fill", BulkActionStatus.REQUESTED, False, {}, 0.0)
    opened.add_backfill(backfill)
    tags = {BACKFILL_ID_TAG: "fill"}
    create_run_for_test(opened, "grade", status=DagsterRunStatus.FAILURE, tags=tags)
    create_run_for_test(opened, "grade", status=DagsterRunStatus.STARTED)
    assert removed(cleaned(opened, engine)) == {}
    opened.update_backfill(backfill.with_status(BulkActionStatus.COMPLETED))
    assert removed(cleaned(opened, engine)) == {"Dagster runs": 1}


def test_an_alert_and_the_last_run_of_a_job_outlast_a_clean_up(
    opened: DagsterInstance, engine: Engine
) -> None:
    def ended(job: str, status: DagsterRunStatus, partition: str) -> str:
        tags = {"dagster/partition": partition}
        return create_run_for_test(opened, job, status=status, tags=tags).run_id

    def wrong() -> set[str]:
        return set(unrepaired(ended_runs(opened, DEFINITIONS.get_repository_def(), LATER)))

    opened.add_dynamic_partitions("course", NAMES)
    failed = ended("grade", DagsterRunStatus.FAILURE, "b")
    with engine.begin() as connection:
        conditions.record(connection, dict.fromkeys(wrong(), "no"), bool, [], LATER)
    repaired, seldom = (ended(job, DagsterRunStatus.SUCCESS, "a") for job in ("other", "seldom"))
    ended("other", DagsterRunStatus.SUCCESS, "a")
    for _ in range(3):
        grade(opened, "a")
    assert wrong() == {"job grade"}
    assert repaired in runs(opened)
    assert removed(cleaned(opened, engine))["Dagster runs"] == 3
    assert {failed, seldom} <= runs(opened) and repaired not in runs(opened)
    assert wrong() == {"job grade"}
    with engine.begin() as connection:
        conditions.record(connection, {}, bool, [], LATER)
    assert removed(cleaned(opened, engine))["Dagster runs"] == 1
    assert failed not in runs(opened)


def test_what_a_kill_in_the_middle_left_goes_next_time(
    opened: DagsterInstance, engine: Engine
) -> None:
    old, _ = grade(opened, "a"), grade(opened, "a")
    opened.run_storage.delete_run(old)  # the first of two steps
    assert rows(opened, old) > 0
    assert set(removed(cleaned(opened, engine))) >= {"events and checks without a run"}
    assert rows(opened, old) == 0
    assert removed(cleaned(opened, engine)) == {}


def test_what_was_deleted_by_hand_leaves_the_newest_of_a_partition(
    opened: DagsterInstance, engine: Engine
) -> None:
    only = grade(opened, "a")
    before = state(opened)
    opened.run_storage.delete_run(only)
    cleaned(opened, engine)
    assert state(opened) == before


def test_events_without_a_run_of_their_own_stay(opened: DagsterInstance, engine: Engine) -> None:
    from dagster import AssetMaterialization

    for _ in range(2):
        opened.report_runless_asset_event(AssetMaterialization("graded", partition="a"))
    cleaned(opened, engine)
    with pruning._events(opened) as connection:
        query = sa.select(sa.func.count()).select_from(SqlEventLogStorageTable)
        assert connection.execute(query).scalar() == 2


def test_the_newest_tick_of_each_schedule_stays(opened: DagsterInstance, engine: Engine) -> None:
    for name in ("there", "no longer there"):
        for days in (300, 200, 0):
            moment = (LATER - timedelta(days=100 + days)).timestamp()
            tick = TickData(name, name, InstigatorType.SCHEDULE, TickStatus.SKIPPED, moment)
            opened.create_tick(tick)
    assert removed(cleaned(opened, engine, LATER)) == {"ticks": 4}
    assert removed(cleaned(opened, engine, LATER + timedelta(days=500))) == {}


def test_logs_go_before_their_runs_and_links_are_not_followed(
    opened: DagsterInstance, engine: Engine, tmp_path: Path
) -> None:
    root = Path(str(opened.compute_log_manager._base_dir))
    run = create_run_for_test(opened, "grade", status=DagsterRunStatus.SUCCESS).run_id
    live = create_run_for_test(opened, "grade", status=DagsterRunStatus.STARTED).run_id
    for run_id in (run, live, "unknown"):
        (root / run_id / "compute_logs").mkdir(parents=True)
        (root / run_id / "compute_logs" / "step.out").write_text("printed")
    (root / "an_asset").mkdir()
    (tmp_path / "home" / "compute_logs").mkdir(parents=True)
    os.symlink(tmp_path / "home", root / "linked")
    os.symlink(tmp_path / "home", root / run / "compute_logs" / "linked")
    report = cleaned(opened, engine, datetime.now(UTC) + timedelta(days=31))
    assert removed(report) == {"compute logs": 2}
    assert report.parts[-1].freed and report.parts[-1].freed.freed == 2 * len("printed")
    assert {path.name for path in root.iterdir()} == {live, "an_asset", "linked"}
    assert (tmp_path / "home" / "compute_logs").is_dir()


@pytest.mark.parametrize("value", ["-1", "0", "soon"])
def test_a_retention_that_cannot_be_used_is_named(
    value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from grade_ml.core.errors import ConfigurationError

    monkeypatch.setenv("GRADE_ML_RETENTION_RUNS_DAYS", value)
    with pytest.raises(ConfigurationError, match="GRADE_ML_RETENTION_RUNS_DAYS"):
        RetentionSettings.from_environment()
