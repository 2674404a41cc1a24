"""Jobs whose steps run other jobs, one after the other: that of Sunday morning, the first day.

Each step runs one job in this process, as a run of its own. A step fails if its job fails. No step
depends on another, because then one failure would stop all later steps: their priorities set the
order. So the run fails only after everything was tried, naming what failed, and "Re-execute from
failure" repeats just that. A part is skipped if nothing is new since its job ran last, usually an
hour ago.
"""

from collections.abc import Callable, Collection, Mapping
from datetime import date, timedelta
from typing import TYPE_CHECKING, Any

from dagster import (
    AssetKey,
    DagsterInstance,
    DagsterRunStatus,
    Definitions,
    Failure,
    JobDefinition,
    Nothing,
    OpDefinition,
    OpExecutionContext,
    Out,
    ResourceDefinition,
    ResourceParam,
    in_process_executor,
    job,
    op,
)
from dagster._core.errors import DagsterExecutionInterruptedError
from dagster._core.storage.tags import MAX_RETRIES_TAG

from grade_ml.core.errors import GradeMLError
from grade_ml.gradebook import catalog
from grade_ml.maintenance.results import PART_OF
from grade_ml.orchestration import changes
from grade_ml.orchestration.catalog import synchronize
from grade_ml.orchestration.job_descriptions import JOB_DESCRIPTIONS
from grade_ml.orchestration.partitions import FIRST_DAY as EARLIEST_DAY
from grade_ml.orchestration.queue import SEQUENCES
from grade_ml.orchestration.reading import UNREADABLE, unreadable
from grade_ml.orchestration.resources import Platform
from grade_ml.orchestration.steps import in_pool
from grade_ml.orchestration.timetable import Sequence

if TYPE_CHECKING:
    from dagster import DagsterRun

    from grade_ml.orchestration.running import RunReport


#: A training, whose pool some of the jobs need, may take three hours.
_WAIT_MINUTES = 180
_DAYS = AssetKey("external_features")


def sequence_job(
    sequence: Sequence,
    definitions: Callable[[], Definitions],
    platform: ResourceDefinition,
    idle: Mapping[str, str],
) -> JobDefinition:
    """Return the job whose steps run jobs of `definitions`, which will contain this job, too.

    Parameters
    ----------
    platform
        Dagster would add it to the job later, but then makes the sensor of the job again, with a
        warning of its own.
    idle
        Why a part has nothing to do in this installation, by part.
    """
    steps = [
        _step(sequence, name, priority, definitions, idle.get(name))
        for priority, name in enumerate(reversed(sequence.parts), 1)
    ]
    limit = sequence.starts_over

    @job(
        name=sequence.name,
        description=JOB_DESCRIPTIONS[sequence.name],
        executor_def=in_process_executor,
        resource_defs={"platform": platform},
        tags={} if limit is None else {MAX_RETRIES_TAG: str(limit)},
    )
    def run_all() -> None:
        for name, step in zip(sequence.parts, reversed(steps), strict=True):
            step.alias(sequence.step(name))()

    return run_all


def _step(
    sequence: Sequence,
    name: str,
    priority: int,
    definitions: Callable[[], Definitions],
    idle: str | None,
) -> OpDefinition:
    @op(
        # Steps of two jobs need different names; only their aliases may be equal.
        name=f"{sequence.name}_{name}",
        description=JOB_DESCRIPTIONS[name],
        pool=SEQUENCES,
        tags={"dagster/priority": str(priority)},
        out=Out(Nothing),
    )
    def step(context: OpExecutionContext, platform: ResourceParam[Platform]) -> None:
        reason, seen = (idle, {}) if idle else decided(context.instance, platform, name)
        if reason:
            context.log.info(reason)
            context.add_output_metadata({"status": "skipped", "reason": reason})
            return
        report = _run(context, platform, sequence, name, definitions(), seen)
        metadata = _metadata(report)
        if not report.success:
            raise Failure(_why(platform, report), metadata=metadata, allow_retries=False)
        context.add_output_metadata(metadata)

    return step


def decided(
    instance: DagsterInstance, platform: Platform, name: str
) -> tuple[str | None, dict[str, str]]:
    """Return why a job need not run again, or None, and the tag of what its run would see.

    Courses that a sync has just brought get their partitions first, as the run would give them:
    otherwise it would see other courses than the tag names, and a refresh would follow.

    Raises
    ------
    Failure
        The gradebook cannot be read.
    """
    if name not in changes.WATCHED:
        return None, {}
    try:
        with platform.connection() as connection:
            courses = catalog.course_ids(connection)
        if courses:
            synchronize(instance, courses)
        reason, seen = changes.decide(instance, platform, name)
    except UNREADABLE as error:
        raise Failure(str(unreadable(error).skip_message), allow_retries=False) from error
    return reason, seen.tag


def _run(  # noqa: PLR0913, PLR0917 - one for each thing that differs
    context: OpExecutionContext,
    platform: Platform,
    sequence: Sequence,
    name: str,
    definitions: Definitions,
    tags: Mapping[str, str],
) -> "RunReport":
    # It imports the module that builds the definitions, and they import this module.
    from grade_ml.orchestration.running import Follower, run_job

    def wait(other: "DagsterRun") -> None:
        context.log.info(f"Waiting for the run {other.run_id} ({other.job_name}).")

    # Dagster loses a signal that comes between two of the other run's steps.
    run = context.instance.get_run_by_id(context.run.run_id)
    if run and run.status is DagsterRunStatus.CANCELING:
        raise DagsterExecutionInterruptedError
    try:
        with in_pool(context, platform):
            return run_job(
                platform.settings,
                context.instance,
                name,
                follower=Follower(on_wait=wait, wait_minutes=_WAIT_MINUTES),
                days=_days(context.instance, platform) if sequence.looks_back else None,
                definitions=definitions,
                clock=platform.clock,
                tags={PART_OF: context.run.run_id, **_retries(context.run), **tags},
            )
    except KeyboardInterrupt as interrupt:
        raise DagsterExecutionInterruptedError from interrupt
    except GradeMLError as error:
        raise Failure(str(error), allow_retries=False) from error


def _retries(run: "DagsterRun") -> dict[str, str]:
    """Return the tag by which the part of a killed run starts again as often as the run does."""
    return {key: value for key, value in run.tags.items() if key == MAX_RETRIES_TAG}


def _days(instance: DagsterInstance, platform: Platform) -> tuple[date, date]:
    with platform.connection() as connection:
        taught = catalog.first_day_of_teaching(connection)
    return days_to_collect(taught, instance.get_materialized_partitions(_DAYS), platform.as_of)


def days_to_collect(
    taught: date | None, collected: Collection[str], today: date
) -> tuple[date, date]:
    """Return the first and the last day to collect, the current day in any case.

    Parameters
    ----------
    taught
        The day on which the earliest section began; None if there is no section.
    collected
        Days, in ISO format, that were collected before.

    Examples
    --------
    >>> first, last = days_to_collect(date(2026, 2, 2), {"2026-02-02"}, date(2026, 2, 4))
    >>> print(first, last)
    2026-02-03 2026-02-04
    """
    day = max(min(taught or today, today), date.fromisoformat(EARLIEST_DAY))
    while day < today and day.isoformat() in collected:
        day += timedelta(days=1)
    return day, today


def _why(platform: Platform, report: "RunReport") -> str:
    """Return why runs of the report failed, without the messages of unforeseen errors."""
    from grade_ml.maintenance import results

    with platform.connection() as connection:
        stored = [results.of(connection, run_id) for run_id in report.run_ids]
    errors = [result.error for result in stored if result and result.error]
    return (
        " ".join(errors) or f"It failed in {', '.join(report.failures)}; see the page of its run."
    )


def _metadata(report: "RunReport") -> dict[str, Any]:
    return {
        "runs": report.run_ids,
        "status": "success" if report.success else "failure",
        "seconds": round(report.seconds, 1),
        "courses": report.courses,
        **report.counts,
        "checks": report.warnings,
        "degraded": report.degraded,
    }
