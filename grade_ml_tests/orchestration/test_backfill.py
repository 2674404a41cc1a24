"""A backfill as the UI requests it, carried out by the daemon's own iterations."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from dagster import AssetKey, DagsterInstance, RunsFilter
from dagster._core.execution.backfill import BulkActionStatus, PartitionBackfill
from dagster._core.test_utils import create_test_daemon_workspace_context, instance_for_test
from dagster._core.workspace.load_target import ModuleTarget
from dagster._daemon.backfill import execute_backfill_iteration

from grade_ml.campus.providers.server import serve
from grade_ml.campus.simulated import CampusConfig
from grade_ml.core.settings import Settings
from grade_ml.external.settings import PREFIX
from grade_ml.orchestration import catalog
from grade_ml.orchestration.build import build_defs
from grade_ml.orchestration.ranges import RANGE_END, RANGE_START
from grade_ml_tests import REPOSITORY
from grade_ml_tests.orchestration.conftest import TODAY
from grade_ml_tests.orchestration.test_definitions import EXTERNAL

# A run is carried out at once, in this process.
OVERRIDES = {
    "run_coordinator": {
        "module": "dagster._core.run_coordinator",
        "class": "DefaultRunCoordinator",
    },
    "run_launcher": {
        "module": "dagster._core.launcher.sync_in_memory_run_launcher",
        "class": "SyncInMemoryRunLauncher",
    },
}


@pytest.fixture
def instance(tmp_path: Path) -> Iterator[DagsterInstance]:
    with instance_for_test(overrides=OVERRIDES, temp_dir=str(tmp_path)) as instance:
        yield instance


def request_backfill(
    instance: DagsterInstance, settings: Settings, courses: list[str], *assets: str
) -> str:
    backfill = PartitionBackfill.from_asset_partitions(
        backfill_id="backfill",
        asset_graph=build_defs(settings).resolve_asset_graph(),
        partition_names=courses,
        asset_selection=[AssetKey(name) for name in assets],
        backfill_timestamp=datetime.now(UTC).timestamp(),
        tags={},
        dynamic_partitions_store=instance,
        all_partitions=False,
        title=None,
        description=None,
        run_config=None,
    )
    instance.add_backfill(backfill)
    return backfill.backfill_id


def carry_out(instance: DagsterInstance, backfill_id: str) -> BulkActionStatus:
    target = ModuleTarget(
        "grade_ml_tests.orchestration.location", None, str(REPOSITORY), "grade_ml"
    )
    with create_test_daemon_workspace_context(target, instance) as workspace:
        for _ in range(10):
            errors = list(execute_backfill_iteration(workspace, logging.getLogger()))
            assert not any(errors), errors
            backfill = instance.get_backfill(backfill_id)
            assert backfill is not None
            if backfill.status not in catalog.ACTIVE_BACKFILL:
                break
    return backfill.status


@pytest.fixture(autouse=True)
def fresh_location(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the location read the settings of this test, not those of the test that imported it."""
    monkeypatch.delitem(sys.modules, "grade_ml_tests.orchestration.location", raising=False)


@pytest.mark.slow
# Dagster calls what it deprecates.
@pytest.mark.filterwarnings("ignore:Function `AssetSelection.sources`:DeprecationWarning")
def test_a_backfill_over_many_days_is_one_run(
    campus: Settings,
    environment: dict[str, str],
    instance: DagsterInstance,
    monkeypatch: pytest.MonkeyPatch,
):
    days = [str(TODAY - timedelta(days=number)) for number in range(30)]
    with serve(CampusConfig(students=150, courses=3, terms=4), TODAY) as providers:
        given = {"GRADE_ML_AS_OF": str(TODAY), f"{PREFIX}PROVIDERS_URL": providers.url}
        for name, value in (environment | given).items():
            monkeypatch.setenv(name, value)
        backfill_id = request_backfill(instance, campus, days, *EXTERNAL)
        assert carry_out(instance, backfill_id) is BulkActionStatus.COMPLETED_SUCCESS
        assert len(providers.requests) <= 60  # what a year may take
    for name in EXTERNAL:
        assert instance.get_materialized_partitions(AssetKey(name)) == set(days)
    (run,) = instance.get_runs(RunsFilter(tags={"dagster/backfill": backfill_id}))
    assert (run.tags[RANGE_START], run.tags[RANGE_END]) == (days[-1], days[0])


@pytest.mark.slow
def test_a_backfill_over_all_courses(
    campus: Settings,
    environment: dict[str, str],
    instance: DagsterInstance,
    small_campus,
    monkeypatch: pytest.MonkeyPatch,
):
    for name, value in {**environment, "GRADE_ML_AS_OF": str(campus.as_of)}.items():
        monkeypatch.setenv(name, value)
    courses = catalog.synchronize(instance, list(small_campus.courses["course_id"]))
    assets = "grade_snapshots", "baseline_model", "grade_predictions"
    backfill_id = request_backfill(instance, campus, courses, *assets)
    # A course that the gradebook no longer has keeps its partition until the backfill is done.
    assert catalog.pending(instance, courses[1:]).waiting == (courses[0],)
    assert carry_out(instance, backfill_id) is BulkActionStatus.COMPLETED_SUCCESS
    assert catalog.pending(instance, courses[1:]).remove == (courses[0],)

    for name in ("grade_snapshots", "grade_predictions"):
        assert instance.get_materialized_partitions(AssetKey(name)) == set(courses)
    runs = instance.get_runs(RunsFilter(tags={"dagster/backfill": backfill_id}))
    assert len(runs) == 3
    ranges = [(run.tags[RANGE_START], run.tags[RANGE_END]) for run in runs if RANGE_END in run.tags]
    assert ranges == [(courses[0], courses[-1])] * 2
