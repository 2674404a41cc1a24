from __future__ import annotations

from datetime import date

import pytest

from grade_ml.core.optional import absence
from grade_ml.monitoring.health import Health, Serving, by_need, health
from grade_ml.monitoring.retraining import Decision

TODAY = date(2025, 10, 20)
QUIET = Decision(False, "nothing changed")
SERVED = Serving(enrolled=80, predicted=80, newest=TODAY, degraded=())
GOOD = {"loss": {"value": 9.0, "baseline": 10.0, "basis": "scores"}, "ece": 0.02}
STEADY = {
    "status": "tested",
    "drifted": False,
    "features": [{"drifted": False}] * 70,
    "quality": {"tested": 70, "violations": []},
}


def judge(performance=GOOD, drift=STEADY, serving=SERVED, decision=QUIET) -> Health:
    return health(performance, drift, serving, decision, TODAY)


def test_a_model_that_is_as_on_record_has_all_points():
    state = judge()
    assert state.score == 100 and not state.needs and state.worst == ""
    assert set(state.parts) == {
        "performance",
        "calibration",
        "drift",
        "quality",
        "freshness",
        "serving",
    }


@pytest.mark.parametrize(
    ("worse", "part"),
    [
        ({"performance": {**GOOD, "loss": {**GOOD["loss"], "value": 14.0}}}, "performance"),
        ({"performance": {**GOOD, "ece": 0.12}}, "calibration"),
        ({"drift": {**STEADY, "drifted": True, "features": [{"drifted": True}] * 70}}, "drift"),
        ({"drift": {**STEADY, "quality": {"tested": 70, "violations": ["a"] * 9}}}, "quality"),
        ({"serving": Serving(80, 80, date(2025, 10, 14), ())}, "freshness"),
        ({"serving": Serving(80, 30, TODAY, ("no library",))}, "serving"),
    ],
)
def test_each_part_costs_points_and_is_named(worse, part):
    state = judge(**worse)
    assert state.score is not None and state.score < 100
    assert state.worst.startswith(f"{part}: ")
    others = [part_health.points for name, part_health in state.parts.items() if name != part]
    assert others == [100] * 5


def test_what_is_unknown_counts_neither_way():
    state = judge(performance={"reason": "no model"}, drift={"reason": "no section runs"})
    assert state.score == 100
    unknown = [name for name, part_health in state.parts.items() if part_health.points is None]
    assert unknown == ["performance", "calibration", "drift", "quality"]
    assert state.parts["performance"].says == "no model"
    nothing = judge({}, {}, Serving(0, 0, None, ()))
    assert nothing.score is None and not nothing.needs


def test_a_library_that_is_missing_costs_no_course_any_points():
    why = f"{absence('xgboost')}; the ensemble goes without it"
    assert judge(serving=Serving(80, 80, TODAY, (why,))).score == 100


def test_courses_are_ordered_by_need():
    bad = judge(performance={**GOOD, "loss": {**GOOD["loss"], "value": 15.0}})
    requested = judge(decision=Decision(True, "confirmed", TODAY))
    unknown = judge({}, {}, Serving(0, 0, None, ()))
    courses = {"unknown": unknown, "fine": judge(), "bad": bad, "asked": requested}
    assert by_need(courses) == ["asked", "bad", "fine", "unknown"]


def test_the_score_of_full_parts_is_100_whichever_are_known():
    for drift in ({}, STEADY):
        for performance in ({}, GOOD, {**GOOD, "ece": None}):
            score = judge(performance, drift).score
            assert score is not None and score <= 100
