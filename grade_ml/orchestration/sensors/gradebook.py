"""Partitions follow the gradebook's courses, features and predictions what was loaded."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from dagster import (
    AddDynamicPartitionsRequest,
    AssetKey,
    DefaultSensorStatus,
    DeleteDynamicPartitionsRequest,
    ResourceParam,
    RunRequest,
    SensorEvaluationContext,
    SensorResult,
    SkipReason,
    sensor,
)

from grade_ml.gradebook import catalog as gradebook_catalog
from grade_ml.gradebook.catalog import Load
from grade_ml.orchestration import catalog
from grade_ml.orchestration.in_flight import is_in_flight
from grade_ml.orchestration.jobs import JOBS, refresh_gradebook, train_traditional_models
from grade_ml.orchestration.partitions import course, few_ranges, range_tags
from grade_ml.orchestration.resources import Platform
from grade_ml.orchestration.sensors.reading import UNREADABLE, unreadable


@sensor(
    default_status=DefaultSensorStatus.RUNNING,
    minimum_interval_seconds=30,
)
def course_catalog(
    context: SensorEvaluationContext, platform: ResourceParam[Platform]
) -> SensorResult | SkipReason:
    """Keep the partitions `course` equal to the gradebook's courses."""
    try:
        with platform.connection() as connection:
            wanted = gradebook_catalog.course_ids(connection)
    except UNREADABLE as error:
        return unreadable(error)
    change = catalog.pending(context.instance, wanted)
    requests: list[AddDynamicPartitionsRequest | DeleteDynamicPartitionsRequest] = [
        *([course.build_add_request(list(change.add))] if change.add else []),
        *([course.build_delete_request(list(change.remove))] if change.remove else []),
    ]
    if requests:
        return SensorResult(dynamic_partitions_requests=requests)
    waits = f" {len(change.waiting)} to remove after their runs." if change.waiting else ""
    return SkipReason(f"All {len(wanted)} courses have a partition.{waits}")


@sensor(
    jobs=JOBS,
    default_status=DefaultSensorStatus.RUNNING,
    minimum_interval_seconds=15,
)
def gradebook_changes(
    context: SensorEvaluationContext, platform: ResourceParam[Platform]
) -> SensorResult | SkipReason:
    """Renew features and predictions of what loads changed; after the first load, train.

    A burst of loads is answered by one run: while a run that renews is in flight, what is loaded
    waits for the next.
    """
    try:
        with platform.connection() as connection:
            newest = gradebook_catalog.newest_load(connection)
            courses = gradebook_catalog.course_ids(connection)
            changed = gradebook_catalog.courses_changed_since(connection, context.cursor)
    except UNREADABLE as error:
        return unreadable(error)
    known = context.instance.get_dynamic_partitions(str(course.name))
    reason = why_not_refresh(newest, context.cursor, courses, known)
    if newest is None or reason:
        return SkipReason(reason)
    renewing = (refresh_gradebook.name, train_traditional_models.name)
    if any(is_in_flight(context.instance, name) for name in renewing):
        return SkipReason(f"Load {newest.id} waits for the run that renews earlier ones.")
    trained = context.instance.get_latest_materialization_event(AssetKey("baseline_model"))
    job = refresh_gradebook if trained else train_traditional_models
    chosen = set(courses) if changed is None or not trained else changed & set(courses)
    if not chosen:
        return SensorResult(
            skip_reason=SkipReason(f"Load {newest.id} changed the records of no course."),
            cursor=newest.key,
        )
    return SensorResult(
        run_requests=[
            RunRequest(
                run_key=f"{newest.key}-{first}", job_name=job.name, tags=range_tags(first, last)
            )
            for first, last in few_ranges(known, chosen)
        ],
        cursor=newest.key,
    )


def why_not_refresh(
    newest: Load | None, seen: str | None, courses: Collection[str], known: Sequence[str]
) -> str:
    """Return why no run is due; empty: one is.

    Parameters
    ----------
    newest, seen
        The newest load, and the key of the one that was answered last.
    courses, known
        The gradebook's courses, and those that have a partition.
    """
    if newest is None or not courses:
        return "The gradebook is empty; load it with `grade-ml load`."
    if newest.key == seen:
        return f"Nothing was loaded since load {newest.id}."
    missing = len(set(courses) - set(known))
    if missing:
        return f"Load {newest.id} waits until `course_catalog` has added {missing} courses."
    return ""
