"""The schedules: when a job runs by itself, for all courses in one run."""

from __future__ import annotations

from dagster import (
    DefaultScheduleStatus,
    RunRequest,
    ScheduleDefinition,
    ScheduleEvaluationContext,
    SkipReason,
    schedule,
)
from dagster._core.definitions.unresolved_asset_job_definition import UnresolvedAssetJobDefinition

from grade_ml.orchestration.jobs import train_traditional_models
from grade_ml.orchestration.partitions import course, range_tags


def build_schedules(timezone: str) -> list[ScheduleDefinition]:
    """Return all schedules; their times of day are those of `timezone` (an IANA name)."""
    return [
        _over_all_courses("traditional_training", "0 2 * * *", train_traditional_models, timezone)
    ]


def _over_all_courses(
    name: str, cron: str, job: UnresolvedAssetJobDefinition, timezone: str
) -> ScheduleDefinition:
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
        return RunRequest(tags=range_tags(courses[0], courses[-1]))

    return tick
