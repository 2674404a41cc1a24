"""Submits a task as runs of Dagster, and follows it by its id until it has a result."""

from __future__ import annotations

import re
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

from grade_ml.core.clock import Clock
from grade_ml.core.errors import GradeMLError
from grade_ml.core.up_record import DAEMON_SECONDS
from grade_ml.maintenance import results
from grade_ml.maintenance.results import LAUNCHED_BY_TAG, TASK_TAG, LaunchedBy
from grade_ml.tasks import outcome
from grade_ml.tasks.errors import (
    TaskFailed,
    TaskRevoked,
    TaskTimeout,
    UnknownTask,
    WebserverUnavailable,
)
from grade_ml.tasks.installation import Installation
from grade_ml.tasks.outcome import State, TaskResult

if TYPE_CHECKING:
    from grade_ml.tasks.webserver import Look

_ID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}(/[1-9][0-9]{0,3})?")
#: Seconds between two reads of the table: the first pause, and the longest.
_FIRST_PAUSE, _LONGEST_PAUSE = 0.1, 2.0
_QUEUED = frozenset({"QUEUED", "NOT_STARTED", "MANAGED", "STARTING", "SUSPENDED"})
_FINISHED = frozenset({"SUCCESS", "FAILURE", "CANCELED"})
_START = "Start `grade-ml up`, or look at Deployment, Daemons in the UI."


@dataclass(frozen=True)
class AsyncResult:
    """A submitted task: its status and its result.

    The end of a task is read from a table, without the webserver or Dagster's event log; before its
    end, the status comes from the webserver.
    """

    id: str
    _installation: Installation

    @property
    def status(self) -> State:
        """The status in Celery's terms: PENDING, STARTED, SUCCESS, FAILURE, REVOKED.

        Raises
        ------
        UnknownTask
            No task has its id.
        WebserverUnavailable, WebserverRefused
            It has no result yet, and the webserver does not report its status.
        """
        result = self._result()
        if result is not None:
            return result.status
        waits = all(run.status in _QUEUED for run in self._look().runs)
        return State.PENDING if waits else State.STARTED

    @property
    def waits_for(self) -> str:
        """A sentence why there is no result yet; empty if there is a result."""
        return "" if self._result() is not None else _reason(self._look(), Clock().now())

    def ready(self) -> bool:
        """Return whether it has ended and its result is there; raise as `status` does."""
        if self._result() is not None:
            return True
        self._look()
        return False

    def get(self, timeout: float | None = None) -> TaskResult:
        """Wait for the end and return the result.

        Parameters
        ----------
        timeout
            Seconds; None to wait without limit.

        Raises
        ------
        TaskFailed, TaskRevoked
            It ended without success; the error has the result.
        TaskTimeout
            There is no result yet; the error states what the task waits for.
        UnknownTask
            No task has its id.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        pause = _FIRST_PAUSE
        while (result := self._result()) is None:
            left = float("inf") if deadline is None else deadline - time.monotonic()
            if left <= 0:
                raise self._timeout(timeout)
            time.sleep(min(pause, left))
            pause = min(2 * pause, _LONGEST_PAUSE)
        if result.status is State.SUCCESS:
            return result
        ended = TaskFailed if result.status is State.FAILURE else TaskRevoked
        raise ended(
            f"The task {result.task} {'failed' if ended is TaskFailed else 'was revoked'}: "
            f"{result.error or 'its log gives the reason.'}",
            f"See the log of the run {result.run_ids[-1]} in the Dagster UI.",
            result,
        )

    def revoke(self) -> None:
        """Take it from the queue, or end it; a task that has ended stays as it is.

        Raises
        ------
        UnknownTask, WebserverUnavailable, WebserverRefused
            The webserver could not be reached, or refused.
        """
        if self._result() is None:
            webserver = self._installation.webserver
            for run in self._look().runs:
                if run.status not in _FINISHED:
                    webserver.terminate(run.run_id)

    def _result(self) -> TaskResult | None:
        with self._installation.connection() as connection:
            rows = results.of_task(connection, self._tag)
            parts = results.parts(connection, [row.run_id for row in rows])
        return outcome.result(self.id, rows, parts)

    def _look(self) -> Look:
        look = self._installation.webserver.look(TASK_TAG, self._tag)
        if not look.runs:
            raise UnknownTask(
                f"Neither a result nor a run has the id {self.id}.",
                "Give the id of a handle, or of a run, of this installation.",
            )
        return look

    @property
    def _tag(self) -> str:
        return self.id.partition("/")[0]

    def _timeout(self, timeout: float | None) -> GradeMLError:
        """Return why there is no result after this many seconds."""
        try:
            why = _reason(self._look(), Clock().now())
        except UnknownTask as error:
            return error
        except GradeMLError as error:  # the wait is over, whether or not the webserver answers
            why = str(error)
        return TaskTimeout(
            f"The task {self.id} has no result after {timeout:g} seconds. {why}",
            "It continues; try again later, or revoke it.",
        )


def _reason(look: Look, now: datetime) -> str:
    """Return what a task without a result waits for."""
    beat = look.daemon_at
    lives = beat is not None and (now - beat).total_seconds() < DAEMON_SECONDS
    daemon = "" if lives else f", and Dagster's daemon does not run. {_START}"
    if all(run.status in _FINISHED for run in look.runs):
        return f"It has ended, and its result is being recorded{daemon or '.'}"
    if all(run.status in _QUEUED for run in look.runs):
        return f"It waits in the queue{daemon or ', in which a few runs go at once.'}"
    return "It runs."


def result(task_id: str, installation: Installation | None = None) -> AsyncResult:
    """Return the handle of a task by its id, or by the id of one of its runs.

    Raises
    ------
    UnknownTask
        The text is not an id of a task.
    """
    if not isinstance(task_id, str) or not _ID.fullmatch(task_id):
        raise UnknownTask(
            f"{str(task_id)[:60]!r} is no id of a task.", "Give the `id` of a handle as it was."
        )
    return AsyncResult(task_id, installation or Installation.of_environment())


def new_id() -> str:
    """Return an id that no task has."""
    return str(uuid.uuid4())


def tags_of(task_id: str) -> dict[str, str]:
    """Return the tags of the runs of a task."""
    return {TASK_TAG: task_id, LAUNCHED_BY_TAG: LaunchedBy.TASK.value}


def submit(installation: Installation, job: str, spans: Sequence[Mapping[str, str]]) -> AsyncResult:
    """Put a run of `job` into the queue for each of `spans`, the tags of its partitions.

    Raises
    ------
    WebserverUnavailable, WebserverRefused
        Not all were taken; the runs that were taken are terminated. If the webserver did not
        answer, one may still run: the error has the id.
    """
    webserver, base = installation.webserver, new_id()
    handle = AsyncResult(base if len(spans) == 1 else f"{base}/{len(spans)}", installation)
    launched: list[str] = []
    try:
        for tags in spans:
            launched.append(webserver.launch(job, {**tags, **tags_of(base)}))
    except WebserverUnavailable as error:
        raise WebserverUnavailable(
            f"{error.message} It may have taken the task nevertheless.",
            f"{error.remedy} Then result({handle.id!r}) returns its handle.",
        ) from error
    except GradeMLError:
        for run_id in launched:
            webserver.terminate(run_id)
        raise
    return handle
