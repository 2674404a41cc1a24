"""The jobs `data_cleanup` and `model_cleanup` as Dagster runs them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
import sqlalchemy as sa
from dagster import AssetKey, DagsterInstance, Definitions, ExecuteInProcessResult
from sqlalchemy import Engine

from grade_ml.core.locks import DatabaseLock
from grade_ml.core.settings import Settings
from grade_ml.external.tables import response
from grade_ml.orchestration.running import QUIET
from grade_ml_tests.registry.versions import register, stages_of


def run(
    definitions: Definitions, instance: DagsterInstance, job: str, **config: bool
) -> ExecuteInProcessResult:
    step = f"remove_outdated_{job.partition('_')[0].removesuffix('s')}"
    step += "s" if job == "model_cleanup" else ""
    return definitions.resolve_job_def(job).execute_in_process(
        {**QUIET, "ops": {step: {"config": config}}}, instance, raise_on_error=False
    )


def metadata_of(instance: DagsterInstance, asset: str) -> dict[str, object]:
    event = instance.get_latest_materialization_event(AssetKey(asset))
    assert event and event.asset_materialization
    return {name: entry.value for name, entry in event.asset_materialization.metadata.items()}


def test_a_dry_run_lists_what_the_next_run_removes(
    definitions: Definitions, opened: DagsterInstance, engine: Engine
) -> None:
    old = datetime.now(UTC) - timedelta(days=100)
    row = {
        **{"key": "k", "accepted": True, "source": "weather", "url": "u", "content_type": "t"},
        **{"fetched_at": old, "validated_at": old, "body": b"rain"},
    }
    with engine.begin() as connection:
        connection.execute(sa.insert(response), row)
    assert run(definitions, opened, "data_cleanup", dry_run=True).success
    dry = metadata_of(opened, "data_cleanup")
    assert (dry["outdated"], dry["removed"]) == (1, 0)
    assert run(definitions, opened, "data_cleanup").success
    assert metadata_of(opened, "data_cleanup")["removed"] == 1
    assert run(definitions, opened, "data_cleanup").success
    assert metadata_of(opened, "data_cleanup")["outdated"] == 0


@pytest.mark.slow
def test_models_are_cleaned_up_by_their_own_job(
    definitions: Definitions, opened: DagsterInstance, settings: Settings, tmp_path
) -> None:
    stages = stages_of(settings)
    for _ in range(2):
        register(stages, "pooled", tmp_path)
    assert run(definitions, opened, "model_cleanup").success
    assert metadata_of(opened, "model_cleanup")["outdated"] == 0, "they are young"


def test_of_two_clean_ups_at_once_the_second_gives_a_reason(
    definitions: Definitions, opened: DagsterInstance, engine: Engine
) -> None:
    with engine.connect() as connection:
        assert DatabaseLock.CLEANUP.take_connected(connection)
        result = run(definitions, opened, "data_cleanup")
    assert not result.success
    (failure,) = [event for event in result.all_events if event.is_step_failure]
    assert "Another clean-up is running" in str(failure.event_specific_data)
