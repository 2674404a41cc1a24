"""Updates partitions when courses change, and features and predictions after loads."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from dagster import (
    AddDynamicPartitionsRequest,
    AssetKey,
    DagsterInstance,
    DefaultSensorStatus,
    DeleteDynamicPartitionsRequest,
    JobDefinition,
    ResourceParam,
    RunRequest,
    SensorDefinition,
    SensorEvaluationContext,
    SensorResult,
    SkipReason,
)

from grade_ml.gradebook import catalog as gradebook_catalog
from grade_ml.gradebook.catalog import Load
from grade_ml.orchestration import catalog, changes
from grade_ml.orchestration.changes import Fact
from grade_ml.orchestration.in_flight import is_in_flight
from grade_ml.orchestration.jobs import refresh_gradebook, train_traditional_models
from grade_ml.orchestration.partitions import course
from grade_ml.orchestration.ranges import few_ranges, range_tags
from grade_ml.orchestration.reading import UNREADABLE, unreadable
from grade_ml.orchestration.resources import Platform
from grade_ml.orchestration.sensors.decorator import sensor

_TRAINED = AssetKey("baseline_model")


@sensor(
    default_status=DefaultSensorStatus.RUNNING,
    minimum_interval_seconds=30,
)
def course_catalog(
    context: SensorEvaluationContext, platform: ResourceParam[Platform]
) -> SensorResult | SkipReason:
    """Keep one partition for each course of the gradebook."""
    try:
        with platform.connection() as connection:
            courses = gradebook_catalog.course_ids(connection)
    except UNREADABLE as error:
        return unreadable(error)
    change = catalog.pending(context.instance, courses)
    requests: list[AddDynamicPartitionsRequest | DeleteDynamicPartitionsRequest] = [
        *([course.build_add_request(list(change.add))] if change.add else []),
        *([course.build_delete_request(list(change.remove))] if change.remove else []),
    ]
    if requests:
        return SensorResult(dynamic_partitions_requests=requests)
    count = len(change.waiting)
    waits = (
        f" Partitions of removed courses that stay until their runs end: {count}." if count else ""
    )
    return SkipReason(f"Each of the {len(courses)} courses has its partition.{waits}")


def gradebook_changes(first_day: JobDefinition) -> SensorDefinition:
    """Return the sensor that starts the job `first_day` after the first load."""
    # After these jobs, features and predictions agree with the records.
    renewing = [job.name for job in (refresh_gradebook, train_traditional_models, first_day)]

    @sensor(
        jobs=[first_day, refresh_gradebook],
        default_status=DefaultSensorStatus.RUNNING,
        minimum_interval_seconds=15,
    )
    def gradebook_changes(
        context: SensorEvaluationContext, platform: ResourceParam[Platform]
    ) -> SensorResult | SkipReason:
        """Renew features and predictions of changed courses; after the first load, everything.

        A burst of loads starts one run: while a run that renews is in flight, further loads wait
        for the next.
        """
        try:
            with platform.connection() as connection:
                newest = gradebook_catalog.newest_load(connection)
                courses = gradebook_catalog.course_ids(connection)
                changed = gradebook_catalog.courses_changed_since(connection, context.cursor)
            is_new = newest is not None and newest.key != context.cursor
            done = is_new and _seen_by_training(context.instance, platform)
        except UNREADABLE as error:
            return unreadable(error)
        known = context.instance.get_dynamic_partitions(str(course.name))
        reason = why_not_refresh(newest, context.cursor, courses, known)
        if newest is None or reason:
            return SkipReason(reason)
        if any(is_in_flight(context.instance, name) for name in renewing):
            return SkipReason(f"Load {newest.id} waits for the run that processes earlier loads.")
        if not context.instance.get_latest_materialization_event(_TRAINED):
            request = RunRequest(run_key=newest.key, job_name=first_day.name)
            return SensorResult(run_requests=[request], cursor=newest.key)
        chosen = set(courses) if changed is None else changed & set(courses)
        if done or not chosen:
            why = "was there when the baseline was trained" if done else "changed no course"
            return SensorResult(
                skip_reason=SkipReason(f"Load {newest.id} {why}."), cursor=newest.key
            )
        return SensorResult(
            run_requests=[
                RunRequest(
                    run_key=f"{newest.key}-{first}",
                    job_name=refresh_gradebook.name,
                    tags=range_tags(first, last),
                )
                for first, last in few_ranges(known, chosen)
            ],
            cursor=newest.key,
        )

    return gradebook_changes


def _seen_by_training(instance: DagsterInstance, platform: Platform) -> bool:
    """Return whether the newest training of the baseline, over all courses, has seen all loads.

    The first day begins with a sync; a refresh after it would compute everything a second time.
    """
    seen = changes.last_seen(instance, train_traditional_models.name)
    if seen is None:
        return False
    now = changes.look(instance, platform, train_traditional_models.name)
    return seen.facts.get(Fact.RECORDS) == now.facts[Fact.RECORDS]


def why_not_refresh(
    newest: Load | None, seen: str | None, courses: Collection[str], known: Sequence[str]
) -> str:
    """Return why no run is due; empty if a run is due.

    Parameters
    ----------
    newest, seen
        The newest load, and the key of the load that was processed last.
    courses, known
        The gradebook's courses, and those that have a partition.
    """
    if newest is None or not courses:
        return "The gradebook is empty; load it with `grade-ml load`."
    if newest.key == seen:
        return f"Nothing was loaded since load {newest.id}."
    missing = len(set(courses) - set(known))
    if missing:
        return (
            f"Load {newest.id} waits until the sensor `course_catalog` has added {missing} courses."
        )
    return ""
