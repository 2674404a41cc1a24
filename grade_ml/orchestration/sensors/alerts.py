"""Someone is told once when something begins to be wrong, and once when it is over.

What is to be told and by which channel it is still to be sent is kept by the room `alerts`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from dagster import (
    DagsterInstance,
    DagsterRun,
    DagsterRunStatus,
    DefaultSensorStatus,
    ResourceParam,
    RunsFilter,
    SensorDefinition,
    SensorEvaluationContext,
    SkipReason,
    sensor,
)

from grade_ml.core.settings import AlertSettings
from grade_ml.orchestration.in_flight import covered
from grade_ml.orchestration.jobs import JOBS
from grade_ml.orchestration.partitions import course
from grade_ml.orchestration.resources import Platform
from grade_ml.orchestration.sensors.reading import UNREADABLE, unreadable


def alert_sensors(settings: AlertSettings) -> list[SensorDefinition]:
    """Return the sensors that tell by the channels of `settings`."""

    @sensor(default_status=DefaultSensorStatus.RUNNING, minimum_interval_seconds=300)
    def health_alerts(
        context: SensorEvaluationContext, platform: ResourceParam[Platform]
    ) -> SkipReason:
        """Tell once when a course's model needs care, and once when it no longer does."""
        from grade_ml.monitoring.store import newest_health

        try:
            with platform.connection() as connection:
                found = newest_health(connection, platform.as_of)
            wrong = {f"{HEALTH_OF}{name}": says for name, says in found.items() if says}
            current = {f"{HEALTH_OF}{name}" for name in found}
            return _alerting(platform, settings, wrong, current.__contains__)
        except UNREADABLE as error:
            return unreadable(error, "state of alerts")

    @sensor(default_status=DefaultSensorStatus.RUNNING, minimum_interval_seconds=60)
    def run_failure_alerts(
        context: SensorEvaluationContext, platform: ResourceParam[Platform]
    ) -> SkipReason:
        """Tell once when a job failed, and once when it has worked again for the same courses."""
        wrong = _failed_jobs(context.instance)
        try:
            return _alerting(platform, settings, wrong, lambda subject: subject.startswith(JOB))
        except UNREADABLE as error:
            return unreadable(error, "state of alerts")

    return [health_alerts, run_failure_alerts]


def _alerting(
    platform: Platform,
    settings: AlertSettings,
    wrong: Mapping[str, str],
    watched: Callable[[str], bool],
) -> SkipReason:
    """Record what is wrong, then send what is due, whoever recorded it."""
    from grade_ml.alerts import channels, conditions, outbox

    configured, now = channels.configured(settings), platform.clock.now()
    with platform.connection() as connection:
        notices = conditions.record(connection, wrong, watched, configured, now)
    outbox.deliver(platform.connection, configured, now)
    with platform.connection() as connection:
        problems = outbox.unsent(connection, now)
    first = [f"{len(wrong)} wrong, {len(notices)} told.", *map(str, problems[:_UNSENT_SHOWN])]
    more = len(problems) - _UNSENT_SHOWN
    return SkipReason("\n".join([*first, *([f"{more} more were not sent."] if more > 0 else [])]))


def _failed_jobs(instance: DagsterInstance) -> dict[str, str]:
    known = instance.get_dynamic_partitions(str(course.name))
    wrong = {}
    for job in JOBS:
        filters = RunsFilter(
            job_name=job.name, statuses=[DagsterRunStatus.SUCCESS, DagsterRunStatus.FAILURE]
        )
        records = instance.get_run_records(filters, limit=_RUNS)
        failed = unrepaired([record.dagster_run for record in records], known)
        if failed:
            wrong[f"{JOB}{job.name}"] = f"Run {failed.run_id} failed; the UI shows its log."
    return wrong


def unrepaired(runs: Sequence[DagsterRun], known: Sequence[str]) -> DagsterRun | None:
    """Return the newest failed run of a job after which not all of its courses had a success.

    Parameters
    ----------
    runs
        Finished runs of one job, the newest first.
    known
        The courses that have a partition, in the order of the set. Runs over none of them (days,
        or no partition) repair each other.
    """
    repaired: set[str] = set()
    for run in runs:
        courses = covered(known, run.tags) & set(known) or {""}
        if run.status is DagsterRunStatus.SUCCESS:
            repaired |= courses
        elif courses - repaired:
            return run
    return None


#: Notices that a tick names which could not be sent.
_UNSENT_SHOWN = 10
#: Runs of a job that are looked at; 100 courses go into one, so these are a backfill of 5,000.
_RUNS = 50
#: How the subjects of alerts begin.
HEALTH_OF, JOB = "health of ", "job "
