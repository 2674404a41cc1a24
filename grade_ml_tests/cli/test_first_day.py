"""What `grade-ml up` prints of the first day, and the student whom it names."""

from __future__ import annotations

from dataclasses import replace
from datetime import date

import pytest
import sqlalchemy as sa
from dagster import DagsterRunStatus
from dagster._core.test_utils import create_run_for_test
from sqlalchemy import Engine

from grade_ml.campus import simulated
from grade_ml.cli.first_day import BRINGS, advised, news, trial
from grade_ml.core.settings import Settings
from grade_ml.gradebook import schema
from grade_ml.orchestration.instance import open_instance
from grade_ml.orchestration.progress import Progress, State
from grade_ml.orchestration.timetable import FIRST_DAY
from grade_ml_tests.ensemble.campus import store
from grade_ml_tests.orchestration.test_progress import START, SUCCESS, progress, record

URL = "http://127.0.0.1:3000"
EXAMPLE = ("sim-1", "SIM-X")
COUNT = len(FIRST_DAY.parts)


def progress_messages(before: Progress | None, now: Progress) -> str:
    return "\n".join(news(before, now, URL, EXAMPLE))


def test_every_part_has_words_for_what_it_brings():
    assert BRINGS.keys() == set(FIRST_DAY.parts)


def test_a_first_day_is_followed_from_part_to_part_and_nothing_is_printed_twice():
    steps = [
        progress(*[State.DONE] * done, *[State.RUNNING] * (done < COUNT), goes_on=done < COUNT)
        for done in range(COUNT + 1)
    ]
    whole = [
        progress_messages(before, now)
        for before, now in zip([None, *steps[:-1]], steps, strict=True)
    ]
    for number, job in enumerate(FIRST_DAY.parts, 1):
        assert "\n".join(whole).count(f"part {number} of {COUNT}: {BRINGS[job]}") == 1
    predictions = FIRST_DAY.parts.index("train_traditional_models") + 1
    assert trial(EXAMPLE) in whole[predictions] and trial(EXAMPLE) not in whole[predictions - 1]
    assert "schedules renew it" in whole[-1]
    assert not any(progress_messages(step, step) for step in steps[:-1])
    assert len("\n".join(whole).splitlines()) <= 2 * COUNT


def test_parts_that_ended_between_two_looks_are_printed_too():
    before, now = progress(goes_on=True), progress(*[State.DONE] * 3, goes_on=True)
    assert progress_messages(before, now).count("First day, part") == 3


def test_a_failed_part_states_why_and_where_its_run_is():
    now = progress(State.DONE, State.FAILED, State.RUNNING, goes_on=True)
    words = progress_messages(progress(State.DONE, State.RUNNING, goes_on=True), now)
    assert "It is full." in words and f"{URL}/runs/{now.run_id}" in words
    over = replace(now, parts=now.parts[:2], goes_on=False)
    assert "run first_day" in progress_messages(now, over)


def test_an_interruption_is_told_once_and_the_part_that_it_hit_begins_again():
    running = progress(State.DONE, State.RUNNING, goes_on=True)
    killed = progress(State.DONE, goes_on=True, interrupted=True)
    assert "interrupted; it goes on" in progress_messages(running, killed)
    assert not progress_messages(killed, killed)
    assert progress_messages(killed, running).startswith("First day, part 2")


def test_a_continuing_first_day_lists_what_is_done_and_may_be_tried_and_a_finished_day_nothing():
    words = progress_messages(None, progress(State.DONE, State.DONE, State.RUNNING, goes_on=True))
    assert f"2 of {COUNT} parts are done" in words and trial(EXAMPLE) in words
    assert "part 3 of" in words and "part 1 of" not in words
    assert not progress_messages(None, progress(*[State.DONE] * COUNT, goes_on=False))


@pytest.mark.parametrize("today", [date(2026, 9, 20), date(2026, 11, 30), date(2027, 3, 14)])
def test_the_example_is_there_today_with_scores_and_with_work_to_come(engine: Engine, today: date):
    store(engine, simulated.gradebook(simulated.CampusConfig(students=60, courses=2), today))
    with engine.connect() as connection:
        enrollment = simulated.example(connection, today)
        assert enrollment
        student, course = enrollment
        rows = connection.execute(
            sa.select(schema.assignment.c.due_on, schema.result.c.score)
            .join_from(schema.enrollment, schema.section)
            .join(schema.assignment, schema.assignment.c.section_id == schema.section.c.section_id)
            .outerjoin(
                schema.result,
                (schema.result.c.assignment_id == schema.assignment.c.assignment_id)
                & (schema.result.c.student_id == student),
            )
            .where(
                schema.enrollment.c.student_id == student,
                schema.section.c.course_id == course,
                schema.section.c.ends_on >= today,
            )
        ).all()
    assert any(row.score is not None for row in rows)
    assert any(row.due_on > today for row in rows)


ADVICE = "Nothing is there. Run grade-ml run generate_time_series_forecasts; it trains one."


def test_advice_to_run_a_job_names_the_part_of_the_first_day_that_brings_it(
    settings: Settings, environment: dict[str, str], monkeypatch: pytest.MonkeyPatch
):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    number = FIRST_DAY.parts.index("generate_time_series_forecasts") + 1
    with open_instance(settings) as instance:
        assert advised(ADVICE, settings) == ADVICE
        run = create_run_for_test(instance, FIRST_DAY.name, status=DagsterRunStatus.STARTED)

        def begin(part: str) -> str:
            record(instance, run.run_id, START, part)
            return advised(ADVICE, settings)

        assert "it waits now" in advised(ADVICE, settings)
        early = begin("train_traditional_models")
        assert f"brings it with part {number} of {COUNT} (forecasts); part 2 runs now." in early
        assert early.startswith("Nothing is there. The first day")
        assert "makes it now" in begin("generate_time_series_forecasts")
        record(instance, run.run_id, SUCCESS, "generate_time_series_forecasts")
        assert begin("system_health") == ADVICE
        assert "part" not in advised("Run grade-ml run refresh_gradebook.", settings)
