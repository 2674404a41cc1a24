from __future__ import annotations

from datetime import date
from typing import Any

import pandas as pd
import pytest

from grade_ml.gradebook.institution import DEFAULTS, AtRisk, CourseRules, Institution
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


def of(
    student: str, as_of: date = AFTER, institution: Institution = DEFAULTS, **rows: Any
) -> dict[str, Any] | None:
    book = gradebook(
        **{
            "students": students("ann", "bob"),
            "courses": [{"course_id": "math"}],
            "sections": [section("now", 0, 100)],
            "enrollments": [enrolled("ann", outcome="pass"), enrolled("bob", outcome="fail")],
            **rows,
        }
    )
    by_student = outcomes(book, as_of, institution).set_index("student_id")
    by_student = by_student.astype({"at_risk": object}).drop(columns="pass_mark")
    return by_student.loc[student].to_dict() if student in by_student.index else None


def test_a_final_grade_is_the_weighted_mean_with_missing_work_as_nothing() -> None:
    work_set = [work("a", 10, 30), work("b", 20, 10), work("c", 30, 10)]
    results = [result("ann", "a", 50, 9, 12), result("ann", "b", 100, 9, 12)]
    outcome = of("ann", assignments=work_set, results=results)
    assert outcome == {"section_id": "now", "final_grade": pytest.approx(50), "at_risk": False}


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
    outcome = of("ann")
    assert pd.isna(outcome["final_grade"]) and outcome["at_risk"] is False


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
    outcome = of(
        "ann",
        enrollments=[enrolled("ann")],
        assignments=[work("a", 10, 1)],
        results=[result("ann", "a", score, 9, 12)],
    )
    assert outcome["at_risk"] is at_risk


def test_without_outcome_and_grade_nothing_is_known() -> None:
    outcome = of("ann", enrollments=[enrolled("ann")])
    assert pd.isna(outcome["final_grade"]) and pd.isna(outcome["at_risk"])


def test_a_score_graded_after_the_day_is_unknown_until_then() -> None:
    rows = {"assignments": [work("a", 10, 1)], "results": [result("ann", "a", 90, 99, 120)]}
    assert pd.isna(of("ann", day(119).date(), **rows)["final_grade"])
    assert of("ann", day(120).date(), **rows)["final_grade"] == 90


UNSTATED = [enrolled("ann"), enrolled("bob")]
TWO = [work("a", 10, 10), work("b", 20, 90)]


@pytest.mark.parametrize(
    "unknown",
    [
        result("ann", "b", None, 19, None, status="submitted"),
        result("ann", "b", None, 19, 20, status="graded"),
        result("ann", "b", 30, 19, 20, status="incomplete"),
    ],
    ids=lambda row: row["status"],
)
def test_a_grade_that_rests_on_an_unknown_score_is_unknown(unknown: dict[str, Any]) -> None:
    rows = {"enrollments": UNSTATED, "assignments": TWO}
    outcome = of("ann", results=[result("ann", "a", 90, 9, 9), unknown], **rows)
    assert pd.isna(outcome["final_grade"]) and pd.isna(outcome["at_risk"])
    assert of("bob", results=[unknown], **rows)["final_grade"] == 0


def test_an_unknown_score_that_does_not_count_leaves_the_grade_known() -> None:
    work_set = [work("a", 10, 10), work("b", 20, 0)]
    results = [result("ann", "a", 90, 9, 9), result("ann", "b", None, 19, None)]
    outcome = of("ann", enrollments=UNSTATED, assignments=work_set, results=results)
    assert (outcome["final_grade"], outcome["at_risk"]) == (pytest.approx(90), False)


def test_an_exempt_assignment_is_in_no_ones_denominator_but_the_others() -> None:
    results = [
        result("ann", "a", 90, 9, 9),
        result("ann", "b", None, None, 21, status="exempt"),
        result("bob", "a", 90, 9, 9),
    ]
    rows = {"enrollments": UNSTATED, "assignments": TWO, "results": results}
    assert of("ann", **rows)["final_grade"] == pytest.approx(90)
    assert of("bob", **rows)["final_grade"] == pytest.approx(9)


def test_who_is_exempt_from_everything_has_no_grade() -> None:
    results = [result("ann", assignment, None, None, 5, status="exempt") for assignment in "ab"]
    outcome = of("ann", enrollments=UNSTATED, assignments=TWO, results=results)
    assert pd.isna(outcome["final_grade"]) and pd.isna(outcome["at_risk"])


def test_a_missing_assignment_counts_nothing() -> None:
    results = [result("ann", "a", 90, 9, 9), result("ann", "b", None, 20, 20, status="missing")]
    outcome = of("ann", enrollments=UNSTATED, assignments=TWO, results=results)
    assert (outcome["final_grade"], outcome["at_risk"]) == (pytest.approx(9), True)


def test_extra_credit_adds_to_the_points_and_a_grade_ends_at_100() -> None:
    work_set = [
        work("a", 10, 10, max_score=10),
        work("b", 20, 10, max_score=90),
        work("x", 30, 10, max_score=100, extra_credit=True),
    ]
    results = [
        result("ann", "a", 120, 9, 9),
        result("ann", "b", 50, 9, 9),
        result("ann", "x", 5, 9, 9),
        *(result("bob", assignment, 150, 9, 9) for assignment in "abx"),
    ]
    rows = {
        "sections": [section("now", 0, 100, policy="points")],
        "enrollments": UNSTATED,
        "assignments": work_set,
        "results": results,
    }
    assert of("ann", **rows)["final_grade"] == pytest.approx(12 + 45 + 5)
    assert of("bob", **rows)["final_grade"] == 100


@pytest.mark.parametrize(
    ("policy", "grade"),
    [
        ("points", (10 * 0.5 + 30 * 1.0) / 50 * 100),
        ("weights", (20 * 0.5 + 20 * 1.0) / 100 * 100),
        ("equal", 50.0),
        ("categories", 40 * (0.5 + 1.0) / 2),
    ],
)
def test_the_sections_policy_makes_the_grade(policy: str, grade: float) -> None:
    work_set = [
        work("a", 10, 20, category="quiz", max_score=10),
        work("b", 20, 20, category="quiz", max_score=30),
        work("c", 30, 60, category="test", max_score=10),
    ]
    results = [result("ann", "a", 50, 9, 9), result("ann", "b", 100, 9, 9)]
    outcome = of(
        "ann",
        sections=[section("now", 0, 100, policy=policy)],
        assignments=work_set,
        results=results,
    )
    assert outcome["final_grade"] == pytest.approx(grade)


def test_a_category_keeps_its_weight_when_some_of_it_does_not_count() -> None:
    work_set = [
        work("a", 10, 20, category="quiz"),
        work("b", 20, 20, category="quiz"),
        work("c", 30, 60, category="test"),
    ]
    results = [
        result("ann", "a", None, None, 9, status="exempt"),
        result("ann", "b", 50, 9, 9),
        result("ann", "c", 100, 9, 9),
        *(result("bob", assignment, None, None, 9, status="exempt") for assignment in "ab"),
        result("bob", "c", 70, 9, 9),
    ]
    rows = {
        "sections": [section("now", 0, 100, policy="categories")],
        "assignments": work_set,
        "results": results,
    }
    assert of("ann", **rows)["final_grade"] == pytest.approx(40 * 0.5 + 60)
    assert of("bob", **rows)["final_grade"] == pytest.approx(70)


def test_the_institution_decides_the_pass_mark_and_the_rule() -> None:
    rows = {"assignments": [work("a", 10, 1)], "results": [result("ann", "a", 55, 9, 12)]}
    passed = rows | {"enrollments": [enrolled("ann", outcome="pass")]}
    strict = Institution(pass_mark=60)
    assert of("ann", institution=strict, enrollments=UNSTATED, **rows)["at_risk"] is True
    assert of("ann", institution=strict, **passed)["at_risk"] is False
    by_mark = Institution(pass_mark=60, at_risk=AtRisk.PASS_MARK)
    assert of("ann", institution=by_mark, **passed)["at_risk"] is True
    but_math = Institution(pass_mark=60, courses={"math": CourseRules(pass_mark=50)})
    assert of("ann", institution=but_math, enrollments=UNSTATED, **rows)["at_risk"] is False


def test_leaving_after_the_end_is_no_withdrawal() -> None:
    rows = {"assignments": [work("a", 10, 1)], "results": [result("ann", "a", 55, 9, 12)]}
    gone = [enrolled("ann", withdrawn_on=day(130))]
    assert of("ann", day(200).date(), enrollments=gone, **rows)["at_risk"] is False


def moved_book(**second: Any) -> dict[str, Any]:
    """Ann begins in `old` (a, b), continues in `new` (c, d) from day 30; bob and cid stay."""
    return {
        "students": students("ann", "bob", "cid"),
        "sections": [section("old", 0, 100), section("new", 0, 100)],
        "enrollments": [
            enrolled("ann", "old", withdrawn_on=day(30), outcome="withdrawn"),
            enrolled("ann", "new", **({"on": 31} | second)),
            enrolled("bob", "new"),
            enrolled("cid", "old"),
        ],
        "assignments": [
            work("a", 10, 1, "old"),
            work("b", 50, 1, "old"),
            work("c", 10, 1, "new"),
            work("d", 50, 1, "new"),
        ],
        "results": [
            result("ann", "a", 80, 9, 12),
            result("ann", "d", 60, 49, 52),
            *(result("bob", assignment, 90, 9, 52) for assignment in "cd"),
            *(result("cid", assignment, 50, 9, 52) for assignment in "ab"),
        ],
    }


@pytest.mark.parametrize("begun", [31, 0, -5, None])
def test_a_move_is_no_withdrawal_and_the_history_moves_along(begun: int | None) -> None:
    book = gradebook(courses=[{"course_id": "math"}], **moved_book(on=begun))
    by_enrollment = outcomes(book, AFTER, DEFAULTS).set_index(["section_id", "student_id"])
    assert pd.isna(by_enrollment.loc[("old", "ann"), "at_risk"])
    assert pd.isna(by_enrollment.loc[("old", "ann"), "final_grade"])
    assert by_enrollment.loc[("new", "ann"), "final_grade"] == pytest.approx(70)
    assert by_enrollment.loc[("new", "bob"), "final_grade"] == pytest.approx(90)
    assert by_enrollment.loc[("old", "cid"), "final_grade"] == pytest.approx(50)


def test_who_leaves_both_sections_has_withdrawn() -> None:
    rows = moved_book(withdrawn_on=day(60))
    known = outcomes(gradebook(courses=[{"course_id": "math"}], **rows), AFTER, DEFAULTS)
    known = known.set_index(["section_id", "student_id"])
    assert pd.isna(known.loc[("old", "ann"), "at_risk"])
    assert known.loc[("new", "ann"), "at_risk"]


def test_a_record_without_dates_is_known_when_the_work_was_due() -> None:
    rows = pd.DataFrame(
        {
            "status": ["graded", "graded", "submitted", "graded"],
            "score": [1.0, 1.0, None, 1.0],
            "submitted_on": [day(3), None, day(3), None],
            "graded_on": [day(8), None, None, None],
            "due_on": [day(5), day(5), day(5), None],
            "ends_on": day(100),
        }
    ).astype({"submitted_on": "datetime64[ns]", "graded_on": "datetime64[ns]"})
    assert scored_on(rows).tolist() == [day(8), day(5), pd.NaT, day(100)]
    assert submission_seen_on(rows).tolist() == [day(3), day(5), day(3), day(100)]
