"""The errors that a task may raise; each is a kind of the errors in `core.errors`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from grade_ml.core.errors import (
    ConfigurationError,
    GradeMLError,
    NotFoundError,
    NotReadyError,
    ServiceError,
)

if TYPE_CHECKING:
    from grade_ml.tasks.outcome import TaskResult


class UnknownTask(NotFoundError):
    """Neither a result nor a run has this id."""


class UnsupportedOption(ConfigurationError):
    """An option of Celery that has no counterpart in Dagster."""


class WebserverUnavailable(ServiceError):
    """Dagster's webserver does not run, does not answer, or answers too late."""


class WebserverRefused(ConfigurationError):
    """Dagster's webserver answers and refuses: the token is wrong, or it is read-only."""


class NotSubmitted(NotReadyError):
    """Nothing was submitted: a job, course or partition does not exist yet."""


class TaskTimeout(GradeMLError):
    """There is no result yet; the task still runs or waits."""


class _Ended(GradeMLError):
    """A task that ended without success; `result` has its counts and its error."""

    def __init__(self, message: str, remedy: str, result: TaskResult) -> None:
        super().__init__(message, remedy)
        self.result = result


class TaskFailed(_Ended):
    """The task failed."""


class TaskRevoked(_Ended):
    """The task was revoked, or its run was canceled in the UI."""
