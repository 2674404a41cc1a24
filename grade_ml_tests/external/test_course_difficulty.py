"""The two-way model recovers the difficulty that the data were made with, and sees no future."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, date, datetime, timedelta

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from grade_ml.campus.simulated import Campus, CampusConfig
from grade_ml.external.course_difficulty import CourseDifficulty, Records, place_of
from grade_ml.external.protocol import Observation, Place, Window
from grade_ml.external.two_way import difficulties

PLACE = Place(51.5, -0.1, "GBR", "Europe/London")
TODAY = date(2024, 11, 1)
COLUMNS = ["course_id", "student_id", "grade"]


def grades(seed: int, sorting: float, courses: int = 6, students: int = 400) -> pd.DataFrame:
    """Return grades of which true difficulty is the course's number, centred, times 3 points.

    With `sorting`, able students take the hard courses.
    """
    random = np.random.default_rng(seed)
    ability = random.normal(0, 10, students)
    rows = []
    for student in range(students):
        wanted = sorting * ability[student] * np.arange(courses) / 10
        chosen = np.argsort(-(wanted + random.gumbel(size=courses)))[:3]
        for course in chosen:
            grade = 65 - 3 * course + ability[student] + random.normal(0, 5)
            rows.append((f"c{course}", f"s{student}", grade))
    return pd.DataFrame(rows, columns=COLUMNS)


@pytest.mark.parametrize("sorting", [0.0, 1.0])
def test_difficulty_is_estimated_for_any_students_who_take_the_course(sorting: float):
    truth = 3 * (np.arange(6) - 2.5)
    hits, errors = [], []
    for seed in range(30):
        estimates = difficulties(grades(seed, sorting))
        off = estimates["difficulty"].to_numpy() - truth
        hits += list(np.abs(off) <= 1.96 * estimates["error"].to_numpy())
        errors.append(np.abs(off).mean())
    assert np.mean(errors) < 0.4
    # The standard errors hold what they promise: 95 per cent, give or take.
    assert 0.9 < np.mean(hits) < 0.99


def test_plain_means_are_misled_where_the_able_choose_the_hard():
    frame = grades(0, sorting=1.0)
    plain = -frame.groupby("course_id")["grade"].mean()
    estimates = difficulties(frame)["difficulty"]
    truth = 3 * (np.arange(6) - 2.5)
    assert np.abs(estimates - truth).mean() < np.abs(plain - plain.mean() - truth).mean() / 3


def test_courses_that_share_no_student_are_not_compared():
    apart = pd.DataFrame([("x", "t1", 50.0), ("x", "t2", 60.0)], columns=COLUMNS)
    together = grades(0, sorting=0.0)
    estimates = difficulties(pd.concat([together, apart], ignore_index=True))
    assert np.isnan(estimates["difficulty"]["x"])
    pd.testing.assert_frame_equal(estimates.drop("x"), difficulties(together))


@pytest.mark.parametrize(
    "rows", [[], [("a", "s", 50.0)], [("a", "s", 50.0), ("a", "t", 60.0)], [("a", "s", 50.0)] * 2]
)
def test_what_cannot_be_compared_has_no_difficulty(rows: list):
    estimates = difficulties(pd.DataFrame(rows, columns=COLUMNS))
    assert estimates["difficulty"].isna().all()


@given(
    st.lists(
        st.tuples(
            st.sampled_from("abc"), st.sampled_from("stuvw"), st.floats(0, 100, allow_nan=False)
        ),
        min_size=1,
        max_size=30,
    )
)
@settings(deadline=None)
def test_any_grades_give_finite_figures_or_none(rows: list):
    frame = pd.DataFrame(rows, columns=COLUMNS)
    estimates = difficulties(frame)
    assert set(estimates.index) == set(frame["course_id"])
    assert np.isfinite(estimates["difficulty"].dropna()).all()
    assert (estimates["error"].dropna() >= 0).all()


@pytest.fixture(scope="module")
def campus() -> Campus:
    return Campus(CampusConfig(students=300, courses=6, terms=5), TODAY)


@pytest.fixture(scope="module")
def records(campus: Campus) -> Records:
    frames: dict[str, list[pd.DataFrame]] = {}
    for table, frame in campus.batches():
        frames.setdefault(table, []).append(frame)
    whole = {table: pd.concat(parts, ignore_index=True) for table, parts in frames.items()}
    return Records(*(whole[name] for name in ("section", "enrollment", "assignment", "result")))


def observe(records: Records, first: date, last: date) -> list[Observation]:
    now = datetime.combine(TODAY, datetime.min.time(), UTC)
    source = CourseDifficulty(records)
    return list(source.fetch(None, Window(first, last), PLACE, now))  # type: ignore[arg-type]


def test_the_campuss_truth_is_recovered(campus: Campus, records: Records):
    truth = campus.truth().courses.set_index("course_id")["difficulty"]
    rows = observe(records, date(2024, 10, 28), date(2024, 10, 28))
    difficulty = {row.place: row.value for row in rows if row.series == "difficulty"}
    ordered = [difficulty[place_of(course)] for course in truth.sort_values().index]
    assert np.corrcoef(ordered, np.sort(truth))[0, 1] > 0.8


def test_nothing_after_the_day_matters(records: Records):
    day = date(2024, 3, 4)
    known = observe(records, day, day)
    assert known
    later = pd.Timestamp(day)
    random = np.random.default_rng(0)
    results = records.results.copy()
    unseen = results["graded_on"] > later
    results.loc[unseen, "score"] = random.uniform(0, 100, unseen.sum())
    running = records.sections[records.sections["ends_on"] > later]["section_id"]
    enrollments = records.enrollments.copy()
    enrollments.loc[enrollments["section_id"].isin(running), "outcome"] = "fail"
    assert observe(replace(records, results=results, enrollments=enrollments), day, day) == known


def test_it_is_renewed_on_mondays(records: Records):
    rows = observe(records, TODAY - timedelta(days=20), TODAY)
    assert {row.observed_on.weekday() for row in rows} == {0}
    assert len({row.observed_on for row in rows}) == 3
    assert all(row.available_at.date() > row.observed_on for row in rows)


def test_an_empty_gradebook_has_no_difficulty(records: Records):
    empty = Records(*(frame.head(0) for frame in vars(records).values()))
    assert observe(empty, TODAY - timedelta(days=20), TODAY) == []
