"""The progress of the first day: which of its parts wait, run, are done or failed, and why.

Dagster's tables give it; Dagster, whose import takes a second, is not needed to read them.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from sqlalchemy import Connection

from grade_ml.core.texts import line
from grade_ml.orchestration import recorded
from grade_ml.orchestration.recorded import StepEvent
from grade_ml.orchestration.timetable import FIRST_DAY, part_of

#: The class of the error of a step whose process was interrupted.
INTERRUPTION = "DagsterExecutionInterruptedError"


class State(StrEnum):
    """The state of a part so far."""

    WAITING = "waiting"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"


_STATES = {
    "STEP_START": State.RUNNING,
    "STEP_SUCCESS": State.DONE,
    "STEP_FAILURE": State.FAILED,
}


@dataclass(frozen=True)
class Part:
    """One part: the job that it runs, its state, and why it failed."""

    job: str
    state: State = State.WAITING
    reason: str | None = None


@dataclass(frozen=True)
class Progress:
    """The newest first day; `run_id` is its newest run, of several if it was interrupted.

    It goes on while a run of it waits or runs, and while it is `interrupted`: then the daemon has
    yet to start it again.
    """

    run_id: str
    requested_at: datetime
    goes_on: bool
    parts: tuple[Part, ...]
    interrupted: bool = False

    @property
    def failed(self) -> list[Part]:
        """The parts that failed so far."""
        return [part for part in self.parts if part.state is State.FAILED]

    @property
    def done(self) -> int:
        """How many parts are done."""
        return sum(part.state is State.DONE for part in self.parts)

    @property
    def is_complete(self) -> bool:
        """Whether it has ended and all parts are done."""
        return not self.goes_on and self.done == len(self.parts)

    def in_words(self) -> str:
        """Return the progress as a sentence."""
        done = f"{self.done} of {len(self.parts)} parts are done"
        failed = "".join(f" {part.job} failed: {part.reason}" for part in self.failed)
        if not self.goes_on:
            remedy = " To do the rest: grade-ml run first_day" * (not self.is_complete)
            return f"It has ended; {done}.{failed}{remedy}"
        if self.interrupted:
            return f"It was interrupted; {done}. A running `grade-ml up` continues it.{failed}"
        for number, part in enumerate(self.parts, 1):
            if part.state is State.RUNNING:
                return f"Part {number} of {len(self.parts)} runs: {part.job}.{failed}"
        return f"{done}; the next one waits.{failed}"


def newest(connection: Connection) -> Progress | None:
    """Return the progress of the newest first day; None if there was none.

    A part of a first day that has ended is also done if its job had success since then.
    """
    runs = recorded.attempts(connection, FIRST_DAY.name)
    if not runs:
        return None
    last = runs[-1]
    goes_on = last.goes_on or last.starts_over
    events = recorded.step_events(connection, [run.run_id for run in runs])
    parts = parts_of(events, running=last.run_id if last.goes_on else None)
    if not goes_on:
        ended = last.ended_at or last.created_at
        made_up_for = recorded.succeeded_since(connection, FIRST_DAY.parts, ended)
        parts = tuple(
            Part(part.job, State.DONE) if part.job in made_up_for else part for part in parts
        )
    return Progress(last.run_id, runs[0].created_at, goes_on, parts, interrupted=last.starts_over)


def parts_of(events: Iterable[StepEvent], *, running: str | None) -> tuple[Part, ...]:
    """Return the parts according to the events of their steps, of which the oldest comes first.

    A part that was interrupted waits to begin again, as does a part that began in another run than
    `running`, and did not end.
    """
    parts = {job: Part(job) for job in FIRST_DAY.parts}
    for event in events:
        job, state = part_of(event.step), _STATES[event.kind]
        lost = state is State.RUNNING and event.run_id != running
        if lost or event.error == INTERRUPTION:
            parts[job] = Part(job)
        else:
            parts[job] = Part(job, state, _reason(event) if state is State.FAILED else None)
    return tuple(parts.values())


def _reason(event: StepEvent) -> str:
    """Return why a step failed, as one line with a full stop; if unforeseen, where to read it."""
    return f"{line(event.reason or 'See the page of its run').rstrip('.')}."
