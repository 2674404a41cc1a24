"""How far the first day is, by the events of its steps."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from datetime import UTC, datetime

from dagster import DagsterEvent, DagsterInstance, DagsterRunStatus, EventLogEntry
from dagster._core.definitions.metadata import MetadataValue
from dagster._core.errors import DagsterExecutionInterruptedError
from dagster._core.execution.plan.objects import StepFailureData, StepSuccessData, UserFailureData
from dagster._core.storage.tags import ROOT_RUN_ID_TAG
from dagster._core.test_utils import create_run_for_test
from dagster_shared.error import SerializableErrorInfo

from grade_ml.cli.first_day import newest
from grade_ml.core.process import Identity
from grade_ml.core.settings import Settings
from grade_ml.orchestration.instance import end_dead_runs, process_tag
from grade_ml.orchestration.progress import INTERRUPTION, Part, Progress, State, parts_of
from grade_ml.orchestration.queue import NOT_AGAIN
from grade_ml.orchestration.recorded import StepEvent
from grade_ml.orchestration.timetable import FIRST_DAY

FIRST, SECOND, THIRD, *_ = FIRST_DAY.parts
START, SUCCESS, FAILURE = "STEP_START", "STEP_SUCCESS", "STEP_FAILURE"


def event(kind: str, job: str, *failure: str) -> StepEvent:
    return StepEvent("run", FIRST_DAY.step(job), kind, *failure)


def states(*events: StepEvent, running: str | None = "run") -> list[State]:
    return [part.state for part in parts_of(events, running=running)][:3]


def test_parts_wait_run_and_end_in_their_order():
    assert states() == [State.WAITING] * 3
    begun = [event(START, FIRST), event(SUCCESS, FIRST), event(START, SECOND)]
    assert states(*begun) == [State.DONE, State.RUNNING, State.WAITING]


def test_a_part_that_was_interrupted_waits_whether_it_could_say_so_or_was_killed():
    begun = [event(START, FIRST), event(SUCCESS, FIRST), event(START, SECOND)]
    for events in ([*begun, event(FAILURE, SECOND, INTERRUPTION)], begun):
        for running in (None, "another"):
            assert states(*events, running=running) == [State.DONE, State.WAITING, State.WAITING]
        again = [*events, event(START, SECOND)]
        assert states(*again) == [State.DONE, State.RUNNING, State.WAITING]


def test_a_part_that_failed_gives_the_reason_without_the_words_of_an_unforeseen_error():
    for words in ("Load one.", "Load one"):
        known = parts_of([event(FAILURE, FIRST, "Failure", words)], running="run")
        assert known[0] == Part(FIRST, State.FAILED, "Load one.")
    (unknown, *_) = parts_of([event(FAILURE, FIRST, "ValueError")], running="run")
    assert unknown.reason == "See the page of its run."


def progress(*known: State, goes_on: bool, interrupted: bool = False) -> Progress:
    part_states = [*known, *[State.WAITING] * (len(FIRST_DAY.parts) - len(known))]
    parts = (
        Part(job, state, "It is full." if state is State.FAILED else None)
        for job, state in zip(FIRST_DAY.parts, part_states, strict=True)
    )
    requested_at = datetime(2026, 11, 30, tzinfo=UTC)
    return Progress("run", requested_at, goes_on, tuple(parts), interrupted)


def test_a_sentence_names_the_part_that_runs_and_what_failed():
    count = len(FIRST_DAY.parts)
    running = progress(State.DONE, State.FAILED, State.RUNNING, goes_on=True)
    words = f"Part 3 of {count} runs: {THIRD}. {SECOND} failed: It is full."
    assert running.in_words() == words
    assert "2 of" in progress(State.DONE, State.DONE, goes_on=True).in_words()
    killed = progress(State.DONE, goes_on=True, interrupted=True).in_words()
    assert "interrupted" in killed and "1 of" in killed and "`grade-ml up` continues" in killed
    ended = progress(*[State.DONE] * (count - 1), State.FAILED, goes_on=False)
    assert not ended.is_complete and "grade-ml run first_day" in ended.in_words()
    complete = progress(*[State.DONE] * count, goes_on=False)
    assert complete.is_complete and "failed" not in complete.in_words()


def record(instance: DagsterInstance, run: str, kind: str, job: str, error: object = None) -> None:
    """Let a step of a run report what it does."""
    data = StepSuccessData(1.0) if kind == SUCCESS else error
    step = FIRST_DAY.step(job)
    reported = DagsterEvent(kind, FIRST_DAY.name, step_key=step, event_specific_data=data)
    instance.handle_new_event(EventLogEntry(None, 10, "", run, 1.0, step, dagster_event=reported))


def step_error(kind: type[BaseException], reason: str | None = None) -> StepFailureData:
    error = SerializableErrorInfo(message="student 4711", stack=[], cls_name=kind.__name__)
    given = UserFailureData("", reason, {"runs": MetadataValue.int(1)}) if reason else None
    return StepFailureData(error, given)


def killed_process() -> Identity:
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    identity = Identity.of(process.pid)
    process.kill()
    process.communicate()
    return identity


def test_a_first_day_that_was_started_by_hand_and_killed_does_not_go_on(
    settings: Settings, opened: DagsterInstance
):
    tags = process_tag(killed_process()) | NOT_AGAIN
    create_run_for_test(opened, FIRST_DAY.name, status=DagsterRunStatus.STARTED, tags=tags)
    progress, _ = reached(settings)
    assert not progress.goes_on and "grade-ml run first_day" in progress.in_words()
    end_dead_runs(opened)
    assert reached(settings)[0] == progress


def reached(settings: Settings) -> tuple[Progress, list[State]]:
    progress = newest(settings)
    assert progress
    return progress, [part.state for part in progress.parts][:3]


def test_a_first_day_that_was_killed_goes_on_until_it_ends_or_somebody_ends_it(
    settings: Settings, opened: DagsterInstance
):
    """Dagster's own events and tags tell it, in every state that a kill leaves."""
    assert newest(settings) is None
    killed = create_run_for_test(
        opened,
        FIRST_DAY.name,
        status=DagsterRunStatus.STARTED,
        tags=process_tag(Identity.of(os.getpid())),
    )
    run = killed.run_id
    record(opened, run, START, FIRST)
    record(opened, run, SUCCESS, FIRST)
    record(opened, run, START, SECOND)
    record(opened, run, FAILURE, SECOND, step_error(ValueError, "It is full"))
    record(opened, run, START, THIRD)
    running, states = reached(settings)
    assert states == [State.DONE, State.FAILED, State.RUNNING]
    assert running.goes_on and not running.interrupted
    assert [part.reason for part in running.failed] == ["It is full."]

    opened.add_run_tags(run, process_tag(killed_process()))
    before, states = reached(settings)
    assert states == [State.DONE, State.FAILED, State.WAITING]
    assert before.goes_on and before.interrupted
    assert end_dead_runs(opened) == 1
    # Dagster marks it as one that it starts again.
    assert reached(settings)[0] == before

    again = create_run_for_test(
        opened, FIRST_DAY.name, status=DagsterRunStatus.STARTED, tags={ROOT_RUN_ID_TAG: run}
    )
    opened.add_run_tags(run, {"dagster/auto_retry_run_id": again.run_id})
    assert reached(settings)[0] == replace(before, run_id=again.run_id, interrupted=False)
    record(opened, again.run_id, START, SECOND)
    record(opened, again.run_id, FAILURE, SECOND, step_error(DagsterExecutionInterruptedError))
    opened.report_run_canceled(again)
    ended, states = reached(settings)
    assert not ended.goes_on and states == [State.DONE, State.WAITING, State.WAITING]

    # What did not end is done once its job has run since then.
    create_run_for_test(opened, SECOND, status=DagsterRunStatus.SUCCESS)
    create_run_for_test(opened, THIRD, status=DagsterRunStatus.FAILURE)
    assert reached(settings)[1] == [State.DONE, State.DONE, State.WAITING]
