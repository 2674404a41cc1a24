"""The schedules: when a job runs by itself, for all courses in one run or for the current day.

If nothing that a job depends on has changed since its last run, the tick skips (`changes`).
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from dagster import (
    DagsterInstance,
    DefaultScheduleStatus,
    ResourceParam,
    RunRequest,
    ScheduleDefinition,
    ScheduleEvaluationContext,
    SkipReason,
    schedule,
)
from dagster._core.definitions.unresolved_asset_job_definition import UnresolvedAssetJobDefinition

from grade_ml.core.settings import Settings
from grade_ml.gradebook.rest.settings import PREFIX, OneRosterSettings
from grade_ml.orchestration import changes
from grade_ml.orchestration.changes import PREDICTIONS
from grade_ml.orchestration.job_descriptions import JOB_DESCRIPTIONS
from grade_ml.orchestration.jobs import (
    collect_external_data,
    data_cleanup,
    generate_time_series_forecasts,
    manage_ab_tests,
    model_cleanup,
    monitor_model_performance,
    sync_gradebook,
    system_health,
    train_advanced_ml_models,
    train_traditional_models,
    update_model_explanations,
)
from grade_ml.orchestration.partitions import course
from grade_ml.orchestration.ranges import range_tags
from grade_ml.orchestration.reading import UNREADABLE, unreadable
from grade_ml.orchestration.resources import Platform
from grade_ml.orchestration.timetable import CRONS, WEEKLY

NO_PREDICTIONS = (
    "There are no predictions yet; the job `first_day` or the first training makes them."
)
NO_SERVER = f"No OneRoster server is set; set {PREFIX}URL to read one."


def build_schedules(settings: Settings, server: OneRosterSettings) -> list[ScheduleDefinition]:
    """Return all schedules; their times of day are those of the settings' time zone."""
    timezone = settings.timezone
    return [
        _from_a_server("gradebook_sync", server, timezone),
        _for_the_current_day("external_data", collect_external_data, settings),
        _over_all_courses("forecasting", generate_time_series_forecasts, timezone),
        _over_all_courses("traditional_training", train_traditional_models, timezone),
        _over_all_courses("advanced_training", train_advanced_ml_models, timezone),
        _over_all_courses("explanations", update_model_explanations, timezone, predicted=True),
        _over_all_courses("monitoring", monitor_model_performance, timezone, predicted=True),
        _where_something_runs("ab_tests", timezone),
        _weekly("comprehensive_maintenance", timezone),
        _always("data_cleanup", data_cleanup, timezone),
        _always("model_cleanup", model_cleanup, timezone),
        _always("system_health", system_health, timezone),
    ]


def _always(name: str, job: UnresolvedAssetJobDefinition, timezone: str) -> ScheduleDefinition:
    return ScheduleDefinition(
        name=name,
        cron_schedule=CRONS[name],
        job=job,
        execution_timezone=timezone,
        default_status=DefaultScheduleStatus.RUNNING,
        description=job.description,
    )


def _for_the_current_day(
    name: str, job: UnresolvedAssetJobDefinition, settings: Settings
) -> ScheduleDefinition:
    @schedule(
        name=name,
        cron_schedule=CRONS[name],
        job=job,
        execution_timezone=settings.timezone,
        default_status=DefaultScheduleStatus.RUNNING,
        description=job.description,
    )
    def tick(context: ScheduleEvaluationContext) -> RunRequest:
        day = settings.date_at(context.scheduled_execution_time)
        return RunRequest(partition_key=day.isoformat())

    return tick


def _where_something_runs(name: str, timezone: str) -> ScheduleDefinition:
    @schedule(
        name=name,
        cron_schedule=CRONS[name],
        job=manage_ab_tests,
        execution_timezone=timezone,
        default_status=DefaultScheduleStatus.RUNNING,
        description=manage_ab_tests.description,
    )
    def tick(
        context: ScheduleEvaluationContext, platform: ResourceParam[Platform]
    ) -> RunRequest | SkipReason:
        from grade_ml.experiments.idling import why_idle

        try:
            with platform.connection() as connection:
                idle = why_idle(connection)
        except UNREADABLE as error:
            return unreadable(error, "state of experiments")
        if idle:
            return SkipReason(idle)
        return _where_changed(context.instance, platform, manage_ab_tests.name)

    return tick


def _where_changed(
    instance: DagsterInstance,
    platform: Platform,
    job: str,
    tags: Mapping[str, str] = MappingProxyType({}),
) -> RunRequest | SkipReason:
    """Request a run, unless the last run saw what this run would see."""
    try:
        reason, seen = changes.decide(instance, platform, job)
    except UNREADABLE as error:
        return unreadable(error)
    return SkipReason(reason) if reason else RunRequest(tags={**tags, **seen.tag})


def _from_a_server(name: str, server: OneRosterSettings, timezone: str) -> ScheduleDefinition:
    @schedule(
        name=name,
        cron_schedule=CRONS[name],
        job=sync_gradebook,
        execution_timezone=timezone,
        default_status=DefaultScheduleStatus.RUNNING,
        description=sync_gradebook.description,
    )
    def tick(context: ScheduleEvaluationContext) -> RunRequest | SkipReason:
        if server.url is None:
            return SkipReason(NO_SERVER)
        return RunRequest()

    return tick


def _weekly(name: str, timezone: str) -> ScheduleDefinition:
    @schedule(
        name=name,
        cron_schedule=CRONS[name],
        job_name=WEEKLY.name,
        execution_timezone=timezone,
        default_status=DefaultScheduleStatus.RUNNING,
        description=JOB_DESCRIPTIONS[WEEKLY.name],
    )
    def tick(context: ScheduleEvaluationContext) -> RunRequest | SkipReason:
        if not context.instance.get_latest_materialization_event(PREDICTIONS):
            return SkipReason(NO_PREDICTIONS)
        return RunRequest()

    return tick


def _over_all_courses(
    name: str,
    job: UnresolvedAssetJobDefinition,
    timezone: str,
    predicted: bool = False,
) -> ScheduleDefinition:
    """Run `job` for all courses if something changed; if `predicted`, only after predictions."""

    @schedule(
        name=name,
        cron_schedule=CRONS[name],
        job=job,
        execution_timezone=timezone,
        default_status=DefaultScheduleStatus.RUNNING,
        description=job.description,
    )
    def tick(
        context: ScheduleEvaluationContext, platform: ResourceParam[Platform]
    ) -> RunRequest | SkipReason:
        courses = context.instance.get_dynamic_partitions(str(course.name))
        if not courses:
            return SkipReason("The gradebook has no course yet; load one with `grade-ml load`.")
        if predicted and not context.instance.get_latest_materialization_event(PREDICTIONS):
            return SkipReason(NO_PREDICTIONS)
        tags = range_tags(courses[0], courses[-1])
        return _where_changed(context.instance, platform, job.name, tags)

    return tick
