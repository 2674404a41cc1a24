"""How many labels are expected: from what is due, or from what has been coming."""

from __future__ import annotations

from datetime import timedelta

import sqlalchemy as sa

from grade_ml.experiments.expected import Expected, expected, labels_by_week
from grade_ml.gradebook.schema import assignment
from grade_ml_tests.experiments.lab import Lab
from grade_ml_tests.experiments.plans import STARTS_ON


def after(days: int) -> object:
    return STARTS_ON + timedelta(days=days)


def test_what_is_due_is_expected_of_those_who_are_enrolled(lab: Lab) -> None:
    with lab.engine.connect() as connection:
        assert expected(connection, (), STARTS_ON, 120) == Expected(6, after(34))
        assert expected(connection, ("c-1",), STARTS_ON, 5) == Expected(3, after(24))
        assert expected(connection, ("c-2",), STARTS_ON, 120) is None
        assert expected(connection, (), after(200), 120) is None
        weeks = labels_by_week(connection, (), STARTS_ON, 3)
        assert list(weeks) == [0, 0, 2] and weeks.index[-1].date() == STARTS_ON
        # Of a day in the past nothing is known of the scores that came after it.
        assert labels_by_week(connection, (), after(-3), 3).sum() == 0


def test_what_is_not_settled_between_the_first_and_the_last_day_is_not_expected(lab: Lab) -> None:
    # Due on the days 10 and 20, settled 14 days later.
    with lab.engine.connect() as connection:
        for first, last, until in (
            (0, 33, Expected(3, after(24))),
            (0, 34, Expected(6, after(34))),
            (0, 23, None),
            (9, None, Expected(6, after(34))),
            (10, None, Expected(3, after(34))),
            (20, None, None),
        ):
            days = (after(first), last and after(last))
            assert expected(connection, (), STARTS_ON, 120, *days) == until


def test_without_due_dates_scores_continue_at_their_former_rate(lab: Lab) -> None:
    with lab.engine.connect() as connection, connection.begin() as transaction:
        connection.execute(
            sa.update(assignment)
            .where(assignment.c.due_on > STARTS_ON)
            .values(due_on=STARTS_ON - timedelta(days=1))
        )
        # Two scores in four weeks, and 60 days of the section are left.
        assert expected(connection, (), STARTS_ON, 120) == Expected(4, after(74))
        assert expected(connection, (), STARTS_ON, 120, after(15), after(44)) == Expected(
            1, after(44)
        )
        assert expected(connection, (), STARTS_ON, 120, after(40), after(44)) is None
        transaction.rollback()
