"""The model as a whole: what it says of running enrollments, and that it keeps saying it."""

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
from grade_ml_tests.forecasting.campus import LIGHT, TODAY, ended, fitted, frames, running, said


def test_every_running_enrollment_and_remaining_assignment_has_one_row():
    assert sound(said().forecasts, schema())[1].empty
    expected = sum(one.shape[0] * one.shape[1] for one in running())
    rows = said().forecasts
    assert len(rows) == expected > 0
    assert not rows.duplicated(["section_id", "student_id", "assignment_id"]).any()
    assert set(rows["method"]) <= {str(method) for method in LIGHT}


def test_activity_is_forecast_for_the_weeks_to_come():
    assert sound(said().activity, schema(ACTIVITY))[1].empty
    rows = said().activity
    weeks = {one.section_id: (one.day // 7, -(-one.length // 7)) for one in running()}
    for section, some in rows.groupby("section_id"):
        now, last = weeks[section]
        assert some["week"].min() == now + 1 and some["week"].max() == last
    assert (rows["low80"] <= rows["mean"]).all() and (rows["mean"] <= rows["high80"]).all()


def test_the_same_seed_says_the_same():
    again = fit(ended(), frames()[1], seed=5, offered=LIGHT).model
    other = again.forecast(running(), frames()[1], TODAY)
    pd.testing.assert_frame_equal(said().forecasts, other.forecasts)


def test_a_kept_model_says_what_it_said(tmp_path: Path):
    fitted().model.save(tmp_path)
    again = Trajectory.load(tmp_path).forecast(running(), frames()[1], TODAY)
    pd.testing.assert_frame_equal(said().forecasts, again.forecasts)
    pd.testing.assert_frame_equal(said().activity, again.activity)


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


def test_nothing_to_learn_from_is_said():
    blind = [
        replace(one, truth=one.truth * np.nan, truth_submitted=one.truth * np.nan)
        for one in ended()
    ]
    with pytest.raises(NotReadyError, match="no ended section"):
        fit(blind, frames()[1], seed=0, offered=LIGHT)


def test_nobody_to_forecast_is_an_empty_frame():
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
    one = running()[0]
    place = one.remaining
    moved_due = one.due_day.copy()
    moved_due[place[0]] += 1
    moved = fitted().model.forecast([replace(one, due_day=moved_due)], frames()[1], TODAY).forecasts
    named = moved[moved["assignment_id"] == one.assignments[place[0]]]
    assert (named["due_day"] == moved_due[place[0]]).all()


def test_fallbacks_in_training_and_forecasting_are_counted():
    assert any(reason.startswith("local: fewer") for reason in fitted().model.fallbacks)
    assert all(number > 0 for number in said().fallbacks.values())


@pytest.mark.slow
def test_all_forecasters_together_beat_the_naive_ones_on_a_term_they_have_not_seen():
    from grade_ml.campus import simulated
    from grade_ml.training.backtest import without_terms
    from grade_ml.training.forecast_backtest import backtest_forecasts

    config = simulated.CampusConfig(students=150, courses=3, terms=4, seed=1)
    gradebook = simulated.gradebook(config, TODAY)
    ended_terms = gradebook.sections.groupby("term_id")["ends_on"].max()
    *train, test = sorted(ended_terms.index[ended_terms < pd.Timestamp(TODAY)])
    report = backtest_forecasts(without_terms(gradebook, [test]), gradebook, train, [test])
    naive = [report.methods[name] for name in ("last", "mean")]
    assert report.figures["all"]["rmse"] < min(one["rmse"] for one in naive)
    assert report.figures["all"]["mae"] < min(one["mae"] for one in naive)
    assert {"boosted", "prophet", "local"} <= set(report.methods)
    assert len({"lstm", "gru"} & set(report.methods)) == 1
    assert not report.degraded
    assert 0.7 < report.figures["all"]["coverage80"] < 0.9
    told = report.to_dict()
    assert {"all", "0.5", "h1", "methods", "seconds"} <= set(told)
    assert {"mae", "rmse", "crps", "submit_brier", "coverage80"} <= set(told["h1"])


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
    rows = said().forecasts.copy()
    odd = rows[["section_id", "student_id"]].iloc[len(rows) // 2]
    rows.loc[len(rows) // 2, column] = value
    kept, left_out = sound(rows, schema())
    is_odd = (rows[["section_id", "student_id"]] == odd).all(axis=1)
    pd.testing.assert_frame_equal(kept, rows[~is_odd].reset_index(drop=True))
    assert set(reasons(left_out).values()) == {1}
    assert all(odd["student_id"] not in one for one in reasons(left_out))


def test_another_type_is_no_matter_of_one_enrollment():
    with pytest.raises(SchemaErrors):
        sound(said().forecasts.astype({"mean": "float32"}), schema())
