"""The facts about an installation's health in Dagster: its queue, age and state of its assets.

`maintenance.gathering` collects the facts in the databases; `maintenance.health` rates them.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

from dagster import (
    AssetKey,
    AssetRecordsFilter,
    DagsterInstance,
    DagsterRunStatus,
    RunsFilter,
)

from grade_ml.orchestration.assets.explanations import EXPLANATION_ASSETS
from grade_ml.orchestration.assets.features import FEATURE_ASSETS
from grade_ml.orchestration.assets.forecasts import FORECAST_ASSETS
from grade_ml.orchestration.assets.models import MODEL_ASSETS
from grade_ml.orchestration.assets.monitoring import MONITORING_ASSETS
from grade_ml.orchestration.degradation import repairable
from grade_ml.orchestration.in_flight import IN_FLIGHT
from grade_ml.orchestration.resources import Platform

if TYPE_CHECKING:
    from grade_ml.maintenance.facts import Facts, Queue
    from grade_ml.maintenance.gathering import Made

#: Assets that are made of records are late once the records are newer.
_OF_RECORDS = [
    key
    for definition in (
        *FEATURE_ASSETS,
        *MODEL_ASSETS,
        *FORECAST_ASSETS,
        *MONITORING_ASSETS,
        *EXPLANATION_ASSETS,
    )
    for key in definition.keys
]
#: The asset of external data, which changes every day.
_DAILY = AssetKey("external_features")
_WAITING = (DagsterRunStatus.QUEUED, DagsterRunStatus.NOT_STARTED)
#: Loads of an inbox in a week that are counted.
_LOADS = 1000


def facts(platform: Platform, instance: DagsterInstance, run: str) -> Facts:
    """Return the facts about the installation now, for the run `run`.

    Work and machine are examined as they are now, whichever day the run computes; records and
    models are those of its day.
    """
    import psutil

    from grade_ml.maintenance import gathering, libraries
    from grade_ml.maintenance.facts import Facts

    at, as_of, settings = platform.clock.now(), platform.as_of, platform.settings
    assets = made(instance)
    with platform.connection() as connection:
        records = gathering.records(connection, at, as_of)
        jobs = gathering.jobs(connection, at)
        steps = gathering.steps(connection, at)
        courses = gathering.courses(connection, as_of)
        lost = libraries.lost(connection)
    return Facts(
        at=at,
        records=records,
        queue=queue(instance, at, run),
        jobs=jobs,
        made=len(assets),
        stale=gathering.stale(assets, records.loaded_at, at),
        refused=refused(instance, at),
        courses=courses,
        completeness=repairable(instance, lost),
        disks=gathering.disks({"home": str(settings.home), "storage": settings.storage_root}),
        steps=steps,
        memory_bytes=psutil.virtual_memory().total,
        databases=gathering.databases(platform.urls),
    )


def queue(instance: DagsterInstance, at: datetime, but: str = "") -> Queue:
    """Return the runs in flight at the moment `at`, without the run `but`."""
    from grade_ml.maintenance.facts import Queue

    records = [
        record
        for record in instance.get_run_records(RunsFilter(statuses=list(IN_FLIGHT)))
        if record.dagster_run.run_id != but
    ]
    waiting = [record for record in records if record.dagster_run.status in _WAITING]
    waited = [(at - record.create_timestamp).total_seconds() for record in waiting]
    return Queue(len(waiting), len(records) - len(waiting), max([0.0, *waited]))


def made(instance: DagsterInstance) -> dict[str, Made]:
    """Return when the assets were made last that are late once records are newer, or each day.

    An asset that was never made is left out: its job may be switched off.
    """
    from grade_ml.maintenance.gathering import Made

    newest = {}
    for record in instance.get_asset_records([*_OF_RECORDS, _DAILY]):
        entry = record.asset_entry
        if entry.last_materialization is not None:
            name = entry.asset_key.to_user_string()
            at = datetime.fromtimestamp(entry.last_materialization.timestamp, UTC)
            newest[name] = Made(at, daily=entry.asset_key == _DAILY)
    return newest


def refused(instance: DagsterInstance, at: datetime) -> int:
    """Return how many deliveries were refused in the week before `at`."""
    from grade_ml.maintenance.gathering import WEEK

    filters = AssetRecordsFilter(
        AssetKey("inbox_deliveries"),
        after_timestamp=(at - WEEK).timestamp(),
        before_timestamp=at.timestamp(),
    )
    records = instance.fetch_materializations(filters, limit=_LOADS).records
    loads = (record.asset_materialization for record in records)
    return sum(int(str(load.metadata["refused"].value)) for load in loads if load)
