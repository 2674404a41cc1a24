"""The joint result of the runs of a task, in Celery's terms; pure, without the webserver.

A task is one run, or several if one run cannot hold its courses. A run that died and that Dagster
starts again does not count; its replacement does.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

from grade_ml.maintenance.results import JobResult, Status


class State(StrEnum):
    """The status of a task."""

    PENDING = "PENDING"
    STARTED = "STARTED"
    SUCCESS = "SUCCESS"
    FAILURE = "FAILURE"
    REVOKED = "REVOKED"


ENDED = frozenset({State.SUCCESS, State.FAILURE, State.REVOKED})
_WORDS = {
    Status.SUCCESS: State.SUCCESS,
    Status.FAILURE: State.FAILURE,
    Status.CANCELED: State.REVOKED,
}


@dataclass(frozen=True)
class TaskResult:
    """The result of a task.

    Attributes
    ----------
    courses
        How many courses it was for; None if it concerns no course.
    started_at, seconds
        From the first start to the last end; None if nothing started.
    counts
        `assets`, `partitions` and `rows` that were written, `failed_courses`, `failed_checks`.
    degraded
        What was degraded, and why.
    error
        Why it failed; None if nothing failed.
    run_ids
        Its runs, as the UI shows them.
    """

    id: str
    task: str
    status: State
    courses: int | None
    started_at: datetime | None
    ended_at: datetime
    seconds: float | None
    counts: Mapping[str, int]
    degraded: tuple[str, ...]
    error: str | None
    run_ids: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return the result as plain values; times are texts."""
        plain = {**asdict(self), "status": self.status.value, "ended_at": self.ended_at.isoformat()}
        plain["started_at"] = self.started_at.isoformat() if self.started_at else None
        return plain


def runs_of(task_id: str) -> int:
    """Return how many runs a task has; the number follows a slash in its id.

    >>> runs_of("8c0d9a5e-6b57-4d0c-9d6f-0a2e8f1c7b11/3")
    3
    """
    return int(task_id.partition("/")[2] or 1)


def result(
    task_id: str, rows: Sequence[JobResult], parts: Collection[JobResult] = ()
) -> TaskResult | None:
    """Return the result of the task, or None while one of its runs has no result.

    Parameters
    ----------
    rows
        The results of its runs so far, in the order in which they ended.
    parts
        The results of runs that are steps of these runs.
    """
    final = [row for row in rows if not row.retried]
    if len(final) < runs_of(task_id):
        return None
    all_rows = [*final, *parts]
    starts = [row.started_at for row in all_rows if row.started_at]
    courses = [row.courses for row in all_rows if row.courses is not None]
    started, ended = min(starts, default=None), final[-1].ended_at
    return TaskResult(
        task_id,
        final[0].job,
        _together([_WORDS[row.status] for row in final]),
        max(courses, default=None) if parts else (sum(courses) if courses else None),
        started,
        ended,
        (ended - started).total_seconds() if started else None,
        {
            name: sum(row.counts.get(name, 0) for row in all_rows)
            for name in dict.fromkeys(name for row in all_rows for name in row.counts)
        },
        tuple(dict.fromkeys(reason for row in all_rows for reason in row.degraded)),
        " ".join(row.error for row in final if row.error) or None,
        tuple(row.run_id for row in final),
    )


def _together(states: Collection[State]) -> State:
    """Return the worst state of several runs."""
    return next(state for state in (State.FAILURE, State.REVOKED, State.SUCCESS) if state in states)
