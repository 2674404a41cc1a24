"""The model as a whole: what it forecasts for running enrollments, and that it stays so."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from pandera.errors import SchemaErrors

from grade_ml.core.errors import ArtifactError, NotReadyError
from grade_ml.core.frames import reasons, sound
from grade_ml.forecasting.contract import ACTIVITY, schema
from grade_ml.forecasting.trajectory import Trajectory, fit
from grade_ml_tests.forecasting.campus import (
    LIGHT,
    TODAY,
    campus_forecasts,
    ended,
    fitted,
    frames,
    running,
)


def test_every_running_enrollment_and_remaining_assignment_has_one_row():
    assert sound(campus_forecasts().forecasts, schema())[1].empty
    expected = sum(panel.shape[0] * panel.shape[1] for panel in running())
    rows = campus_forecasts().forecasts
    assert len(rows) == expected > 0
    assert not rows.duplicated(["section_id", "student_id", "assignment_id"]).any()
    assert set(rows["method"]) <= {str(method) for method in LIGHT}


def test_activity_is_forecast_for_the_weeks_to_come():
    assert sound(campus_forecasts().activity, schema(ACTIVITY))[1].empty
    rows = campus_forecasts().activity
    weeks = {panel.section_id: (panel.day // 7, -(-panel.length // 7)) for panel in running()}
    for section, weekly in rows.groupby("section_id"):
        now, last = weeks[section]
        assert weekly["week"].min() == now + 1 and weekly["week"].max() == last
    assert (rows["low80"] <= rows["mean"]).all() and (rows["mean"] <= rows["high80"]).all()


def test_the_same_seed_forecasts_the_same():
    again = fit(ended(), frames()[1], seed=5, offered=LIGHT).model
    other = again.forecast(running(), frames()[1], TODAY)
    pd.testing.assert_frame_equal(campus_forecasts().forecasts, other.forecasts)


def test_a_loaded_model_forecasts_the_same(tmp_path: Path):
    fitted().model.save(tmp_path)
    again = Trajectory.load(tmp_path).forecast(running(), frames()[1], TODAY)
    pd.testing.assert_frame_equal(campus_forecasts().forecasts, again.forecasts)
    pd.testing.assert_frame_equal(campus_forecasts().activity, again.activity)


def test_an_empty_folder_is_no_model(tmp_path: Path):
    with pytest.raises(ArtifactError, match="no trajectory model"):
        Trajectory.load(tmp_path)


def test_a_model_of_an_earlier_version_is_not_read(tmp_path: Path):
    fitted().model.save(tmp_path)
    file = tmp_path / "trajectory.json"
    kept = json.loads(file.read_text())
    del kept["combination"]["parts"]
    file.write_text(json.dumps(kept))
    with pytest.raises(ArtifactError, match="weighs other things"):
        Trajectory.load(tmp_path)


def test_nothing_to_learn_from_is_reported():
    blind = [
        replace(panel, truth=panel.truth * np.nan, truth_submitted=panel.truth * np.nan)
        for panel in ended()
    ]
    with pytest.raises(NotReadyError, match="no ended section"):
        fit(blind, frames()[1], seed=0, offered=LIGHT)


def test_no_student_to_forecast_is_an_empty_frame():
    nothing = fitted().model.forecast([], frames()[1].head(0), TODAY)
    assert sound(nothing.forecasts, schema())[1].empty
    assert nothing.forecasts.empty and nothing.activity.empty


def test_a_course_without_activity_has_none():
    without = frames()[1].drop(columns=["activity_last_7"])
    assert (
        fit(ended(), without, seed=5, offered=LIGHT[:2])
        .model.forecast(running(), without, TODAY)
        .activity.empty
    )


def test_a_moved_assignment_is_forecast_at_its_new_place():
    panel = running()[0]
    place = panel.remaining
    moved_due = panel.due_day.copy()
    moved_due[place[0]] += 1
    moved = (
        fitted().model.forecast([replace(panel, due_day=moved_due)], frames()[1], TODAY).forecasts
    )
    named = moved[moved["assignment_id"] == panel.assignments[place[0]]]
    assert (named["due_day"] == moved_due[place[0]]).all()


def test_fallbacks_in_training_and_forecasting_are_counted():
    assert any(reason.startswith("local: fewer") for reason in fitted().model.fallbacks)
    assert all(number > 0 for number in campus_forecasts().fallbacks.values())


@pytest.mark.slow
def test_all_forecasters_together_are_better_than_the_naive_on_a_term_they_have_not_seen():
    from grade_ml.campus import simulated
    from grade_ml.training.backtest import without_terms
    from grade_ml.training.forecast_backtest import backtest_forecasts

    config = simulated.CampusConfig(students=150, courses=3, terms=4, seed=1)
    gradebook = simulated.gradebook(config, TODAY)
    ended_terms = gradebook.sections.groupby("term_id")["ends_on"].max()
    *train, test = sorted(ended_terms.index[ended_terms < pd.Timestamp(TODAY)])
    report = backtest_forecasts(without_terms(gradebook, [test]), gradebook, train, [test])
    naive = [report.methods[name] for name in ("last", "mean")]
    assert report.figures["all"]["rmse"] < min(method_figures["rmse"] for method_figures in naive)
    assert report.figures["all"]["mae"] < min(method_figures["mae"] for method_figures in naive)
    assert {"boosted", "prophet", "local"} <= set(report.methods)
    assert len({"lstm", "gru"} & set(report.methods)) == 1
    assert not report.degraded
    assert 0.7 < report.figures["all"]["coverage80"] < 0.9
    figures = report.to_dict()
    assert {"all", "0.5", "h1", "methods", "seconds"} <= set(figures)
    assert {"mae", "rmse", "crps", "submit_brier", "coverage80"} <= set(figures["h1"])


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("mean", np.nan),
        ("mean", 100.1),
        ("submit_probability", -0.1),
        ("low95", 100.0),
        ("weight", np.inf),
    ],
)
def test_what_is_wrong_with_one_enrollment_costs_the_others_nothing(column, value):
    rows = campus_forecasts().forecasts.copy()
    odd = rows[["section_id", "student_id"]].iloc[len(rows) // 2]
    rows.loc[len(rows) // 2, column] = value
    kept, left_out = sound(rows, schema())
    is_odd = (rows[["section_id", "student_id"]] == odd).all(axis=1)
    pd.testing.assert_frame_equal(kept, rows[~is_odd].reset_index(drop=True))
    assert set(reasons(left_out).values()) == {1}
    assert all(odd["student_id"] not in reason for reason in reasons(left_out))


def test_another_type_is_no_matter_of_one_enrollment():
    with pytest.raises(SchemaErrors):
        sound(campus_forecasts().forecasts.astype({"mean": "float32"}), schema())
