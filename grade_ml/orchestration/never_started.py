"""Ends runs that were recorded but can never start; until then sensors and jobs wait for them.

By GraphQL, Dagster records a run over any range of partitions, and only then looks for them: the
caller gets an error 500, and the run stays "not started". So does a run whose server was killed
between recording and submitting it.
"""

from __future__ import annotations

from datetime import timedelta

from dagster import (
    DagsterInstance,
    DagsterRun,
    DagsterRunStatus,
    RepositoryDefinition,
    RunsFilter,
)

from grade_ml.core.errors import NotFoundError
from grade_ml.gradebook.catalog import course_ids, require_courses
from grade_ml.orchestration.in_flight import assets_of
from grade_ml.orchestration.partitions import course, require_days
from grade_ml.orchestration.queue import NOT_AGAIN
from grade_ml.orchestration.ranges import RANGE_END, RANGE_START
from grade_ml.orchestration.resources import Platform

#: Recording a run over two years of days took up to seven minutes on a busy machine.
_LATEST = timedelta(hours=1)
_LOST = (
    "It was recorded and never submitted: the process that launched it ended in between. "
    "Launch it again."
)


def end(instance: DagsterInstance, repository: RepositoryDefinition, platform: Platform) -> int:
    """Report the runs that can never start as failed, with the reason, and return their number.

    Raises
    ------
    GradeMLError, SQLAlchemyError
        The gradebook cannot be read.
    """
    ended, recorded = 0, RunsFilter(statuses=[DagsterRunStatus.NOT_STARTED])
    for record in instance.get_run_records(recorded):
        run = record.dagster_run
        reason = _names_unknown(run, instance, repository, platform)
        if not reason and platform.clock.now() - record.create_timestamp > _LATEST:
            reason = _LOST
        if reason:
            instance.add_run_tags(run.run_id, NOT_AGAIN)
            instance.report_run_failed(run, reason)
            ended += 1
    return ended


def _names_unknown(
    run: DagsterRun,
    instance: DagsterInstance,
    repository: RepositoryDefinition,
    platform: Platform,
) -> str:
    """Return that a run names a range of partitions that do not exist; empty if it names none."""
    named = [run.tags[name] for name in (RANGE_START, RANGE_END) if name in run.tags]
    graph = repository.asset_graph
    sets = {graph.get(key).partitions_def for key in assets_of(run, repository) if graph.has(key)}
    try:
        unknown = {*named} - {*instance.get_dynamic_partitions(str(course.name))}
        if unknown and course in sets:
            with platform.connection() as connection:
                require_courses(unknown, course_ids(connection))
        if sets - {course, None}:
            require_days(named, platform.as_of)
    except NotFoundError as error:
        return str(error)
    return ""
