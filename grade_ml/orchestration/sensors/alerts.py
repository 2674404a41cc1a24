"""Sends one notice when something begins to be wrong, and one when it is over.

The package `alerts` stores the notices and the channels by which each is still to be sent.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from dagster import (
    DefaultSensorStatus,
    RepositoryDefinition,
    ResourceParam,
    SensorDefinition,
    SensorEvaluationContext,
    SkipReason,
)

from grade_ml.alerts import decisions
from grade_ml.core import texts
from grade_ml.core.settings import AlertSettings
from grade_ml.orchestration.degradation import repairable
from grade_ml.orchestration.reading import UNREADABLE, unreadable
from grade_ml.orchestration.resources import Platform
from grade_ml.orchestration.sensors import facts
from grade_ml.orchestration.sensors.decorator import sensor

#: How the subjects of courses' and assets' alerts begin, and that of the installation.
HEALTH_OF, DEGRADED, SYSTEM = "health of ", "degraded ", "system health"
#: The subjects that each sensor watches: a subject that is no longer wrong is over.
_RUNS = (facts.JOB, facts.MATERIALIZATION, facts.BACKFILL, decisions.TICKS)
_STATE = (DEGRADED, decisions.SCHEDULE, decisions.FRESHNESS)
#: Characters of why an asset is degraded; its check has the whole text.
_REASONS = 1000
#: Unsent notices that a tick names.
_UNSENT_SHOWN = 10


def alert_sensors(settings: AlertSettings) -> list[SensorDefinition]:
    """Return the sensors that send notices by the channels of `settings`."""

    @sensor(default_status=DefaultSensorStatus.RUNNING, minimum_interval_seconds=300)
    def health_alerts(
        context: SensorEvaluationContext, platform: ResourceParam[Platform]
    ) -> SkipReason:
        """Send alerts of poor health, degraded or stale assets, missed ticks, and of their end."""
        from grade_ml.maintenance import history, libraries
        from grade_ml.monitoring.store import newest_health

        now = platform.clock.now()
        schedules = [*facts.schedule_records(context.instance, _repository(context), now)]
        try:
            with platform.connection() as connection:
                health = newest_health(connection, platform.as_of)
                system = history.newest(connection)
                lost = libraries.lost(connection)
            courses = {f"{HEALTH_OF}{name}": course for name, course in health.items()}
            wrong = {
                **{subject: course.says for subject, course in courses.items() if course.needs},
                **({SYSTEM: system.says} if system and system.needs else {}),
                **{
                    f"{DEGRADED}{name}": texts.readable(" ".join(reasons), _REASONS)
                    for name, reasons in repairable(context.instance, lost).items()
                    if reasons
                },
                **decisions.missed(schedules, now),
                **decisions.stale(schedules, now),
            }
            return _alerting(
                platform,
                settings,
                wrong,
                lambda subject: subject in {*courses, SYSTEM} or subject.startswith(_STATE),
            )
        except UNREADABLE as error:
            return unreadable(error, "state of alerts")

    @sensor(default_status=DefaultSensorStatus.RUNNING, minimum_interval_seconds=60)
    def run_failure_alerts(
        context: SensorEvaluationContext, platform: ResourceParam[Platform]
    ) -> SkipReason:
        """Send alerts of runs, backfills and ticks that failed, and of their repair."""
        instance, repository = context.instance, _repository(context)
        runs = facts.ended_runs(instance, repository, platform.clock.now())
        failed = decisions.unrepaired(runs)
        try:
            with platform.connection() as connection:
                why = facts.reasons(connection, instance, [run.run_id for run in failed.values()])
            wrong = {
                **{
                    subject: f"Run {run.run_id} failed: {why[run.run_id]}"
                    for subject, run in failed.items()
                },
                **facts.failed_backfills(instance),
                **decisions.failing(facts.tickers(instance, repository)),
            }
            return _alerting(platform, settings, wrong, lambda subject: subject.startswith(_RUNS))
        except UNREADABLE as error:
            return unreadable(error, "state of alerts")

    return [health_alerts, run_failure_alerts]


def _repository(context: SensorEvaluationContext) -> RepositoryDefinition:
    assert context.repository_def is not None
    return context.repository_def


def _alerting(
    platform: Platform,
    settings: AlertSettings,
    wrong: Mapping[str, str],
    watched: Callable[[str], bool],
) -> SkipReason:
    """Record what is wrong, then send all due notices, also those of other processes."""
    from grade_ml.alerts.notifying import notify

    notified = notify(platform.connection, settings, wrong, watched, platform.clock.now())
    problems = notified.unsent
    first = [
        f"Open problems: {len(wrong)}. New notices: {len(notified.notices)}.",
        *map(str, problems[:_UNSENT_SHOWN]),
    ]
    more = len(problems) - _UNSENT_SHOWN
    return SkipReason(
        "\n".join([*first, *([f"{more} more notices were not sent."] if more > 0 else [])])
    )
