"""Stores the result of each run in a table, since Dagster's event log is pruned."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from dagster import (
    DefaultSensorStatus,
    ResourceParam,
    RunsFilter,
    SensorEvaluationContext,
    SkipReason,
)
from dagster._core.storage.dagster_run import FINISHED_STATUSES

from grade_ml.orchestration import never_started, results
from grade_ml.orchestration.reading import UNREADABLE, unreadable
from grade_ml.orchestration.resources import Platform
from grade_ml.orchestration.sensors.decorator import sensor

#: Runs of one tick; the events of one that wrote 40 partitions are read in 20 ms.
_AT_ONCE = 100
#: A moment after a failure Dagster adds whether it runs again.
_SETTLED = timedelta(seconds=5)
#: Processes write the ends of their runs by clocks of their own, and commit them later.
_OVERLAP = timedelta(minutes=5)


@sensor(default_status=DefaultSensorStatus.RUNNING, minimum_interval_seconds=15)
def job_results(context: SensorEvaluationContext, platform: ResourceParam[Platform]) -> SkipReason:
    """Store the result of each run that has ended: counts, duration, degradation, error.

    A run that can never start, because it names partitions that do not exist, is ended first.
    """
    assert context.repository_def is not None
    try:
        never_started.end(context.instance, context.repository_def, platform)
    except UNREADABLE as error:
        return unreadable(error)
    seen = datetime.fromisoformat(context.cursor) if context.cursor else None
    ended = RunsFilter(
        statuses=list(FINISHED_STATUSES),
        updated_after=seen,
        updated_before=platform.clock.now() - _SETTLED,
    )
    records = context.instance.get_run_records(
        ended, limit=_AT_ONCE, order_by="update_timestamp", ascending=True
    )
    try:
        with platform.connection() as connection:
            new = results.keep(connection, context.instance, records)
    except UNREADABLE as error:
        return unreadable(error, "table of results")
    if records:
        newest = records[-1].update_timestamp.replace(tzinfo=UTC)
        # Recorded runs are not read again while more runs follow.
        back = timedelta() if len(records) == _AT_ONCE else _OVERLAP
        context.update_cursor(max(filter(None, [seen, newest - back])).isoformat())
    return SkipReason(f"Recorded the results of {new} runs.")
