"""What is odd about a section is reported, and what is ordinary is not."""

from __future__ import annotations

from datetime import date
from typing import Any

import pytest

from grade_ml.campus import simulated
from grade_ml.gradebook.institution import DEFAULTS, Institution
from grade_ml.gradebook.plausibility import findings
from grade_ml_tests.features.records import day, enrolled, gradebook, result, section, work

NAMES = [f"s{n:02d}" for n in range(12)]


def implausible(as_of: int = 101, institution: Institution = DEFAULTS, **rows: Any) -> list[str]:
    book = gradebook(
        **{
            "courses": [{"course_id": "math"}],
            "sections": [section("now", 0, 100)],
            "enrollments": [enrolled(name) for name in NAMES],
            "assignments": [work("a", 10, 1), work("b", 20, 1)],
            "results": scores(),
        }
        | rows
    )
    return [str(finding) for finding in findings(book, day(as_of).date(), institution)]


def scores(*assignments: str, each: float | None = None, **others: Any) -> list[dict[str, Any]]:
    return [
        result(name, assignment, 50.0 + n if each is None else each, 9, 9, **others)
        for n, name in enumerate(NAMES)
        for assignment in assignments or ("a", "b")
    ]


def test_an_ordinary_section_is_not_mentioned() -> None:
    assert implausible() == []
    assert implausible(as_of=15) == []


@pytest.mark.parametrize("each", [0.0, 100.0])
def test_equal_grades_of_everyone_are_mentioned(each: float) -> None:
    (line,) = implausible(results=scores(each=each))
    assert line.startswith(f"now: every student (12) has {each:.0f} of 100")


def test_no_results_at_all_are_mentioned() -> None:
    lines = implausible(results=[])
    assert any("every student (12) has 0 of 100" in line for line in lines)
    assert any("2 assignments have no result" in line for line in lines)


def test_one_assignment_that_everyone_passes_is_ordinary() -> None:
    rows = {"assignments": [work("a", 10, 1), work("b", 90, 1)]}
    assert implausible(as_of=30, results=scores("a", each=100.0), **rows) == []


def test_unknown_scores_of_most_are_mentioned_once_the_section_is_over() -> None:
    unknown = [row | {"score": None} for row in scores("b", status="graded")]
    rows = {"results": [*scores("a"), *unknown]}
    assert implausible(as_of=50, **rows) == []
    (line,) = implausible(**rows)
    assert "12 of 12 students have no known outcome" in line


def test_assignments_without_results_are_mentioned_after_three_weeks() -> None:
    rows = {"results": scores("a")}
    assert implausible(as_of=41, **rows) == []
    (line,) = implausible(as_of=42, **rows)
    assert line.startswith("now: 1 assignments have no result")


def test_a_share_at_risk_far_from_the_earlier_sections_is_mentioned() -> None:
    rows = {
        "sections": [section("before", -200, -100), section("now", 0, 100)],
        "enrollments": [
            enrolled(name, section_id) for name in NAMES for section_id in ("before", "now")
        ],
        "assignments": [work("p", -150, 1, "before"), work("a", 10, 1), work("b", 20, 1)],
        "results": [*scores("p"), *scores()],
    }
    assert implausible(**rows) == []
    low = [row | {"score": row["score"] - 45} for row in scores()]
    lines = implausible(**rows | {"results": [*scores("p"), *low]})
    assert any("now: 100% failed or withdrew, in earlier sections 0%" in line for line in lines)


def test_a_whole_campus_is_ordinary() -> None:
    config = simulated.CampusConfig(students=150, courses=3, terms=4)
    today = date(2025, 11, 10)
    assert findings(simulated.gradebook(config, today), today, DEFAULTS) == []
