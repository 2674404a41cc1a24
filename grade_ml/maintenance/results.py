"""Stores the result of each run of a job in a row that outlives Dagster's event log.

`orchestration/results.py` makes a `JobResult` of a run of Dagster.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, field
from datetime import datetime
from enum import StrEnum

import sqlalchemy as sa
from sqlalchemy import Connection
from sqlalchemy.dialects.postgresql import JSONB, insert

from grade_ml.core.policy import TablePolicy

#: The tags of a run that name who launched it if Dagster does not, the task that submitted it, and
#: the run of which it is a step.
LAUNCHED_BY_TAG, TASK_TAG = "grade_ml/launched_by", "grade_ml/task"
PART_OF = "grade_ml/part_of"

metadata = sa.MetaData(schema="maintenance")

job_result = sa.Table(
    "job_result",
    metadata,
    sa.Column("run_id", sa.Text, primary_key=True),
    sa.Column("job", sa.Text, nullable=False),
    sa.Column(
        "courses", sa.Integer, comment="number of courses of the run; null: the job has none"
    ),
    sa.Column("launched_by", sa.Text, nullable=False),
    sa.Column("task", sa.Text, comment="id of the task that requested the run"),
    sa.Column("part_of", sa.Text, comment="run of the longer job that contains this run"),
    sa.Column("status", sa.Text, nullable=False, comment="success, failure or canceled"),
    sa.Column(
        "retried",
        sa.Boolean,
        nullable=False,
        comment="whether its process died and Dagster runs it again",
    ),
    sa.Column("started_at", sa.TIMESTAMP(timezone=True), comment="null: it never left the queue"),
    sa.Column("ended_at", sa.TIMESTAMP(timezone=True), nullable=False),
    sa.Column("seconds", sa.Double, comment="seconds from its start to its end"),
    sa.Column("counts", JSONB, nullable=False, comment="what it wrote and what failed, by name"),
    sa.Column(
        "degraded", JSONB, nullable=False, comment="what stood in for something better, and why"
    ),
    sa.Column("error", sa.Text, comment="why it failed"),
    sa.Column(
        "peak_rss_mb", sa.Double, comment="peak memory of its largest step, MB; null: not measured"
    ),
    sa.Column(
        "cpu_seconds", sa.Double, comment="processor time of its steps, seconds; null: not measured"
    ),
    # Two years: a term is compared with the same term of the year before.
    info=TablePolicy("maintenance", time="ended_at", days=730).info,
)


class Status(StrEnum):
    """How a run ended."""

    SUCCESS = "success"
    FAILURE = "failure"
    CANCELED = "canceled"


class LaunchedBy(StrEnum):
    """Who launched a run."""

    SCHEDULE = "schedule"
    SENSOR = "sensor"
    TASK = "task"
    JOB = "job"
    COMMAND = "command"
    UI = "UI"


@dataclass(frozen=True)
class JobResult:
    """The result of one run.

    Attributes
    ----------
    courses
        The number of its courses; None if the run concerns no course.
    task
        The id of the task with which `grade_ml.tasks` submitted the run; the task's runs share it.
    part_of
        The run of which it is a step, such as one of `comprehensive_ml_maintenance`.
    retried
        The run died, and Dagster runs it again: another run has the result.
    started_at
        None if it was canceled in the queue.
    counts
        `assets`, `partitions` and `rows` that it wrote, and `failed_courses`, `failed_checks`.
    degraded
        What was replaced by something lesser, and why.
    peak_rss_mb, cpu_seconds
        None if they were not measured.
    """

    run_id: str
    job: str
    launched_by: LaunchedBy
    status: Status
    started_at: datetime | None
    ended_at: datetime
    courses: int | None = None
    task: str | None = None
    part_of: str | None = None
    retried: bool = False
    seconds: float | None = None
    counts: Mapping[str, int] = field(default_factory=dict)
    degraded: tuple[str, ...] = ()
    error: str | None = None
    peak_rss_mb: float | None = None
    cpu_seconds: float | None = None


def record(connection: Connection, results: Collection[JobResult]) -> None:
    """Store the results; a result whose run is recorded already stays as it is."""
    rows = [{**asdict(result), "degraded": list(result.degraded)} for result in results]
    if rows:
        connection.execute(insert(job_result).on_conflict_do_nothing(), rows)


def known(connection: Connection, run_ids: Collection[str]) -> set[str]:
    """Return those of `run_ids` whose result is recorded."""
    column = job_result.c.run_id
    return set(connection.scalars(sa.select(column).where(column.in_(run_ids))))


def newest(connection: Connection, job: str | None = None, limit: int = 100) -> list[JobResult]:
    """Return the results of the runs that ended last, of one job or of all, newest first."""
    query = sa.select(job_result).order_by(job_result.c.ended_at.desc()).limit(limit)
    if job is not None:
        query = query.where(job_result.c.job == job)
    return _read(connection, query)


def of(connection: Connection, run_id: str) -> JobResult | None:
    """Return the result of one run, or None if it has not ended or is not recorded yet."""
    results = _read(connection, sa.select(job_result).where(job_result.c.run_id == run_id))
    return results[0] if results else None


def of_task(connection: Connection, task: str) -> list[JobResult]:
    """Return the results so far of the runs that a task submitted, in the order of their ends.

    `task` may also be the id of a single run.
    """
    column = job_result.c
    query = sa.select(job_result).where((column.task == task) | (column.run_id == task))
    return _read(connection, query.order_by(column.ended_at))


def parts(connection: Connection, run_ids: Collection[str]) -> list[JobResult]:
    """Return the results of the runs that are steps of others, in the order of their ends."""
    column = job_result.c
    query = sa.select(job_result).where(column.part_of.in_(run_ids))
    return _read(connection, query.order_by(column.ended_at))


def _read(connection: Connection, query: sa.Select[tuple[object, ...]]) -> list[JobResult]:
    return [
        JobResult(
            **{
                **row,
                "launched_by": LaunchedBy(row["launched_by"]),
                "status": Status(row["status"]),
                "degraded": tuple(row["degraded"]),
            }
        )
        for row in connection.execute(query).mappings()
    ]
