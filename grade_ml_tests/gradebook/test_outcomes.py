from __future__ import annotations

from datetime import date
from typing import Any

import pandas as pd
import pytest

from grade_ml.gradebook.outcomes import outcomes, scored_on, submission_seen_on
from grade_ml_tests.features.records import (
    day,
    enrolled,
    gradebook,
    result,
    section,
    students,
    work,
)

AFTER = day(101).date()


def of(student: str, as_of: date = AFTER, **rows: Any) -> dict[str, Any] | None:
    book = gradebook(
        **{
            "students": students("ann", "bob"),
            "courses": [{"course_id": "math"}],
            "sections": [section("now", 0, 100)],
            "enrollments": [enrolled("ann", outcome="pass"), enrolled("bob", outcome="fail")],
            **rows,
        }
    )
    found = outcomes(book, as_of).set_index("student_id")
    return found.loc[student].to_dict() if student in found.index else None


def test_a_final_grade_is_the_weighted_mean_with_missing_work_as_nothing() -> None:
    work_set = [work("a", 10, 30), work("b", 20, 10), work("c", 30, 10)]
    results = [result("ann", "a", 50, 9, 12), result("ann", "b", 100, 9, 12)]
    found = of("ann", assignments=work_set, results=results)
    assert found == {"section_id": "now", "final_grade": pytest.approx(50), "at_risk": False}


def test_weights_that_are_all_0_count_equally_even_beside_an_exam() -> None:
    work_set = [work("a", 10, 0), work("b", 20, 0), work("x", 90, 100, category="EXAM")]
    results = [result("ann", "a", 80, 9, 12)]
    assert of("ann", assignments=work_set, results=results)["final_grade"] == pytest.approx(40)


def test_an_exam_counts_for_all_once_anyone_has_a_result() -> None:
    work_set = [work("a", 10, 50), work("x", 90, 50, category="exam")]
    results = [result("ann", "a", 80, 9, 12)]
    graded = [*results, result("bob", "x", 90, 90, 95)]
    assert of("ann", assignments=work_set, results=results)["final_grade"] == pytest.approx(80)
    assert of("ann", assignments=work_set, results=graded)["final_grade"] == pytest.approx(40)


def test_an_exam_without_weight_never_counts() -> None:
    work_set = [work("a", 10, 50), work("x", 90, 0, category="exam")]
    results = [result("ann", "a", 80, 9, 12), result("ann", "x", 10, 90, 95)]
    assert of("ann", assignments=work_set, results=results)["final_grade"] == pytest.approx(80)


def test_without_coursework_there_is_no_grade() -> None:
    found = of("ann")
    assert pd.isna(found["final_grade"]) and found["at_risk"] is False


def test_nothing_is_known_of_a_section_that_runs_but_withdrawals() -> None:
    enrollments = [enrolled("ann", outcome="pass"), enrolled("bob", withdrawn_on=day(40))]
    assert of("ann", day(100).date(), enrollments=enrollments) is None
    assert of("bob", day(39).date(), enrollments=enrollments) is None
    assert of("bob", day(40).date(), enrollments=enrollments)["at_risk"] is True


@pytest.mark.parametrize(
    ("outcome", "at_risk"),
    [("pass", False), ("distinction", False), ("fail", True), ("withdrawn", True)],
)
def test_failing_and_withdrawing_are_at_risk(outcome: str, at_risk: bool) -> None:
    assert of("ann", enrollments=[enrolled("ann", outcome=outcome)])["at_risk"] is at_risk


@pytest.mark.parametrize(("score", "at_risk"), [(39.9, True), (40.0, False)])
def test_without_a_stated_outcome_the_pass_mark_decides(score: float, at_risk: bool) -> None:
    found = of(
        "ann",
        enrollments=[enrolled("ann")],
        assignments=[work("a", 10, 1)],
        results=[result("ann", "a", score, 9, 12)],
    )
    assert found["at_risk"] is at_risk


def test_without_outcome_and_grade_nothing_is_known() -> None:
    assert of("ann", enrollments=[enrolled("ann")]) is None


def test_a_score_graded_after_the_day_is_not_seen() -> None:
    rows = {"assignments": [work("a", 10, 1)], "results": [result("ann", "a", 90, 99, 120)]}
    assert of("ann", day(119).date(), **rows)["final_grade"] == 0
    assert of("ann", day(120).date(), **rows)["final_grade"] == 90


def test_a_record_without_dates_is_known_when_the_work_was_due() -> None:
    rows = pd.DataFrame(
        {
            "score": [1.0, 1.0, None, 1.0],
            "submitted_on": [day(3), None, day(3), None],
            "graded_on": [day(8), None, None, None],
            "due_on": [day(5), day(5), day(5), None],
            "ends_on": day(100),
        }
    ).astype({"submitted_on": "datetime64[ns]", "graded_on": "datetime64[ns]"})
    assert scored_on(rows).tolist() == [day(8), day(5), pd.NaT, day(100)]
    assert submission_seen_on(rows).tolist() == [day(3), day(5), day(3), day(100)]
