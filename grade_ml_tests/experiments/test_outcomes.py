"""Outcomes of actions: what counts from when on, and for whom."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from sqlalchemy import Engine

from grade_ml.core.settings import Settings
from grade_ml.experiments import store
from grade_ml.experiments.outcomes import LABELS, first_exposures, measured, read_outcomes
from grade_ml.experiments.plan import Metric
from grade_ml.gradebook.frames import Gradebook
from grade_ml.gradebook.institution import DEFAULTS
from grade_ml_tests.ensemble.campus import store as fill
from grade_ml_tests.experiments.plans import of_actions
from grade_ml_tests.experiments.split import NAMES, at, book, on
from grade_ml_tests.features.records import (
    day,
    enrolled,
    gradebook,
    result,
    section,
    students,
    work,
)

#: Ann and Bob on day 20; on day 100 all that was due by day 86 counts.
EXPOSED = pd.DataFrame(
    {"student_id": ["ann", "bob"], "arm": ["standard", "none"], "exposed_on": [day(20), day(20)]}
)


def records(*results: dict[str, object], **changed: list[dict[str, object]]) -> Gradebook:
    rows = {
        "students": students("ann", "bob"),
        "sections": [section("now", 0, 90), section("other", 0, 90, course="art")],
        "enrollments": [enrolled("ann"), enrolled("bob")],
        "assignments": [work(f"w{due}", due, 25) for due in (0, 5, 25, 50)],
        "results": list(results),
    }
    return gradebook(**(rows | changed))


def labels(
    class_records: Gradebook, metric: Metric = Metric.SCORE, today: int = 100
) -> pd.DataFrame:
    outcomes = measured(class_records, EXPOSED, ("math",), metric, on(today), DEFAULTS)
    assert list(outcomes) == list(LABELS)
    return outcomes


def values(
    class_records: Gradebook, metric: Metric = Metric.SCORE, today: int = 100
) -> dict[str, list]:
    outcomes = labels(class_records, metric, today)
    return {name: sorted(rows["value"]) for name, rows in outcomes.groupby("student_id")}


def test_what_was_due_after_the_exposure_counts_and_a_missed_assignment_is_0():
    class_records = records(
        result("ann", "w0", 10, 0, 1),
        result("ann", "w25", 80, 24, 26),
        result("ann", "w50", 150, 51, 60),  # extra credit within an assignment
        result("bob", "w25", 40, 25, 30),
    )
    assert values(class_records) == {"ann": [80.0, 100.0], "bob": [0.0, 40.0]}
    assert values(class_records, Metric.SUBMITTED) == {"ann": [1.0, 1.0], "bob": [0.0, 1.0]}
    # Before it: what was due by day 6 counted on day 20.
    before = labels(class_records).groupby("student_id")["covariate"].first()
    assert before.to_dict() == {"ann": 5.0, "bob": 0.0}
    assert labels(class_records)["phase"].unique().tolist() == ["early"]


def test_an_assignment_counts_for_all_at_once_when_scores_are_to_be_expected():
    class_records = records(result("ann", "w25", 80, 24, 26))
    assert values(class_records, today=38) == {}
    assert values(class_records, today=39) == {"ann": [80.0], "bob": [0.0]}


def test_what_is_unknown_is_not_0():
    class_records = records(
        result("ann", "w25", None, 24, None),  # waits for its score
        result("ann", "w50", None, 50, 52, status="graded"),  # an unreadable score
        result("bob", "w25", None, 25, 25, status="exempt"),
        result("bob", "w50", 70, 50, 120),  # scored after the day
        result("bob", "w5", None, 4, None),
    )
    assert values(class_records) == {}
    assert values(class_records, Metric.SUBMITTED) == {"ann": [1.0, 1.0], "bob": [1.0]}
    # Bob's first is missed, his second waited.
    late = records(
        result("bob", "w5", None, 4, None), result("bob", "w0", None, 0, 0, status="exempt")
    )
    assert labels(late).groupby("student_id")["covariate"].first().isna().to_dict() == {
        "ann": False,
        "bob": True,
    }


def test_who_withdrew_stays_and_who_moved_is_followed():
    seats = [
        enrolled("ann", withdrawn_on=day(40)),
        enrolled("ann", "two", on=40),
        enrolled("bob", withdrawn_on=day(30)),
        enrolled("bob", "other", on=35),
    ]
    class_records = records(
        result("ann", "w25", 80, 24, 26),
        result("ann", "v50", 60, 50, 55),
        result("bob", "w25", 90, 25, 27),
        result("bob", "o50", 90, 50, 55),  # of a course that the experiment does not name
        sections=[section("now", 0, 90), section("two", 0, 90), section("other", 0, 90, "art")],
        enrollments=seats,
        assignments=[
            *(work(f"w{due}", due, 25) for due in (25, 50)),
            *(work(f"v{due}", due, 25, "two") for due in (25, 50)),
            work("o50", 50, 25, "other"),
        ],
    )
    assert values(class_records) == {"ann": [60.0, 80.0], "bob": [0.0, 90.0]}


def test_what_an_exposure_cannot_change_does_not_count():
    class_records = records(
        result("ann", "w25", 80, 24, 26, carried_over=True),
        result("ann", "exam", 90, 60, 61),
        result("ann", "more", 90, 60, 61),
        enrollments=[enrolled("ann"), enrolled("bob", withdrawn_on=day(10))],
        assignments=[
            work("w25", 25, 25),
            work("w50", None, 25),  # due at the end of the section, on day 90
            work("exam", 60, 25, category="Exam"),
            work("more", 60, 25, extra_credit=True),
        ],
    )
    assert values(class_records, today=103) == {}
    assert values(class_records, today=104) == {"ann": [0.0]}


def test_passing_counts_when_the_section_has_ended_for_all_who_were_there():
    seats = [enrolled("ann", outcome="pass"), enrolled("bob", withdrawn_on=day(30))]
    class_records = records(enrollments=seats)
    assert values(class_records, Metric.PASSED, today=90) == {}  # a withdrawal alone would bias
    assert values(class_records, Metric.PASSED, today=91) == {"ann": [1.0], "bob": [0.0]}


def test_students_seen_in_two_arms_or_never_assigned_are_counted_and_left_out():
    assigned = pd.DataFrame({"student_id": list("abc"), "arm": ["x", "y", "x"]})
    days = pd.DataFrame(
        {
            "student_id": ["a", "a", "b", "d"],
            "arm": ["x", "x", "x", "y"],
            "on_day": [day(3), day(2), day(1), day(1)],
        }
    )
    outcomes, excluded = first_exposures(assigned, days)
    assert outcomes.to_dict("records") == [{"student_id": "a", "exposed_on": day(2), "arm": "x"}]
    assert excluded == {"seen in two arms": 1, "exposed without an assignment": 1}


@pytest.mark.parametrize("metric", [Metric.SCORE, Metric.SUBMITTED, Metric.PASSED])
def test_without_exposed_students_there_are_no_labels(metric: Metric):
    unexposed = EXPOSED.head(0)
    outcomes = measured(records(), unexposed, (), metric, on(100), DEFAULTS)
    assert list(outcomes) == list(LABELS) and outcomes.empty


def test_outcomes_are_read_of_the_exposed_and_erased_students_drop_out(
    engine: Engine, settings: Settings
):
    plan = of_actions(starts_on=on(20), courses=("math",))
    arm = {name: ("standard", "none")[n % 2] for n, name in enumerate(NAMES)}
    scores = [
        result(name, f"{course}-{due}", 40 + 20 * (arm[name] == "standard"), due, due + 1)
        for name in NAMES[:20]
        for course in ("math", "art")
        for due in (10, 30, 50)
    ]
    fill(engine, book(scores))
    assigned = pd.DataFrame({"student_id": list(arm), "arm": list(arm.values())})
    assigned = assigned.assign(
        experiment_id=plan.experiment_id, stratum="", probability=0.5, assigned_on=on(20)
    )
    # Of those who are gone nothing is in the gradebook; one student was seen in the other arm.
    gone = assigned.head(2).assign(student_id=["gone-1", "gone-2"])
    days = pd.concat([assigned.iloc[:30], gone, assigned.iloc[:1].assign(arm="none")])
    days = days[["experiment_id", "student_id", "arm"]].assign(on_day=on(25))
    with at(engine, settings, 70) as workspace:
        store.create(workspace.connection, plan, workspace.now, plan.owner, "by hand")
        store.assign(workspace.connection, pd.concat([assigned, gone]))
        store.expose(workspace.connection, days)
        outcomes = read_outcomes(workspace, plan)
        scored = read_outcomes(workspace, plan, Metric.SCORE)
    assert outcomes.excluded == {"seen in two arms": 1, "not in the gradebook any more": 2}
    assert outcomes.exposed == {"standard": 14, "none": 15}
    rows = outcomes.students
    assert len(rows) == 29 and (rows["labels"] == 2).all()
    assert rows["value"].tolist() == [1.0] * 19 + [0.0] * 10
    assert (rows["exposed_on"] == pd.Timestamp(on(25))).all()
    means = scored.students.head(19).groupby("arm")["value"].mean()
    assert means.to_dict() == {"standard": 60.0, "none": 40.0}
    assert np.isclose(rows["covariate"].sum(), 19)
    assert set(outcomes.labels["protected_gender"]) == {"F", "M"}
    assert set(outcomes.labels["course"]) == {"math"}
