"""Labels of a small gradebook and the predictions of two versions: from records to a decision."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta

import numpy as np
import pandas as pd
import pytest
import sqlalchemy as sa
from sqlalchemy import Connection, Engine

from grade_ml.experiments import labels, nightly, store
from grade_ml.experiments.labels import Labels
from grade_ml.experiments.plan import Decision, Kind, Metric, Plan
from grade_ml.experiments.store import Happened
from grade_ml.gradebook import schema
from grade_ml.gradebook.frames import Gradebook
from grade_ml.registry.registry import Registry
from grade_ml.registry.workspace import Workspace
from grade_ml.serving.predictions import shadow_prediction
from grade_ml_tests.ensemble.campus import store as store_gradebook
from grade_ml_tests.experiments.plans import of_models
from grade_ml_tests.factories import PSEUDONYMS
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

NAMES = [f"s{number:02d}" for number in range(40)]
#: Of each student; the champion implies 50 for all students, the challenger is nearly right.
SCORES = np.linspace(30, 90, len(NAMES))
FIRST, SECOND = ("q1", "q2", "q3"), ("q4", "q5", "q6")
BEGAN = START.date()
PLAN = of_models(planned_labels=80, starts_on=BEGAN, courses=("math",))


def at(number: int) -> date:
    return BEGAN + timedelta(days=number)


def small_book() -> Gradebook:
    """Return a section of 60 days, quizzes due on days 10 and 20, results three days later."""
    quizzes = {**dict.fromkeys(FIRST, 10), **dict.fromkeys(SECOND, 20)}
    return gradebook(
        students=students(*NAMES, s00='{"gender": "F"}'),
        terms=[{"term_id": "t", "starts_on": day(0), "ends_on": day(90)}],
        courses=[{"course_id": "math"}],
        sections=[section("now", 0, 60), section("later", 10, 90)],
        enrollments=[enrolled(name) for name in NAMES],
        assignments=[
            *(work(name, due, 10, category="quiz") for name, due in quizzes.items()),
            work("extra", 10, 0, category="quiz", extra_credit=True),
            work("final", 50, 40, category="Exam"),
        ],
        results=[
            result(name, quiz, float(score), due, due + 3)
            for quiz, due in [*quizzes.items(), ("extra", 10), ("final", 50)]
            for name, score in zip(NAMES, SCORES, strict=True)
        ],
    )


@pytest.fixture
def connection(engine: Engine) -> Iterator[Connection]:
    """The small gradebook, and the weekly predictions of two versions."""
    store_gradebook(engine, small_book())
    with engine.begin() as opened:
        for number in (0, 7, 14, 21, 28, 35):
            predict(opened, number)
        yield opened


def predict(connection: Connection, number: int, **changes: object) -> None:
    """Store the predictions of both versions on a day."""
    for version, implied in ((1, np.full(len(NAMES), 50.0)), (2, SCORES + 5)):
        rows = [
            {
                "section_id": "now",
                "student_id": name,
                "as_of": at(number),
                "model_name": "pooled",
                "model_version": version,
                "grade": float(score),
                "lower80": 0.0,
                "upper80": 100.0,
                "lower95": 0.0,
                "upper95": 100.0,
                "risk": 0.5,
                "implied": float(score) if number < 35 else None,
            }
            | changes
            for name, score in zip(NAMES, implied, strict=True)
        ]
        connection.execute(sa.insert(shadow_prediction), rows)


def workspace(connection: Connection, number: int) -> Workspace:
    registry = Registry("http://127.0.0.1:1", "nowhere", PSEUDONYMS)
    now = datetime.combine(at(number), datetime.min.time(), UTC)
    return Workspace(connection, registry, "nowhere", at(number), now)


def read(connection: Connection, number: int, plan: Plan = PLAN) -> Labels:
    return labels.read(workspace(connection, number), plan)


def test_a_score_counts_once_both_had_implied_it_before_its_day(connection: Connection) -> None:
    assert read(connection, 23).rows.empty
    known = read(connection, 24)
    # Neither extra credit nor the exam is work to come.
    assert known.rows["item"].value_counts().to_dict() == dict.fromkeys(FIRST, len(NAMES))
    losses = known.rows
    first = losses.loc[losses["item"] == "q1", "control_error"]
    assert np.allclose(np.sort(first), np.sort(50 - SCORES))
    assert np.allclose(losses["control"], losses["control_error"] ** 2)
    assert np.allclose(losses["treatment"], 25)
    assert losses["phase"].nunique() == 1
    assert (known.early, known.stale) == (0, 0)
    later = read(connection, 34)
    assert later.rows["item"].value_counts().to_dict() == dict.fromkeys(FIRST + SECOND, 40)
    assert len(later.by_student) == len(NAMES)
    assert later.data_version != known.data_version
    assert read(connection, 34).data_version == later.data_version
    assert read(connection, 24).data_version == known.data_version
    # What was predicted before the first day of an experiment is none of its predictions.
    began = read(connection, 34, replace(PLAN, starts_on=at(14)))
    assert set(began.rows["item"]) == set(SECOND)
    began = read(connection, 34, replace(PLAN, starts_on=at(15)))
    assert began.rows.empty and (began.early, began.stale) == (120, 0)
    assert read(connection, 34, replace(PLAN, courses=("art",))).rows.empty


def test_missed_work_counts_as_nothing_and_unknown_scores_count_not(connection: Connection) -> None:
    missed, waiting, left, exempt = NAMES[:4]
    conditions = {name: schema.result.c.student_id == name for name in (missed, waiting, exempt)}
    first = schema.result.c.assignment_id == "q1"
    connection.execute(sa.delete(schema.result).where(conditions[missed], first))
    for name, values in (
        (waiting, {"status": "submitted", "score": None, "graded_on": None}),
        (exempt, {"status": "exempt", "score": None, "submitted_on": None}),
    ):
        connection.execute(sa.update(schema.result).where(conditions[name], first).values(values))
    connection.execute(
        sa.update(schema.enrollment)
        .where(schema.enrollment.c.student_id == left)
        .values(withdrawn_on=at(8), outcome="withdrawn")
    )
    connection.execute(sa.delete(schema.result).where(schema.result.c.student_id == left))
    rows = read(connection, 24).rows
    numbers = dict(zip(NAMES, PSEUDONYMS.of(pd.Series(NAMES)), strict=True))
    errors = rows[rows["item"] == "q1"].set_index("student")["control_error"]
    # The champion implied 50 of everybody, and a final grade counts missed work as 0.
    assert errors[numbers[missed]] == errors[numbers[left]] == 50
    assert not {numbers[waiting], numbers[exempt]} & set(errors.index)
    assert len(errors) == len(NAMES) - 2


def test_outcomes_count_when_a_section_ends_and_for_risks_at_a_withdrawal(
    connection: Connection,
) -> None:
    connection.execute(
        sa.update(schema.enrollment)
        .where(schema.enrollment.c.student_id == NAMES[0])
        .values(withdrawn_on=at(25), outcome="withdrawn")
    )
    grades, risks = (
        replace(PLAN, metric=metric) for metric in (Metric.GRADE_ERROR, Metric.RISK_ERROR)
    )
    assert read(connection, 60, grades).rows.empty
    rows = read(connection, 60, risks).rows
    assert len(rows) == 1 and rows["arrived_on"].dt.date.tolist() == [at(25)]
    assert rows[["control", "treatment"]].to_numpy().tolist() == [[0.25, 0.25]]
    ended = read(connection, 61, grades)
    assert len(ended.rows) == len(NAMES)
    # Six weeks of predictions of each, less those of the withdrawn after the day.
    assert len(ended.outcomes) == 6 * len(NAMES)
    assert ended.outcomes["control_risk"].eq(0.5).all()
    truth = dict(zip(PSEUDONYMS.of(pd.Series(NAMES)), SCORES, strict=True))
    kept = ended.rows[ended.rows["student"] != PSEUDONYMS.of(pd.Series(NAMES[:1]))[0]]
    # The exam counts not, the quizzes alike: the grade is the student's one score.
    expected = kept["student"].map(truth)
    assert np.allclose(kept["control_error"], 50 - expected)
    assert len(read(connection, 61, risks).rows) == len(NAMES)


def test_students_without_a_section_drop_out_and_missing_predictions_are_counted(
    connection: Connection,
) -> None:
    gone = schema.enrollment.c.student_id == NAMES[-1]
    connection.execute(sa.delete(schema.enrollment).where(gone))
    shadow = shadow_prediction.c
    connection.execute(
        sa.update(shadow_prediction)
        .where(shadow.student_id == NAMES[0], shadow.model_version == 2)
        .values(implied=None)
    )
    known = read(connection, 24)
    assert len(known.rows) == 3 * (len(NAMES) - 1)
    assert known.rows["treatment"].isna().sum() == 3
    assert known.by_student["treatment"].isna().sum() == 1
    assert set(known.groups.columns) == {"protected_gender"}


def test_from_labels_to_a_decision_and_nothing_new_is_no_look(connection: Connection) -> None:
    plan = replace(PLAN, planned_labels=800)
    store.create(connection, plan, workspace(connection, 0).now, "grade-ml", "a challenger")
    name = plan.experiment_id

    def tick(number: int) -> nightly.LookResult:
        (result,) = nightly.results(workspace(connection, number))
        return result

    nothing = tick(23)
    assert nothing.look and nothing.look.decision is Decision.SKIPPED
    assert store.looks(connection, name) == []
    first = tick(24)
    assert first.look and first.look.decision is Decision.CONTINUE
    assert (first.look.units, first.look.labels, first.look.fraction) == (40, 120, 0.15)
    assert "3 assignments" in first.text
    again = tick(25)
    assert again.look and again.look.decision is Decision.SKIPPED
    assert "No label is new" in again.text
    back = tick(23)
    assert back.look is None and "cannot be taken back" in back.text
    assert len(store.looks(connection, name)) == 1
    last = tick(34)
    assert last.look and last.look.decision is Decision.BETTER
    seen = store.looks(connection, name)
    assert [look.decision for look in seen] == [Decision.CONTINUE, Decision.BETTER]
    assert seen[1].difference < 0 and seen[1].high < 0 and seen[1].z < -seen[1].bound
    assert seen[1].figures["guardrails"]["bias"]["state"] == "ok"
    assert seen[1].figures["guardrails"]["brier"]["state"] == "unknown"
    decided = store.get(connection, name).event(Happened.DECIDED)
    assert decided and decided.decision is Decision.BETTER
    assert not set(NAMES) & set(str(seen).split("'"))
    # It is decided, and there are no more looks.
    assert nightly.results(workspace(connection, 40)) == []


def test_a_look_that_fails_does_not_stop_the_others(
    connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    odd = replace(PLAN, experiment_id="odd", kind=Kind.WATCH)
    for plan in (odd, PLAN):
        store.create(connection, plan, workspace(connection, 0).now, "grade-ml", "opened")
    original = labels.read

    def breaks(at: Workspace, plan: Plan) -> Labels:
        if plan == odd:
            at.connection.execute(sa.text("select 1/0"))
        return original(at, plan)

    monkeypatch.setattr(labels, "read", breaks)
    first, second = nightly.results(workspace(connection, 24))
    assert first.look is None and "DataError" in first.text
    assert second.look and math.isfinite(second.look.difference)
