from __future__ import annotations

from datetime import date

import pytest

from grade_ml.monitoring import concept
from grade_ml.monitoring.change import Suspicion, changes
from grade_ml_tests.monitoring.test_concept import scored

BEGAN = date(2025, 2, 10)


def suspicion(assignments: int, shift: float, seed: int) -> Suspicion:
    expectation = concept.learn(scored(60, 30))
    assert expectation is not None
    events = scored(60, assignments, shift, seed)
    return Suspicion(events, expectation, BEGAN)


def test_the_share_is_what_scores_lost():
    by_course = changes({"a": suspicion(4, -15, 1), "b": suspicion(3, -15, 2)}, seed=0)
    assert set(by_course) == {"a", "b"}
    for change in by_course.values():
        # 15 of some 60 points.
        assert change.share == pytest.approx(-0.25, abs=0.06)
        assert change.since == BEGAN and change.gained.is_sure
    assert "points to come are -2" in str(by_course["a"])


def test_a_course_with_little_evidence_goes_with_those_that_changed_with_it():
    alone = {f"{n}": suspicion(3, -15, n) for n in range(1, 4)}
    with_one = changes({**alone, "young": suspicion(1, -15, 9)}, seed=0)
    assert with_one["young"].share == pytest.approx(-0.25, abs=0.08)


def test_what_other_assignments_do_not_bear_out_changes_nothing():
    assert changes({"a": suspicion(6, 0.0, 4)}, seed=0)["a"].share == 0
    # One hard assignment is no evidence about the next.
    assert changes({"a": suspicion(1, -15, 5)}, seed=0) == {}
    assert changes({}, seed=0) == {}


def test_nothing_is_left_where_everything_was_lost():
    (change,) = changes({"a": suspicion(4, -400, 6)}, seed=0).values()
    assert change.share == -1
