"""The progress of the first day: which of its parts wait, run, are done or failed, and why."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from itertools import chain

from dagster import (
    DagsterEvent,
    DagsterEventType,
    DagsterInstance,
    DagsterRun,
    EventLogEntry,
    RunsFilter,
)
from dagster._core.errors import DagsterExecutionInterruptedError
from dagster._core.storage.tags import AUTO_RETRY_RUN_ID_TAG, WILL_RETRY_TAG

from grade_ml.core.texts import line
from grade_ml.orchestration.in_flight import IN_FLIGHT
from grade_ml.orchestration.timetable import FIRST_DAY, part_of


class State(StrEnum):
    """The state of a part so far."""

    WAITING = "waiting"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"


_STATES = {
    DagsterEventType.STEP_START: State.RUNNING,
    DagsterEventType.STEP_SUCCESS: State.DONE,
    DagsterEventType.STEP_FAILURE: State.FAILED,
}


@dataclass(frozen=True)
class Part:
    """One part: the job that it runs, its state, and why it failed."""

    job: str
    state: State = State.WAITING
    reason: str | None = None


@dataclass(frozen=True)
class Progress:
    """The newest first day; `run_id` is its newest run, of several if it was interrupted."""

    run_id: str
    requested_at: datetime
    goes_on: bool
    parts: tuple[Part, ...]

    @property
    def failed(self) -> list[Part]:
        """The parts that failed so far."""
        return [part for part in self.parts if part.state is State.FAILED]

    @property
    def is_complete(self) -> bool:
        """Whether it has ended and all parts are done."""
        return not self.goes_on and all(part.state is State.DONE for part in self.parts)

    def in_words(self) -> str:
        """Return the progress as a sentence."""
        ended = sum(part.state in {State.DONE, State.FAILED} for part in self.parts)
        failed = "".join(f" {part.job} failed: {part.reason}" for part in self.failed)
        if not self.goes_on:
            words = f"Over, {ended} of {len(self.parts)} parts ended."
            remedy = " To do the rest: grade-ml run first_day" * (not self.is_complete)
            return f"{words}{failed}{remedy}"
        for number, part in enumerate(self.parts, 1):
            if part.state is State.RUNNING:
                return f"Part {number} of {len(self.parts)} runs: {part.job}.{failed}"
        return f"{ended} of {len(self.parts)} parts ended, the next one waits.{failed}"


def newest(instance: DagsterInstance) -> Progress | None:
    """Return the progress of the newest first day; None if there was none."""
    for run in instance.get_runs(RunsFilter(job_name=FIRST_DAY.name), limit=1):
        group = instance.get_run_group(run.run_id)
        run_ids = [member.run_id for member in group[1]] if group else [run.run_id]
        records = instance.get_run_records(RunsFilter(run_ids=run_ids), ascending=True)
        logs = (
            instance.all_logs(record.dagster_run.run_id, of_type={*_STATES}) for record in records
        )
        return Progress(
            run.run_id,
            records[0].create_timestamp.astimezone(UTC),
            _goes_on(run),
            parts_of(chain.from_iterable(logs), is_running=run.status in IN_FLIGHT),
        )
    return None


def _goes_on(run: DagsterRun) -> bool:
    """Return whether the run has not ended, or ended by accident and Dagster starts it again."""
    starts_over = run.tags.get(WILL_RETRY_TAG) == "true"
    return run.status in IN_FLIGHT or (starts_over and AUTO_RETRY_RUN_ID_TAG not in run.tags)


def parts_of(entries: Iterable[EventLogEntry], *, is_running: bool) -> tuple[Part, ...]:
    """Return the parts according to the events of their steps, of which the oldest comes first.

    A part that was interrupted waits to begin again, as does a part whose run ended meanwhile.
    """
    parts = {job: Part(job) for job in FIRST_DAY.parts}
    for entry in entries:
        event = entry.get_dagster_event()
        assert event.step_key
        job = part_of(event.step_key)
        if event.is_step_failure:
            interrupted = is_interruption(event)
            part = Part(job) if interrupted else Part(job, State.FAILED, _reason(event))
        else:
            part = Part(job, _STATES[event.event_type])
        parts[job] = part
    ran = {part for part in parts.values() if part.state is State.RUNNING and not is_running}
    return tuple(Part(part.job) if part in ran else part for part in parts.values())


def is_interruption(event: DagsterEvent) -> bool:
    """Return whether a step failed because its process was interrupted."""
    error = event.step_failure_data.error
    return error is not None and error.cls_name == DagsterExecutionInterruptedError.__name__


def _reason(event: DagsterEvent) -> str:
    """Return why a step failed, as one line with a full stop; if unforeseen, where to read it."""
    failure = event.step_failure_data.user_failure_data
    words = line((failure and failure.description) or "See the page of its run")
    return f"{words.rstrip('.')}."
