"""A section carried on: the same features as if the records of those days were there."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import numpy as np
import pandas as pd
import pytest

from grade_ml.core.errors import NotFoundError
from grade_ml.features.catalogue import NUMERIC_FEATURES
from grade_ml.features.continuations import Continuation, Doing
from grade_ml.features.validation import schema
from grade_ml_tests.features.records import day, result
from grade_ml_tests.features.running_section import TODAY, book, on, snapshot


def doing(*scores: tuple[float, ...], on_time: bool = False, days: float = np.nan) -> Doing:
    number = len(scores)
    return Doing(np.array(scores, float), np.full(number, on_time), np.full(number, days))


@pytest.fixture(scope="module")
def carried() -> Continuation:
    return Continuation(book(), "now", on(TODAY))


def test_every_student_continues_as_so_far(carried):
    first, second = carried.open_assignments("ann")
    assert (first.assignment_id, first.due_on, first.weight) == ("w4", on(50), 20)
    # The mean of 80, 60 and 70; the last three came 2 days early, 2 late, and on the day.
    assert (first.score, first.days_late) == (70, -2)
    assert (second.score, second.days_late) == (70, 2)
    # Bob handed in the first of three, so he does every third from now on.
    assert [np.isnan(assignment.score) for assignment in carried.open_assignments("bob")] == [
        False,
        True,
    ]


def test_the_features_are_those_of_the_records(carried):
    """What is carried on, written into the gradebook, gives the same row."""
    later = [
        result("bob", "w4", 40, 50, 50),
        result("cat", "w4", 90, 49, 49),
        result("ann", "w4", 55, 48, 48),
    ]
    repeated = [(n, d + 28) for n in ("ann", "cat") for d in range(14, TODAY + 1, 7)]
    expected = snapshot(book(*later, more_activity=tuple(repeated)), 60)
    snapshots = carried.snapshots(snapshot(book(), TODAY), doing((100.0,), (55.0,)), on(60))
    schema().validate(snapshots.iloc[[1]])
    for name in expected.columns:
        value, other = snapshots[name].iloc[1], expected[name].iloc[0]
        assert value == other or (pd.isna(value) and pd.isna(other)), (name, value, other)
    better = snapshots.iloc[0]
    assert better["grade_if_nothing_more"] == pytest.approx((80 + 60 + 70 + 100) / 5)
    assert better["rate_percentile"] > snapshots.iloc[1]["rate_percentile"] - 1e-6


def test_what_is_not_handed_in_is_missed_and_lateness_and_activity_are_choices(carried):
    today = snapshot(book(), TODAY)
    idle = carried.snapshots(today, doing((np.nan, np.nan)), on(80)).iloc[0]
    assert (idle["assignments_missed"], idle["missed_streak"]) == (2, 2)
    late = carried.snapshots(today, doing((70.0, 70.0)), on(80)).iloc[0]
    prompt = carried.snapshots(today, doing((70.0, 70.0), on_time=True), on(80)).iloc[0]
    assert (late["assignments_late"], prompt["assignments_late"]) == (2, 1)
    busy = carried.snapshots(today, doing((70.0, 70.0), days=14), on(80)).iloc[0]
    assert late["activity_days_last_28"] == 4 and busy["activity_days_last_28"] == 14
    assert busy["activity_last_28_of_class"] > late["activity_last_28_of_class"]
    own, everyone = carried.active_days("ann")
    assert own == 4 and sorted(everyone) == [0, 4, 4]


def test_a_student_without_activity_is_idle_where_others_are_not(carried):
    row = carried.snapshots(snapshot(book(), TODAY, "bob"), doing((40.0, 40.0)), on(80)).iloc[0]
    assert (row["activity_total"], row["activity_days_last_28"]) == (0, 0)


def test_nothing_after_the_day_is_seen(carried):
    future = book(result("ann", "w4", 3, 40, 42), result("bob", "w4", 99, 40, 42))
    left = future.enrollments["withdrawn_on"].fillna(day(50))
    cheated = replace(future, enrollments=future.enrollments.assign(withdrawn_on=left))
    later = Continuation(cheated, "now", on(TODAY))
    assert later.open_assignments("ann") == carried.open_assignments("ann")
    today, choice = snapshot(book(), TODAY), doing((60.0, 60.0))
    pd.testing.assert_frame_equal(
        later.snapshots(today, choice, on(80))[list(NUMERIC_FEATURES)],
        carried.snapshots(today, choice, on(80))[list(NUMERIC_FEATURES)],
    )


def test_a_student_without_results_starts_from_the_class():
    records = book()
    none = replace(records, results=records.results[records.results["student_id"] == "cat"])
    carried = Continuation(none, "now", on(TODAY))
    # Nothing came in the last three times, so nothing comes.
    assert [np.isnan(assignment.score) for assignment in carried.open_assignments("ann")] == [
        True,
        True,
    ]
    fresh = Continuation(none, "now", on(1))
    assert [assignment.score for assignment in fresh.open_assignments("ann")] == [50] * 5
    assert {assignment.days_late for assignment in fresh.open_assignments("ann")} == {0}


def test_who_is_not_there_and_days_that_are_over_are_refused(carried):
    for name in ("dan", "eve"):
        with pytest.raises(NotFoundError):
            carried.open_assignments(name)
    with pytest.raises(NotFoundError):
        Continuation(book(), "then", on(TODAY))
    with pytest.raises(ValueError, match="to come"):
        carried.snapshots(snapshot(book(), TODAY), doing((1.0,)), on(TODAY))
    assert carried.ends_on - on(TODAY) == timedelta(days=55)
