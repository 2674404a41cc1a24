"""What a panel knows and what it must not know."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd

from grade_ml.features.sequences import score_sequences
from grade_ml.features.snapshots import grade_snapshots
from grade_ml.forecasting.contract import Panel
from grade_ml.forecasting.panels import (
    assignment_frame,
    history_frame,
    origins,
    panels,
    thinned,
)
from grade_ml.gradebook.frames import Gradebook
from grade_ml.gradebook.institution import DEFAULTS
from grade_ml_tests.features.records import day, enrolled, gradebook, result, section, work
from grade_ml_tests.forecasting.campus import campus, ended


def book(**changes: list[dict]) -> Gradebook:
    rows = {
        "students": [{"student_id": name} for name in ("ann", "bob")],
        "courses": [{"course_id": "math"}],
        "sections": [section("now", 0, 100)],
        "enrollments": [enrolled("ann"), enrolled("bob")],
        "assignments": [work("a1", 10, 50), work("a2", 40, 25), work("a3", 70, 25)],
        "results": [result("ann", "a1", 80, 9, 14), result("bob", "a3", 60, 69, 75)],
    }
    return gradebook(**(rows | changes))


def on(number: float, records: Gradebook | None = None) -> Panel:
    records = records or book()
    cuts = pd.DataFrame({"section_id": ["now"], "cut_day": [float(number)]})
    today = day(101).date()
    of_sections = panels(
        score_sequences(records, ["math"], DEFAULTS),
        grade_snapshots(records, cuts, today),
        truth_on=today,
    )
    return next(of_sections)


def same(left: Panel, right: Panel) -> bool:
    names = ("day", "students", "due_day", "weight", "score", "submitted", "class_score")
    pairs = ((getattr(left, name), getattr(right, name)) for name in names)
    return all(np.array_equal(a, b, equal_nan=np.asarray(a).dtype.kind == "f") for a, b in pairs)


def test_a_missed_assignment_counts_zero_and_what_is_not_due_is_unknown():
    assert np.array_equal(on(20).score, [[80, np.nan, np.nan], [0, np.nan, np.nan]], equal_nan=True)
    assert on(20).remaining.tolist() == [1, 2]


def test_what_is_handed_in_but_not_graded_counts_as_handed_in_only():
    panel = on(12)
    assert panel.submitted[0, 0] == 1
    assert np.isnan(panel.score[0, 0])


def test_the_truth_is_the_score_and_zero_for_what_never_came():
    assert on(20).truth.tolist() == [[80, 0, 0], [0, 0, 60]]


def test_work_due_after_a_withdrawal_does_not_count():
    gone = book(enrollments=[enrolled("ann", withdrawn_on=day(50)), enrolled("bob")])
    assert np.array_equal(on(20, gone).truth[0], [80, 0, np.nan], equal_nan=True)
    assert on(60, gone).students.tolist() == ["bob"]


def test_a_result_of_an_earlier_section_is_unknown_before_it_is_due():
    carried = result("ann", "a2", 90, -100, -100) | {"carried_over": True}
    records = book(results=[carried])
    assert np.isnan(on(20, records).submitted[0, 1])
    assert on(41, records).score[0, 1] == 90


def test_work_handed_in_ahead_of_time_is_known():
    records = book(results=[result("ann", "a2", 90, 15, 20)])
    assert on(20, records).submitted[0, 1] == 1
    assert np.isnan(on(20, records).score[0, 1])


def test_an_exam_and_a_result_for_unknown_work_are_left_out():
    records = book(
        assignments=[work("a1", 10, 100), work("a2", 40, 0), work("x", 99, 100, category="Exam")],
        results=[result("ann", "nowhere", 50, 1, 1)],
    )
    assert on(20, records).assignments.tolist() == ["a1", "a2"]


def test_work_without_a_date_is_due_at_the_end():
    records = book(assignments=[work("a1", 10, 50), work("a2", None, 50)], results=[])
    assert on(20, records).due_day.tolist() == [10, 100]


def test_nothing_after_the_day_changes_what_a_panel_knows():
    later = book(
        results=[result("ann", "a1", 80, 9, 14), result("ann", "a2", 1, 30, 35)],
        enrollments=[enrolled("ann"), enrolled("bob", withdrawn_on=day(90))],
    )
    assert same(on(20), on(20, later))


def test_shuffled_futures_leave_every_panel_as_it_was():
    gradebook = campus()
    cut = pd.Timestamp("2025-05-05")
    results = gradebook.results
    seen = results["submitted_on"].fillna(results["graded_on"]) <= cut
    future = results[~seen].sample(frac=0.5, random_state=0)
    graded_later = results[seen].assign(
        score=results["score"].where(results["graded_on"] <= cut, 1.0)
    )
    other = replace(gradebook, results=pd.concat([graded_later, future], ignore_index=True))
    sections = gradebook.sections[gradebook.sections["starts_on"] <= cut]
    age = (cut - sections["starts_on"]).dt.days.astype(float)
    cuts = pd.DataFrame({"section_id": sections["section_id"].astype(object), "cut_day": age})
    runs = [
        list(
            panels(
                score_sequences(records, gradebook.courses["course_id"], DEFAULTS),
                grade_snapshots(records, cuts, cut.date()),
            )
        )
        for records in (gradebook, other)
    ]
    assert runs[0] and len(runs[0]) == len(runs[1])
    for left, right in zip(*runs, strict=True):
        assert same(left, right)
        assert np.array_equal(left.features, right.features, equal_nan=True)


def test_frames_list_history_and_assignments():
    history = history_frame(on(20))
    assert history["score"].tolist() == [80, 0]
    assert history["submitted"].tolist() == [True, False]
    assert assignment_frame(on(20))["slot"].tolist() == [1, 2, 3]


def test_origins_are_spread_over_a_section_without_its_first_day():
    rows = pd.DataFrame({"section_id": "s", "cut_day": np.arange(0, 140, 7.0)})
    days = origins(rows, 4)["cut_day"]
    assert len(days) == 4 and days.min() > 0 and days.max() > 100


def test_thinning_keeps_students_whole_and_the_class_as_it_was():
    panel = ended()[1]
    (thin,) = thinned([panel], panel.shape[0] * panel.shape[1] // 2, seed=1)
    assert 0 < thin.shape[0] < panel.shape[0]
    assert thin.shape[1] == panel.shape[1]
    assert np.array_equal(thin.class_score, panel.class_score, equal_nan=True)
