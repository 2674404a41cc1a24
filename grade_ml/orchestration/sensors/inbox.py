"""The sensor `inbox`: asks for a run of `load_inbox` when a delivery has arrived; loads nothing."""

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
    sensor,
)

from grade_ml.core.errors import GradeMLError
from grade_ml.core.hashing import checksum
from grade_ml.core.settings import Settings
from grade_ml.orchestration.jobs import load_inbox
from grade_ml.orchestration.resources import Platform

#: The tag of a run that was asked for: what was in the inbox.
STOOD = "grade_ml/inbox"
#: A run that left its deliveries where they were (full disk, database away) is tried again.
AGAIN_AFTER = timedelta(minutes=15)


def inbox_sensor(settings: Settings) -> SensorDefinition:
    """Return the sensor; without an inbox it is off, for its ticks would cost for nothing."""
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
    """Ask for one run for all deliveries that have arrived in GRADE_ML_INBOX."""
    from upath import UPath

    from grade_ml.gradebook.arrivals import look

    root, now = platform.settings.inbox, platform.clock.now()
    if root is None:
        return SkipReason("No inbox is watched; set GRADE_ML_INBOX to a folder or s3://….")
    try:
        found = look(UPath(root))
        arrived = found.arrived(now)
    except (GradeMLError, OSError) as error:
        return SkipReason(f"The inbox could not be looked into: {error}")
    if not arrived:
        waits = f"{found.deliveries[0].name} has not arrived whole yet." if found.deliveries else ""
        return SkipReason(" ".join([waits or "Nothing has arrived.", *found.notes]))
    return request(context.instance, [one.stamp for one in arrived], now)


def request(
    instance: DagsterInstance, stamps: Sequence[str], now: datetime
) -> RunRequest | SkipReason:
    """Return one request for what stands there, again only some time after a run that left it."""
    stood = checksum("".join(stamps).encode())[:32]
    records = instance.get_run_records(RunsFilter(job_name=load_inbox.name, tags={STOOD: stood}))
    if any(not record.dagster_run.is_finished for record in records):
        return SkipReason("A run is loading what has arrived.")
    ended = max((record.end_time or 0.0 for record in records), default=0.0)
    if now.timestamp() - ended < AGAIN_AFTER.total_seconds():
        return SkipReason(
            f"The last run left it there; see its page. It is tried again after {AGAIN_AFTER}."
        )
    return RunRequest(run_key=f"inbox-{stood}-{len(records)}", tags={STOOD: stood})
