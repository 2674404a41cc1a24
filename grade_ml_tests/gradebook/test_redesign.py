"""Redesigned sections are noticed by their plan of assignments."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date, timedelta

import pandas as pd
import pytest

from grade_ml.gradebook import schema
from grade_ml.gradebook.frames import with_defaults
from grade_ml.gradebook.redesign import Redesign, redesigns

#: Category, weight and due day of each assignment.
Work = Sequence[tuple[str, float, int]]

FIRST = date(2020, 1, 6)
LENGTH, APART = timedelta(days=140), timedelta(days=182)
QUIZZES: Work = [("Quiz", 5, 10 + 20 * n) for n in range(6)]
ESSAYS: Work = [("Essay", 30, 40), ("Essay", 40, 120)]
USUAL: Work = [*QUIZZES, *ESSAYS]
COURSES = ("A", "B", "C", "D")


def moved(work: Work, days: int) -> Work:
    return [(category, weight, day + days) for category, weight, day in work]


def book(designs: dict[str, Sequence[Work]]) -> tuple[pd.DataFrame, pd.DataFrame, date]:
    """Return a section for each design of each course, one a term, and a day of the last term."""
    sections, assignments = [], []
    for course, of_terms in designs.items():
        for term, work in enumerate(of_terms):
            name, starts_on = f"{course}{term}", FIRST + term * APART
            sections.append(
                {"section_id": name, "course_id": course, "term_id": str(term)}
                | {"starts_on": pd.Timestamp(starts_on)}
                | {"ends_on": pd.Timestamp(starts_on + LENGTH)}
            )
            assignments += [
                {"assignment_id": f"{name}-{place}", "section_id": name, "category": category}
                | {"due_on": pd.Timestamp(starts_on + timedelta(days=day)), "weight": weight}
                | {"max_score": 100.0}
                for place, (category, weight, day) in enumerate(work)
            ]
    last = max(map(len, designs.values())) - 1
    return (
        with_defaults(schema.section, pd.DataFrame(sections)),
        with_defaults(schema.assignment, pd.DataFrame(assignments)),
        FIRST + last * APART + timedelta(days=1),
    )


def noticed(designs: dict[str, Sequence[Work]]) -> dict[str, Redesign]:
    return redesigns(*book(designs))


def stable(terms: int) -> dict[str, Sequence[Work]]:
    """Return courses whose dates move by a few days from term to term."""
    return {name: [moved(USUAL, term % 3) for term in range(terms)] for name in COURSES}


@pytest.mark.parametrize("terms", [2, 5])
def test_lost_quizzes_are_noticed_and_other_courses_are_not(terms: int) -> None:
    designs = stable(terms)
    designs["A"] = [*designs["A"][:-1], [("Essay", 50, 40), ("Essay", 50, 120)]]
    (redesign,) = noticed(designs).values()
    assert str(redesign) == (
        f"A{terms - 1} was redesigned: all 6 Quiz are gone, Essay counts 100% instead of 70% "
        f"(compared with A{(terms - 2) - (terms - 2) % 3})"
    )


@pytest.mark.parametrize(
    ("design", "changes"),
    [
        (moved(USUAL, 15), ("due dates moved by 13 days on average",)),
        (
            [*QUIZZES, ("Essay", 5, 40), ("Essay", 65, 120)],
            ("25% of the grade moved to other assignments",),
        ),
        ([*USUAL, ("Exam", 100, 140)], ("1 Exam is new", "Essay", "Quiz")),
        ([("QUIZ ", *rest) for _, *rest in QUIZZES] + [*ESSAYS], None),
        (USUAL[1:], None),
        ([], None),
    ],
    ids=["dates", "weights", "exam", "spelling", "one fewer", "none yet"],
)
def test_what_counts_as_a_redesign(design: Work, changes: tuple[str, ...] | None) -> None:
    found = noticed(stable(4) | {"A": [*stable(3)["A"], design]})
    assert list(found) == (["A3"] if changes else [])
    if changes:
        told = found["A3"].changes
        assert all(text.startswith(start) for text, start in zip(told, changes, strict=True))


def test_extra_credit_does_not_count() -> None:
    designs = stable(3)
    designs["A"] = [*designs["A"][:-1], [*USUAL, *(("Extra", 10, 30 + n) for n in range(5))]]
    sections, assignments, day = book(designs)
    assert list(redesigns(sections, assignments, day)) == ["A2"]
    assignments["extra_credit"] = assignments["category"] == "Extra"
    assert redesigns(sections, assignments, day) == {}


def test_the_first_section_of_a_course_has_nothing_to_differ_from() -> None:
    sections, assignments, day = book(stable(3) | {"A": [ESSAYS]})
    late = (sections["course_id"] == "A").to_numpy()
    sections.loc[late, ["starts_on", "ends_on"]] = sections.loc[
        sections["section_id"] == "B2", ["starts_on", "ends_on"]
    ].to_numpy()
    assert redesigns(sections, assignments, day) == {}


def test_a_return_to_an_earlier_design_is_no_redesign() -> None:
    designs = stable(4)
    designs["A"] = [USUAL, USUAL, ESSAYS, USUAL]
    assert noticed(designs) == {}


def test_where_every_course_changes_every_term_nothing_is_noticed() -> None:
    kinds = ("Essay", "Quiz", "Project", "Talk", "Lab")
    changing = [[(kind, 50.0, 40), ("Test", 50.0, 120)] for kind in kinds]
    assert noticed(dict.fromkeys(COURSES, changing)) == {}


def test_a_course_without_a_habit_of_its_own_takes_that_of_the_others() -> None:
    two = [[("Essay", 50.0, 40), ("Test", 50.0, 120)], [("Talk", 50.0, 40), ("Test", 50.0, 120)]]
    others = [[(kind, 50.0, 40), ("Test", 50.0, 120)] for kind in ("Lab", "Quiz", "Project")]
    assert list(noticed(stable(2) | {"A": two})) == ["A1"]
    sections, assignments, day = book({name: others for name in ("B", "C", "D")} | {"A": two})
    shift = pd.Timedelta(APART)
    own = (sections["course_id"] == "A").to_numpy()
    sections.loc[own, "starts_on"] += shift
    sections.loc[own, "ends_on"] += shift
    due = assignments["section_id"].str.startswith("A").to_numpy()
    assignments.loc[due, "due_on"] += shift
    assert redesigns(sections, assignments, day) == {}


def test_nothing_after_the_day_matters() -> None:
    designs = stable(4)
    designs["A"] = [USUAL, USUAL, ESSAYS, ESSAYS]
    sections, assignments, last = book(designs)
    day = last - APART
    known = sections["starts_on"] <= pd.Timestamp(day)
    before = redesigns(sections[known], assignments, day)
    assert list(before) == ["A2"]
    assert redesigns(sections, assignments, day) == before
    # Once that section has ended, its design is known.
    assert redesigns(sections, assignments, last) == {}
