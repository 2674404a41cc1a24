"""The schedules: when a job runs by itself, for all courses in one run or for the current day."""

from __future__ import annotations

from dagster import (
    AssetKey,
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
from grade_ml.orchestration.jobs import (
    collect_external_data,
    generate_time_series_forecasts,
    manage_ab_tests,
    monitor_model_performance,
    sync_gradebook,
    train_advanced_ml_models,
    train_traditional_models,
    update_model_explanations,
)
from grade_ml.orchestration.partitions import course, range_tags
from grade_ml.orchestration.resources import Platform
from grade_ml.orchestration.sensors.reading import UNREADABLE, unreadable


def build_schedules(settings: Settings, server: OneRosterSettings) -> list[ScheduleDefinition]:
    """Return all schedules; their times of day are those of the settings' time zone."""
    timezone = settings.timezone
    return [
        _from_a_server("gradebook_sync", "30 0 * * *", server, timezone),
        _for_the_current_day("external_data", "0 */6 * * *", collect_external_data, settings),
        _over_all_courses("forecasting", "0 1 * * *", generate_time_series_forecasts, timezone),
        _over_all_courses("traditional_training", "0 2 * * *", train_traditional_models, timezone),
        _over_all_courses("advanced_training", "0 3 * * *", train_advanced_ml_models, timezone),
        _over_all_courses(
            "explanations",
            "0 4 * * *",
            update_model_explanations,
            timezone,
            after=AssetKey("grade_predictions"),
        ),
        _over_all_courses(
            "monitoring",
            "0 */2 * * *",
            monitor_model_performance,
            timezone,
            after=AssetKey("grade_predictions"),
        ),
        _where_something_runs("ab_tests", "0 */4 * * *", timezone),
    ]


def _for_the_current_day(
    name: str, cron: str, job: UnresolvedAssetJobDefinition, settings: Settings
) -> ScheduleDefinition:
    @schedule(
        name=name,
        cron_schedule=cron,
        job=job,
        execution_timezone=settings.timezone,
        default_status=DefaultScheduleStatus.RUNNING,
        description=job.description,
    )
    def tick(context: ScheduleEvaluationContext) -> RunRequest:
        day = settings.date_at(context.scheduled_execution_time)
        return RunRequest(partition_key=day.isoformat())

    return tick


def _where_something_runs(name: str, cron: str, timezone: str) -> ScheduleDefinition:
    @schedule(
        name=name,
        cron_schedule=cron,
        job=manage_ab_tests,
        execution_timezone=timezone,
        default_status=DefaultScheduleStatus.RUNNING,
        description=manage_ab_tests.description,
    )
    def tick(
        context: ScheduleEvaluationContext, platform: ResourceParam[Platform]
    ) -> RunRequest | SkipReason:
        from grade_ml.ensemble.pooled import NAME
        from grade_ml.experiments import overview

        try:
            with platform.connection() as connection:
                idle = overview.idle(connection, NAME)
        except UNREADABLE as error:
            return unreadable(error, "state of experiments")
        return SkipReason(idle) if idle else RunRequest()

    return tick


def _from_a_server(
    name: str, cron: str, server: OneRosterSettings, timezone: str
) -> ScheduleDefinition:
    @schedule(
        name=name,
        cron_schedule=cron,
        job=sync_gradebook,
        execution_timezone=timezone,
        default_status=DefaultScheduleStatus.RUNNING,
        description=sync_gradebook.description,
    )
    def tick(context: ScheduleEvaluationContext) -> RunRequest | SkipReason:
        if server.url is None:
            return SkipReason(f"No OneRoster server is set; set {PREFIX}URL to have one read.")
        return RunRequest()

    return tick


def _over_all_courses(
    name: str,
    cron: str,
    job: UnresolvedAssetJobDefinition,
    timezone: str,
    after: AssetKey | None = None,
) -> ScheduleDefinition:
    """Run `job` for all courses, once `after` was materialized for the first time."""

    @schedule(
        name=name,
        cron_schedule=cron,
        job=job,
        execution_timezone=timezone,
        default_status=DefaultScheduleStatus.RUNNING,
        description=job.description,
    )
    def tick(context: ScheduleEvaluationContext) -> RunRequest | SkipReason:
        courses = context.instance.get_dynamic_partitions(str(course.name))
        if not courses:
            return SkipReason("The gradebook has no course yet; load one with `grade-ml load`.")
        if after and not context.instance.get_latest_materialization_event(after):
            return SkipReason(f"{after.to_user_string()} was never made; it comes with training.")
        return RunRequest(tags=range_tags(courses[0], courses[-1]))

    return tick
