"""Stored forecasts: by day, replaced only by the same day's, on a real database."""

from __future__ import annotations

from dataclasses import replace
from datetime import date, timedelta

import pandas as pd
import sqlalchemy as sa
from sqlalchemy import Engine

from grade_ml.core import database
from grade_ml.core.frames import sound
from grade_ml.early_warning.store import CourseRun, newest_run
from grade_ml.forecasting import store
from grade_ml.forecasting.contract import ACTIVITY, Forecasts, schema
from grade_ml.forecasting.tables import course_run
from grade_ml_tests.conftest import database_of
from grade_ml_tests.forecasting.campus import TODAY, campus_forecasts

YESTERDAY = TODAY - timedelta(days=1)


def write(
    engine: Engine, forecasts: Forecasts, as_of: date, courses: list[str] | None = None
) -> None:
    names = courses or sorted(forecasts.forecasts["course_id"].unique())
    on_day = replace(forecasts, forecasts=forecasts.forecasts.assign(as_of=pd.Timestamp(as_of)))
    with engine.begin() as connection:
        store.write(connection, names, as_of, on_day, 3, dict.fromkeys(names, "origin"))


def read(engine: Engine, as_of: date, **chosen: object) -> pd.DataFrame:
    with engine.connect() as connection:
        return store.read_forecasts(connection, as_of, **chosen)


def test_stored_forecasts_are_read_back_unchanged(engine: Engine):
    write(engine, campus_forecasts(), TODAY)
    keys = ["section_id", "student_id", "assignment_id"]
    rows = read(engine, TODAY)
    assert sound(rows, schema())[1].empty
    pd.testing.assert_frame_equal(
        rows.sort_values(keys, ignore_index=True),
        campus_forecasts().forecasts.sort_values(keys, ignore_index=True),
    )
    with engine.connect() as connection:
        activity = store.read_activity(connection, TODAY)
        run = newest_run(connection, rows["course_id"][0], TODAY + timedelta(days=5))
        assert run == CourseRun(TODAY, 3, campus_forecasts().degraded, "origin")
        assert newest_run(connection, rows["course_id"][0], YESTERDAY) is None
    assert sound(activity, schema(ACTIVITY))[1].empty
    assert len(activity) == len(campus_forecasts().activity)


def test_a_day_replaces_itself_and_leaves_the_others(engine: Engine):
    write(engine, campus_forecasts(), YESTERDAY)
    before = read(engine, YESTERDAY)
    write(engine, campus_forecasts(), TODAY)
    fewer = replace(campus_forecasts(), forecasts=campus_forecasts().forecasts.head(10))
    write(engine, fewer, TODAY, sorted(before["course_id"].unique()))
    write(engine, fewer, TODAY, sorted(before["course_id"].unique()))
    assert len(read(engine, TODAY)) == 10
    pd.testing.assert_frame_equal(read(engine, YESTERDAY), before)


def test_one_course_or_student_can_be_read(engine: Engine):
    write(engine, campus_forecasts(), TODAY)
    course, student = campus_forecasts().forecasts[["course_id", "student_id"]].iloc[0]
    assert set(read(engine, TODAY, courses=[course])["course_id"]) == {course}
    assert set(read(engine, TODAY, student=student)["student_id"]) == {student}


def test_a_course_without_forecasts_has_the_reason(engine: Engine):
    nothing = replace(
        campus_forecasts(),
        forecasts=campus_forecasts().forecasts.head(0),
        activity=campus_forecasts().activity.head(0),
        nothing={"physics": "no section runs on this day"},
    )
    write(engine, nothing, TODAY, ["physics"])
    with engine.connect() as connection:
        (row,) = connection.execute(course_run.select()).all()
    assert row.nothing == "no section runs on this day"
    assert row.fallbacks == dict(campus_forecasts().fallbacks)


def test_a_model_serves_only_days_on_which_what_it_knows_had_ended(engine: Engine):
    before = YESTERDAY - timedelta(days=1)
    with engine.begin() as connection:
        store.remember_model(connection, 1, before, {"s": 2**63 - 1}, accepted=True)
        store.remember_model(connection, 2, YESTERDAY, {"s": -5, "t": 7}, accepted=True)
        store.remember_model(connection, 3, TODAY, {"s": 0}, accepted=False)
        assert store.newest_model(connection, TODAY) == (3, {"s": 0})
        assert store.newest_model(connection, YESTERDAY) == (2, {"s": -5, "t": 7})
        assert store.newest_model(connection, before) == (1, {"s": 2**63 - 1})
        assert store.newest_model(connection, before - timedelta(days=1)) is None
        assert store.models_by_merit(connection, TODAY) == [(2, True), (1, True), (3, False)]
        assert store.models_by_merit(connection, before) == [(1, True)]


def test_models_of_the_time_before_verdicts_may_serve(server):
    with database_of(server, "0006") as engine:
        with engine.begin() as connection:
            connection.execute(
                sa.text(
                    "insert into forecasts.trajectory_model values (4, '2025-11-10', '{\"s\": 1}')"
                )
            )
        database.migrate(engine)
        with engine.connect() as connection:
            assert store.models_by_merit(connection, TODAY) == [(4, True)]
            assert store.newest_model(connection, TODAY) == (4, {"s": 1})
