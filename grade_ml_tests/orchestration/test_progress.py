"""How far the first day is, by the events of its steps."""

from __future__ import annotations

from datetime import UTC, datetime

from dagster import DagsterEvent, DagsterEventType, EventLogEntry
from dagster._core.errors import DagsterExecutionInterruptedError
from dagster._core.execution.plan.objects import StepFailureData, StepSuccessData, UserFailureData
from dagster_shared.error import SerializableErrorInfo

from grade_ml.orchestration.progress import Part, Progress, State, parts_of
from grade_ml.orchestration.timetable import FIRST_DAY

FIRST, SECOND, THIRD, *_ = FIRST_DAY.parts
START, SUCCESS, FAILURE = (
    DagsterEventType.STEP_START,
    DagsterEventType.STEP_SUCCESS,
    DagsterEventType.STEP_FAILURE,
)


def failure(name: str, reason: str | None = None) -> StepFailureData:
    error = SerializableErrorInfo(message="student 4711", stack=[], cls_name=name)
    return StepFailureData(error, UserFailureData("", reason) if reason else None)


def entry(kind: DagsterEventType, job: str, data: StepFailureData | None = None) -> EventLogEntry:
    success = StepSuccessData(1.0) if kind is SUCCESS else None
    event = DagsterEvent(
        kind.value, "first_day", step_key=FIRST_DAY.step(job), event_specific_data=data or success
    )
    return EventLogEntry(None, 10, "", "run", 0.0, dagster_event=event)


def states(*entries: EventLogEntry, is_running: bool = True) -> list[State]:
    return [part.state for part in parts_of(entries, is_running=is_running)][:3]


def test_parts_wait_run_and_end_in_their_order():
    assert states() == [State.WAITING] * 3
    begun = [entry(START, FIRST), entry(SUCCESS, FIRST), entry(START, SECOND)]
    assert states(*begun) == [State.DONE, State.RUNNING, State.WAITING]


def test_a_part_that_was_interrupted_waits_whether_it_could_say_so_or_was_killed():
    begun = [entry(START, FIRST), entry(SUCCESS, FIRST), entry(START, SECOND)]
    interrupted = entry(FAILURE, SECOND, failure(DagsterExecutionInterruptedError.__name__))
    for events in ([*begun, interrupted], begun):
        assert states(*events, is_running=False) == [State.DONE, State.WAITING, State.WAITING]
        again = [*events, entry(START, SECOND)]
        assert states(*again) == [State.DONE, State.RUNNING, State.WAITING]


def test_a_part_that_failed_gives_the_reason_without_the_words_of_an_unforeseen_error():
    for words in ("Load one.", "Load one"):
        known = parts_of([entry(FAILURE, FIRST, failure("Failure", words))], is_running=True)
        assert known[0] == Part(FIRST, State.FAILED, "Load one.")
    (unknown, *_) = parts_of([entry(FAILURE, FIRST, failure("ValueError"))], is_running=True)
    assert unknown.reason == "See the page of its run."


def progress(*known: State, goes_on: bool) -> Progress:
    part_states = [*known, *[State.WAITING] * (len(FIRST_DAY.parts) - len(known))]
    parts = (
        Part(job, state, "It is full." if state is State.FAILED else None)
        for job, state in zip(FIRST_DAY.parts, part_states, strict=True)
    )
    return Progress("run", datetime(2026, 11, 30, tzinfo=UTC), goes_on, tuple(parts))


def test_a_sentence_names_the_part_that_runs_and_what_failed():
    count = len(FIRST_DAY.parts)
    running = progress(State.DONE, State.FAILED, State.RUNNING, goes_on=True)
    words = f"Part 3 of {count} runs: {THIRD}. {SECOND} failed: It is full."
    assert running.in_words() == words
    assert "2 of" in progress(State.DONE, State.DONE, goes_on=True).in_words()
    ended = progress(*[State.DONE] * (count - 1), State.FAILED, goes_on=False)
    assert not ended.is_complete and "grade-ml run first_day" in ended.in_words()
    complete = progress(*[State.DONE] * count, goes_on=False)
    assert complete.is_complete and "failed" not in complete.in_words()
