"""Anomalies: what is planted is found, what is ordinary is left alone at the stated rate."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from grade_ml.early_warning.anomalies import ANOMALIES, Kind, anomalies, reference_of
from grade_ml.early_warning.grade_paths import truths
from grade_ml.forecasting.contract import Panel
from grade_ml_tests.early_warning.made import forecasts, later, panel


@pytest.fixture(scope="module")
def reference():
    seen = [panel(200, seed=n, section=f"s{n}", share=0.95) for n in range(10)]
    frame = pd.concat([forecasts(class_panel) for class_panel in seen])
    return reference_of(seen, frame, truths(seen))


def week(seed: int, **changed: tuple[int, float]) -> tuple[Panel, Panel, pd.DataFrame]:
    """A section before and after its fourth assignment, with changed scores of some students."""
    before = panel(150, seed=seed, section="new", share=0.95, day=50.0)
    truth = before.truth.copy()
    handed_in = before.truth_submitted.copy()
    for student, (slot, score) in changed.items():
        place = list(before.students).index(student)
        truth[place, slot] = score
        handed_in[place, slot] = score > 0
    now = later(replace(before, truth=truth, truth_submitted=handed_in), 57.0)
    return now, before, forecasts(before)


def unbroken(class_panel: Panel) -> list[str]:
    """Students who handed in everything and scored well."""
    good = (class_panel.submitted[:, class_panel.past] > 0).all(axis=1) & (
        class_panel.score[:, class_panel.past] > 55
    ).all(axis=1)
    return list(class_panel.students[good])


def test_a_score_far_outside_its_band_is_an_anomaly_with_its_expectation(reference):
    student = unbroken(week(50)[1])[0]
    now, before, frame = week(50, **{student: (3, 1.0)})
    rows = anomalies([now], [before], frame, reference)
    assert list(rows) == list(ANOMALIES)
    (row,) = rows[(rows["student_id"] == student) & (rows["kind"] == Kind.SCORE)].itertuples()
    assert row.observed == 1.0 and row.low <= row.expected <= row.high and row.low > 1.0
    assert row.says == "score far lower than forecast"
    assert row.assignment_id == "new-a3"


def test_activity_that_stops_is_an_anomaly(reference):
    now, before, frame = week(51)
    features = now.features.copy()
    column = now.feature_names.index("activity_last_7")
    features[3, column + 1] -= features[3, column]
    features[3, column] = 0
    rows = anomalies([replace(now, features=features)], [before], frame, reference)
    (row,) = rows[rows["kind"] == Kind.ACTIVITY].itertuples()
    assert row.student_id == now.students[3]
    assert row.observed == 0 and row.expected > 10


def test_rest_of_the_whole_class_is_no_anomaly(reference):
    now, before, frame = week(52)
    features = now.features.copy()
    features[:, now.feature_names.index("activity_last_28")] -= features[
        :, now.feature_names.index("activity_last_7")
    ]
    features[:, now.feature_names.index("activity_last_7")] = 0
    rows = anomalies([replace(now, features=features)], [before], frame, reference)
    assert not (rows["kind"] == Kind.ACTIVITY).any()


def test_a_miss_after_an_unbroken_row_is_an_anomaly_where_misses_are_rare():
    seen = [panel(300, seed=n, section=f"s{n}", share=0.995) for n in range(8)]
    frames = pd.concat([forecasts(class_panel, share=0.99) for class_panel in seen])
    usual = reference_of(seen, frames, truths(seen))
    before = panel(60, seed=70, section="new", share=0.9999, day=50.0)
    student = unbroken(before)[0]
    place = list(before.students).index(student)
    truth, handed_in = before.truth.copy(), before.truth_submitted.copy()
    truth[place, 3] = handed_in[place, 3] = 0
    now = later(replace(before, truth=truth, truth_submitted=handed_in), 57.0)
    frame = forecasts(before, share=0.99)
    frame.loc[frame["student_id"] == student, "submit_probability"] = 0.999
    rows = anomalies([now], [before], frame, usual)
    rhythm = rows[rows["kind"] == Kind.RHYTHM]
    assert rhythm["student_id"].tolist() == [student]
    assert rhythm["expected"].tolist() == [0.999]
    assert "after 3 assignments" in rhythm["says"].iloc[0]


def test_ordinary_weeks_seldom_raise_an_alarm(reference):
    """With nothing planted, every alarm is false: at most one week in ten may have any."""
    alarmed = 0
    for seed in range(100, 140):
        now, before, frame = week(seed)
        rows = anomalies([now], [before], frame, reference)
        alarmed += (rows["kind"] == Kind.SCORE).any()
    assert alarmed <= 10


def test_old_results_are_no_news(reference):
    student = unbroken(week(50)[1])[0]
    now, _, frame = week(50, **{student: (3, 1.0)})
    assert anomalies([now], [now], frame, reference).query("kind != 'activity'").empty


@pytest.mark.parametrize("forecast", [True, False])
def test_without_reference_or_forecasts_there_is_no_anomaly(reference, forecast):
    now, before, frame = week(53)
    rows = anomalies([now], [before], frame if forecast else frame.head(0), {})
    assert rows.empty and list(rows) == list(ANOMALIES)
    assert anomalies([], [], frame.head(0), reference).empty


def test_a_student_or_assignment_that_is_new_breaks_nothing(reference):
    now, before, frame = week(54)
    fewer = replace(
        before,
        students=before.students[2:],
        score=before.score[2:, :-1],
        assignments=before.assignments[:-1],
    )
    assert np.isfinite(anomalies([now], [fewer], frame, reference)["p"]).all()
