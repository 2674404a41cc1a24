"""Exemptions, extra credit, attempts, statements of lateness and moves, as features see them."""

from __future__ import annotations

from datetime import date
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from grade_ml.features.continuations import Continuation
from grade_ml.features.sequences import score_sequences
from grade_ml.features.snapshots import grade_snapshots
from grade_ml.features.validation import schema
from grade_ml.gradebook.frames import Gradebook
from grade_ml.gradebook.institution import DEFAULTS
from grade_ml.gradebook.outcomes import outcomes
from grade_ml_tests.features.records import (
    START,
    day,
    enrolled,
    gradebook,
    result,
    section,
    students,
    work,
)
from grade_ml_tests.gradebook.test_outcomes import moved_book

TODAY = (START + pd.Timedelta(days=200)).date()


def book(*results: dict[str, Any], policy: str = "weights", **more: Any) -> Gradebook:
    """Ann and Bob in a section of 100 days with three assignments."""
    rows = {
        "students": students("ann", "bob"),
        "courses": [{"course_id": "math"}],
        "sections": [section("now", 0, 100, policy=policy)],
        "enrollments": [enrolled("ann"), enrolled("bob")],
        "assignments": [work("w1", 10, 20), work("w2", 30, 30), work("w3", 80, 50)],
        "results": list(results),
    }
    return gradebook(**(rows | more))


def described(cut: float, records: Gradebook, of: str = "now") -> pd.DataFrame:
    """Return the snapshots of a section at a cut, by student."""
    cuts = pd.DataFrame({"section_id": [of], "cut_day": [float(cut)]})
    rows = grade_snapshots(records, cuts, TODAY)
    schema().validate(rows)
    return rows.set_index(rows["student_id"].astype(str))


def at(cut: float, records: Gradebook, student: str = "ann", of: str = "now") -> dict[str, float]:
    return dict(described(cut, records, of).loc[student])


def agrees(row: dict[str, float], **expected: float) -> bool:
    assert {name: row[name] for name in expected} == pytest.approx(expected, nan_ok=True)
    return True


def test_what_is_exempt_is_neither_due_nor_missed_from_the_day_it_is_known() -> None:
    records = book(
        result("ann", "w1", 80, 9, 9), result("ann", "w2", None, None, 40, status="exempt")
    )
    assert agrees(at(35, records), assignments_due=2, assignments_missed=1, weight_missed=30)
    known = at(40, records)
    assert agrees(known, assignments_due=1, assignments_missed=0, missed_streak=0, weight_missed=0)
    assert agrees(known, assignments_submitted=1, assignments_pending=0, score_mean=80)
    assert agrees(known, weight_due=100 * 20 / 70, weight_remaining=100 * 50 / 70)
    assert agrees(known, grade_if_nothing_more=80 * 20 / 70, grade_rate_so_far=80)
    assert agrees(at(40, records, "bob"), assignments_due=2, weight_missed=50)


def test_an_exemption_without_a_date_is_known_when_the_assignment_is_due() -> None:
    records = book(result("ann", "w3", None, None, None, status="exempt"))
    assert agrees(at(79, records), weight_remaining=50, next_due_weight=50)
    assert agrees(at(80, records), assignments_due=2, weight_remaining=0, weight_missed=100)


def test_extra_credit_adds_points_and_is_never_due() -> None:
    bonus = work("x", 20, 10, extra_credit=True)
    records = book(
        result("ann", "w1", 120, 9, 9),
        result("ann", "x", 50, 19, 19),
        assignments=[work("w1", 10, 20), work("w2", 30, 30), work("w3", 80, 50), bonus],
    )
    row = at(25, records)
    assert agrees(row, assignments_due=1, assignments_submitted=1, missed_share=0)
    assert agrees(row, grade_if_nothing_more=24 + 5, weight_remaining=80, score_mean=120)
    assert agrees(row, grade_if_all_perfect=100, grade_rate_so_far=120)
    assert agrees(at(25, records, "bob"), assignments_missed=1, assignments_due=1)


def test_an_earlier_attempt_counts_until_the_later_attempt() -> None:
    earlier = {"assignment_id": "w1", "student_id": "ann", "status": "graded", "score": 20.0}
    earlier |= {"submitted_on": day(9), "graded_on": day(12), "until": day(25)}
    records = book(result("ann", "w1", 90, 20, 25), earlier_results=[earlier])
    assert agrees(at(11, records), assignments_submitted=1, score_last=np.nan)
    assert agrees(at(12, records), score_last=20, grade_if_nothing_more=4)
    assert agrees(at(24, records), score_last=20, assignments_late=0)
    assert agrees(at(25, records), score_last=90, grade_if_nothing_more=18, assignments_late=0)


def test_a_result_that_was_withdrawn_was_seen_before() -> None:
    earlier = {"assignment_id": "w1", "student_id": "ann", "status": "graded", "score": 20.0}
    earlier |= {"submitted_on": day(9), "graded_on": day(12), "until": day(25)}
    records = book(earlier_results=[earlier])
    assert agrees(at(24, records), assignments_submitted=1, score_last=20, assignments_missed=0)
    assert agrees(at(25, records), assignments_submitted=0, score_last=np.nan, assignments_missed=1)


def test_the_source_states_what_is_late() -> None:
    records = book(
        result("ann", "w1", 80, 12, 12, late=False), result("bob", "w1", 80, 9, 9, late=True)
    )
    assert agrees(at(12, records), assignments_late=0, lateness_mean=2)
    assert agrees(at(12, records, "bob"), assignments_late=1, weight_late=20)


@pytest.mark.parametrize("status", ["missing", "submitted", "incomplete", "graded"])
def test_a_score_that_is_not_known_is_not_there(status: str) -> None:
    score = 70.0 if status == "incomplete" else None
    row = at(20, book(result("ann", "w1", score, 9, 9, status=status)))
    handed_in = int(status != "missing")
    assert agrees(row, assignments_submitted=handed_in, assignments_pending=handed_in)
    assert agrees(row, assignments_missed=1 - handed_in, score_mean=np.nan)


def test_who_moves_brings_the_results_along_and_does_not_withdraw() -> None:
    records = gradebook(courses=[{"course_id": "math"}], **moved_book())
    ann = at(60, records, of="new")
    assert agrees(ann, assignments_submitted=2, assignments_missed=0, earlier_withdrawals=0)
    assert agrees(ann, grade_if_nothing_more=(80 + 60) / 2, score_mean=70)
    bob = at(60, records, "bob", of="new")
    assert agrees(bob, assignments_due=2, grade_if_nothing_more=90, class_withdrawn_share=0)
    assert agrees(at(60, records, "cid", of="old"), class_withdrawn_share=0, class_size=1)
    assert agrees(at(20, records, of="old"), score_mean=80, assignments_due=1)


def test_sequences_know_exemptions_and_leave_extra_credit_out() -> None:
    records = book(
        result("ann", "w1", 120, 9, 9),
        result("ann", "w2", None, None, 40, status="exempt"),
        result("ann", "x", 50, 19, 19),
        assignments=[work("w1", 10, 20), work("w2", 30, 30), work("x", 20, 9, extra_credit=True)],
    )
    rows = score_sequences(records, ["math"], DEFAULTS)
    ann = rows[rows["student_id"] == "ann"].set_index("assignment_id")
    assert ann.index.tolist() == ["w1", "w2"]
    assert ann["score"].fillna(-1).tolist() == [100, -1]
    assert ann["exempt_day"].fillna(-1).tolist() == [-1, 40]
    assert ann["seen_day"].fillna(-1).tolist() == [9, -1]


def test_what_ifs_leave_out_what_does_not_count() -> None:
    records = book(
        result("ann", "w1", 80, 9, 9), result("ann", "w2", None, None, 12, status="exempt")
    )
    carried = Continuation(records, "now", (START + pd.Timedelta(days=20)).date())
    assert [
        (assignment.assignment_id, assignment.weight)
        for assignment in carried.open_assignments("ann")
    ] == [("w3", pytest.approx(100 * 50 / 70))]


@st.composite
def _gradebooks(draw: st.DrawFn) -> Gradebook:
    names = [f"a{n}" for n in range(draw(st.integers(1, 5)))]
    extra = [draw(st.booleans()) for _ in names]
    assignments = [
        work(
            name,
            draw(st.integers(0, 100)),
            draw(st.sampled_from([0.0, 1.0, 5.0])),
            category=draw(st.sampled_from(["essay", "quiz", "exam"])),
            max_score=draw(st.sampled_from([1.0, 10.0, 100.0])),
            extra_credit=bonus,
        )
        for name, bonus in zip(names, extra, strict=True)
    ]
    results = [
        result(
            student,
            name,
            draw(st.none() | st.floats(0, 200)),
            draw(st.none() | st.integers(0, 100)),
            draw(st.none() | st.integers(0, 100)),
            status=draw(st.sampled_from(["graded", "submitted", "missing", "exempt"])),
        )
        for student in ("ann", "bob")
        for name in names
        if draw(st.booleans())
    ]
    policy = draw(st.sampled_from(["points", "categories", "weights", "equal"]))
    return book(*results, policy=policy, assignments=assignments)


@pytest.mark.slow
@settings(max_examples=20)  # an example takes a fifth of a second
@given(_gradebooks())
def test_at_the_end_the_points_are_the_final_grade(records: Gradebook) -> None:
    """Features and outcomes are computed apart; where both know the grade, they agree."""
    final = outcomes(records, date(2026, 1, 1), DEFAULTS).set_index("student_id")["final_grade"]
    rows = described(100, records)
    for student in ("ann", "bob"):
        row = rows.loc[student]
        if pd.notna(final[student]) and row["weight_remaining"] < 1e-3:
            assert row["grade_if_nothing_more"] == pytest.approx(final[student], abs=1e-3)
