"""The sensor `inbox`: requests a run of `load_inbox` when a delivery has arrived; loads nothing."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta

from dagster import (
    DagsterInstance,
    DefaultSensorStatus,
    ResourceParam,
    RunRequest,
    RunsFilter,
    SensorDefinition,
    SensorEvaluationContext,
    SkipReason,
)

from grade_ml.core.errors import GradeMLError
from grade_ml.core.hashing import checksum
from grade_ml.core.settings import Settings
from grade_ml.orchestration.jobs import load_inbox
from grade_ml.orchestration.resources import Platform
from grade_ml.orchestration.sensors.decorator import sensor

#: The tag of a requested run: the contents of the inbox.
STOOD = "grade_ml/inbox"
#: A run that left its deliveries where they were (full disk, database away) is tried again.
AGAIN_AFTER = timedelta(minutes=15)


def inbox_sensor(settings: Settings) -> SensorDefinition:
    """Return the sensor; without an inbox it is off, because its ticks would do nothing."""
    watched = settings.inbox is not None
    return sensor(
        name="inbox",
        job=load_inbox,
        default_status=DefaultSensorStatus.RUNNING if watched else DefaultSensorStatus.STOPPED,
        minimum_interval_seconds=30,
    )(_look)


def _look(
    context: SensorEvaluationContext, platform: ResourceParam[Platform]
) -> RunRequest | SkipReason:
    """Request one run for all deliveries that have arrived in GRADE_ML_INBOX."""
    from upath import UPath

    from grade_ml.gradebook.arrivals import look

    root, now = platform.settings.inbox, platform.clock.now()
    if root is None:
        return SkipReason("No inbox is watched; set GRADE_ML_INBOX to a folder or s3://….")
    try:
        contents = look(UPath(root))
        arrived = contents.arrived(now)
    except (GradeMLError, OSError) as error:
        return SkipReason(f"The inbox could not be read: {error}")
    if not arrived:
        waits = (
            f"{contents.deliveries[0].name} has not arrived whole yet."
            if contents.deliveries
            else ""
        )
        return SkipReason(" ".join([waits or "Nothing has arrived.", *contents.notes]))
    return request(context.instance, [delivery.stamp for delivery in arrived], now)


def request(
    instance: DagsterInstance, stamps: Sequence[str], now: datetime
) -> RunRequest | SkipReason:
    """Return one request for what is in the inbox; after a run that left it there, wait a while."""
    stood = checksum("".join(stamps).encode())[:32]
    records = instance.get_run_records(RunsFilter(job_name=load_inbox.name, tags={STOOD: stood}))
    if any(not record.dagster_run.is_finished for record in records):
        return SkipReason("A run is loading what has arrived.")
    ended = max((record.end_time or 0.0 for record in records), default=0.0)
    if now.timestamp() - ended < AGAIN_AFTER.total_seconds():
        return SkipReason(
            "The last run could not load what lies in the inbox; its page says why. The next run "
            f"starts {AGAIN_AFTER.total_seconds() / 60:.0f} minutes after its end."
        )
    return RunRequest(run_key=f"inbox-{stood}-{len(records)}", tags={STOOD: stood})
