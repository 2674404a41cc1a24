"""One student's snapshot is that of the whole course's computation, from a fraction of its rows."""

from __future__ import annotations

from dataclasses import replace
from datetime import date, timedelta

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import Connection, Engine

from grade_ml.campus import simulated
from grade_ml.core.database import copy_frame
from grade_ml.features.running_totals import RunningTotals
from grade_ml.features.snapshots import grade_snapshots, with_histories
from grade_ml.gradebook import frames, schema
from grade_ml.gradebook.frames import Gradebook
from grade_ml_tests.ensemble.campus import store

TODAY = date(2025, 11, 10)


@given(
    st.lists(st.tuples(st.integers(0, 4), st.integers(0, 9), st.floats(0, 100)), max_size=40),
    st.integers(0, 4),
)
def test_the_sums_of_a_key_are_the_same_whatever_others_there_are(events, key) -> None:
    all_events = np.array(events or np.zeros((0, 3)), float).reshape(-1, 3)
    own = all_events[all_events[:, 0] == key]
    queries = np.full(10, key), np.arange(10.0)
    sums = [
        RunningTotals(rows[:, 0].astype(int), rows[:, 1], rows[:, 2])(*queries)
        for rows in (all_events, own)
    ]
    assert sums[0].tobytes() == sums[1].tobytes()


def odd_campus() -> Gradebook:
    """Return a campus where students move between sections, are exempt, resubmit, and repeat."""
    config = simulated.CampusConfig(students=60, courses=2, terms=3, seed=6)
    book = simulated.gradebook(config, TODAY)
    random = np.random.default_rng(6)
    twins = book.sections.assign(section_id=book.sections["section_id"] + " twin")
    policies = random.choice([*map(str, schema.GradingPolicy)], 2 * len(twins))
    sections = pd.concat([book.sections, twins], ignore_index=True)
    sections["grading_policy"] = pd.Series(policies, dtype="string[pyarrow]")
    work = book.assignments
    copies = work.assign(
        assignment_id=work["assignment_id"] + " twin", section_id=work["section_id"] + " twin"
    )
    people = book.enrollments.merge(book.sections[["section_id", "starts_on"]], on="section_id")
    moved = random.random(len(people)) < 0.25
    on = people["starts_on"] + pd.to_timedelta(random.integers(5, 60, len(people)), unit="D")
    went = book.enrollments[moved].assign(
        section_id=book.enrollments["section_id"][moved] + " twin", enrolled_on=on[moved]
    )
    stayed = book.enrollments.assign(
        withdrawn_on=book.enrollments["withdrawn_on"].mask(moved, on),
    )
    stayed["enrolled_on"] = stayed[["enrolled_on", "withdrawn_on"]].min(axis=1)
    results = book.results.copy()
    exempt = random.random(len(results)) < 0.05
    results.loc[exempt, "status"] = str(schema.Status.EXEMPT)
    results.loc[exempt, "score"] = np.nan
    earlier = results[random.random(len(results)) < 0.1].assign(until=pd.Timestamp(TODAY))
    earlier["until"] = earlier["submitted_on"].fillna(pd.Timestamp(TODAY)) + timedelta(days=9)
    kept = [column.name for column in schema.earlier_result.columns]
    return replace(
        book,
        sections=sections,
        assignments=pd.concat([work, copies], ignore_index=True),
        enrollments=pd.concat([stayed, went], ignore_index=True)[list(book.enrollments)],
        results=results,
        earlier_results=earlier[kept],
    )


def whole_course(connection: Connection, course: str, cuts: pd.DataFrame, day: date):
    return grade_snapshots(frames.read(connection, {course}), cuts, day)


@pytest.mark.slow
def test_one_student_has_the_features_of_the_whole_course(engine: Engine) -> None:
    book = odd_campus()
    store(engine, book)
    with engine.begin() as connection:
        copy_frame(connection, schema.earlier_result.fullname, book.earlier_results)
    days = [TODAY, date(2025, 4, 20)]
    # Who took one course only has everything from the class.
    courses = book.enrollments.merge(book.sections).groupby("student_id")["course_id"].nunique()
    several = set(courses.index[courses > 1])
    compared = 0
    with engine.connect() as connection:
        for day in days:
            running = book.sections[
                (book.sections["starts_on"] <= pd.Timestamp(day))
                & (book.sections["ends_on"] >= pd.Timestamp(day))
            ]
            for row in running.to_dict("records"):
                cut = float((pd.Timestamp(day) - row["starts_on"]).days)
                cuts = pd.DataFrame({"section_id": [row["section_id"]], "cut_day": [cut]})
                whole = whole_course(connection, row["course_id"], cuts, day)
                alone = grade_snapshots(frames.read_class(connection, row["section_id"]), cuts, day)
                assert len(whole) == len(alone)
                for place in range(0, len(whole), 19):
                    mine = alone.iloc[[place]].reset_index(drop=True)
                    student = str(mine["student_id"].iloc[0])
                    if student in several:
                        mine = with_histories(mine, frames.read_histories(connection, [student]))
                    expected = whole.iloc[[place]].reset_index(drop=True)
                    assert list(mine) == list(expected)
                    for name in mine:
                        same = mine[name].astype(object).equals(expected[name].astype(object))
                        assert same, (name, mine[name].iloc[0], expected[name].iloc[0])
                    compared += 1
    assert compared > 8
