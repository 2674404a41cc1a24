"""The sensors: what happens by itself when the gradebook changes, a model drifts, or a run fails.

Each evaluates in well under a second: a few queries, no model, no frame. What they do is decided by
pure functions, here or in `monitoring`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from datetime import UTC, date, datetime
from typing import TYPE_CHECKING

from dagster import (
    AddDynamicPartitionsRequest,
    AssetKey,
    DagsterInstance,
    DagsterRun,
    DagsterRunStatus,
    DefaultSensorStatus,
    DeleteDynamicPartitionsRequest,
    ResourceParam,
    RunRequest,
    RunsFilter,
    SensorEvaluationContext,
    SensorResult,
    SkipReason,
    sensor,
)
from dagster._core.storage.tags import PARTITION_NAME_TAG
from sqlalchemy.exc import SQLAlchemyError

from grade_ml.core.errors import GradeMLError
from grade_ml.gradebook import catalog as gradebook_catalog
from grade_ml.gradebook.catalog import Load
from grade_ml.orchestration import catalog
from grade_ml.orchestration.jobs import (
    JOBS,
    refresh_gradebook,
    retrain_drifted_courses,
    train_advanced_ml_models,
    train_traditional_models,
)
from grade_ml.orchestration.partitions import (
    RANGE_END,
    RANGE_START,
    course,
    few_ranges,
    range_tags,
    ranges,
)
from grade_ml.orchestration.resources import Platform

if TYPE_CHECKING:
    from grade_ml.monitoring.decision import Request


def _unreadable(error: Exception) -> SkipReason:
    return SkipReason(
        f"The gradebook could not be read, so nothing is known to have changed: {error}"
    )


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
    except (GradeMLError, SQLAlchemyError) as error:
        return _unreadable(error)
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
    except (GradeMLError, SQLAlchemyError) as error:
        return _unreadable(error)
    known = context.instance.get_dynamic_partitions(str(course.name))
    reason = why_not_refresh(newest, context.cursor, courses, known)
    if newest is None or reason:
        return SkipReason(reason)
    renewing = (refresh_gradebook.name, train_traditional_models.name)
    if any(_in_flight(context.instance, name) for name in renewing):
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


#: Tags of a training that drift asked for: that it did, the day, and why.
TRIGGER, ASKED_ON, REASON = "grade_ml/trigger", "grade_ml/asked_on", "grade_ml/reason"
_DRIFT = "drift"
_FAILED = (DagsterRunStatus.FAILURE, DagsterRunStatus.CANCELED)


@sensor(
    job=retrain_drifted_courses,
    default_status=DefaultSensorStatus.RUNNING,
    minimum_interval_seconds=300,
)
def drift_retraining(
    context: SensorEvaluationContext, platform: ResourceParam[Platform]
) -> SensorResult | SkipReason:
    """Train the courses again whose drift is confirmed by loss or by labels.

    What was asked for before is read from the runs themselves, which bear it in their tags, so
    neither a restart of the daemon nor a lost cursor repeats or forgets anything.
    """
    from grade_ml.monitoring.decision import permitted
    from grade_ml.monitoring.monitor import decided

    if _in_flight(context.instance, train_advanced_ml_models.name):
        return SkipReason("All courses are being trained; what drifted is looked at afterwards.")
    try:
        with platform.connection() as connection:
            decisions = decided(connection, platform.as_of)
    except (GradeMLError, SQLAlchemyError) as error:
        return _unreadable(error)
    known = context.instance.get_dynamic_partitions(str(course.name))
    confirmed = {name: one for name, one in decisions.items() if name in known}
    act, wait = permitted(confirmed, requests(context.instance, platform.as_of), platform.as_of)
    if not act:
        waiting = "; ".join(f"{name}: {why}" for name, why in sorted(wait.items())[:5])
        return SkipReason(waiting or f"No drift of {len(decisions)} courses is confirmed.")
    return SensorResult(
        run_requests=[
            RunRequest(
                run_key=f"drift-{first}-{last}-{platform.as_of}",
                tags={
                    **range_tags(first, last),
                    TRIGGER: _DRIFT,
                    ASKED_ON: platform.as_of.isoformat(),
                    REASON: _shortened(
                        f"{name}: {act[name].reason}" for name in _between(known, first, last)
                    ),
                },
            )
            for first, last in ranges(known, act.keys())
        ]
    )


def _between(known: Sequence[str], first: str, last: str) -> list[str]:
    return list(known[known.index(first) : known.index(last) + 1])


def _shortened(reasons: Iterable[str]) -> str:
    """Return the reasons in 2,000 bytes: PostgreSQL indexes tags, and cannot beyond 2,700."""
    # Only the half of a character that the cut may leave is ignored.
    return "; ".join(reasons).encode()[:2000].decode(errors="ignore")


def _in_flight(instance: DagsterInstance, job: str) -> bool:
    filters = RunsFilter(job_name=job, statuses=list(catalog.IN_FLIGHT))
    return bool(instance.get_run_records(filters, limit=1))


def requests(instance: DagsterInstance, as_of: date) -> list[Request]:
    """Return the trainings that drift asked for, by course.

    One that failed counts on its day only: the next day it is asked for again.
    """
    from grade_ml.monitoring.decision import Request

    known = instance.get_dynamic_partitions(str(course.name))
    found = []
    for record in instance.get_run_records(RunsFilter(tags={TRIGGER: _DRIFT}), limit=1000):
        run = record.dagster_run
        asked_on = date.fromisoformat(run.tags[ASKED_ON])
        if run.status not in _FAILED or asked_on == as_of:
            found += [
                Request(name, asked_on, not run.is_finished)
                for name in catalog.covered(known, run.tags)
            ]
    return found


def _alerting(
    platform: Platform, wrong: Mapping[str, str], watched: Callable[[str], bool]
) -> SkipReason:
    """Record what is wrong, then send what is due, whoever recorded it."""
    from grade_ml.alerts import channels, conditions, outbox
    from grade_ml.core.settings import AlertSettings

    configured, now = channels.configured(AlertSettings.from_environment()), datetime.now(UTC)
    with platform.connection() as connection:
        notices = conditions.record(connection, wrong, watched, configured, now)
    outbox.deliver(platform.connection, configured, now)
    with platform.connection() as connection:
        problems = outbox.unsent(connection, now)
    first = [f"{len(wrong)} wrong, {len(notices)} told.", *map(str, problems[:_UNSENT_SHOWN])]
    more = len(problems) - _UNSENT_SHOWN
    return SkipReason("\n".join([*first, *([f"{more} more were not sent."] if more > 0 else [])]))


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
        return _alerting(platform, wrong, current.__contains__)
    except (GradeMLError, SQLAlchemyError) as error:
        return _unreadable(error)


@sensor(default_status=DefaultSensorStatus.RUNNING, minimum_interval_seconds=60)
def run_failure_alerts(
    context: SensorEvaluationContext, platform: ResourceParam[Platform]
) -> SkipReason:
    """Tell once when a job failed, and once when it has worked again for the same courses."""
    known = context.instance.get_dynamic_partitions(str(course.name))
    wrong = {}
    for job in JOBS:
        filters = RunsFilter(
            job_name=job.name, statuses=[DagsterRunStatus.SUCCESS, DagsterRunStatus.FAILURE]
        )
        records = context.instance.get_run_records(filters, limit=_RUNS)
        failed = unrepaired([record.dagster_run for record in records], known)
        if failed:
            wrong[f"{JOB}{job.name}"] = f"Run {failed.run_id} failed; the UI shows its log."
    try:
        return _alerting(platform, wrong, lambda subject: subject.startswith(JOB))
    except (GradeMLError, SQLAlchemyError) as error:
        return _unreadable(error)


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
        first = run.tags.get(PARTITION_NAME_TAG) or run.tags.get(RANGE_START)
        last = run.tags.get(PARTITION_NAME_TAG) or run.tags.get(RANGE_END)
        both = first in known and last in known
        courses = set(_between(known, str(first), str(last))) if both else {""}
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

SENSORS = [
    course_catalog,
    drift_retraining,
    gradebook_changes,
    health_alerts,
    run_failure_alerts,
]
