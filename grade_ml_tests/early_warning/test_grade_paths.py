"""Paths of the running grade: what they must hold with any forecasts."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from grade_ml.early_warning.grade_paths import (
    KEY,
    PATHS,
    Curve,
    PathModel,
    grade_paths,
    simulate,
    standing,
    true_paths,
    truths,
)
from grade_ml.forecasting.distribution import ScoreDistributions
from grade_ml_tests.early_warning.made import forecasts, panel, single

BOUNDS = ["low95", "low80", "high80", "high95"]


@pytest.fixture(scope="module")
def section():
    return panel()


@pytest.fixture(scope="module")
def paths(section):
    return grade_paths(forecasts(section), standing([section]), PathModel())


def test_a_path_has_a_row_for_each_week_with_work_and_holds_its_bounds(section, paths):
    assert list(paths)[: len(PATHS)] == list(PATHS)
    assert len(paths) == len(section.students) * len(section.remaining)
    assert sorted(paths["week"].unique()) == [9, 11, 13]
    grades = paths[["low95", "low80", "mean", "high80", "high95"]]
    assert ((grades >= 0) & (grades <= 100)).all().all()
    ordered = paths[BOUNDS].to_numpy()
    assert (np.diff(ordered, axis=1) >= 0).all()
    chances = paths[["below_pass_probability", "missed_probability"]]
    assert ((chances >= 0) & (chances <= 1)).all().all()


def test_the_mean_is_that_of_the_forecasts_and_what_is_settled():
    frame, state = single([0.9, 0.5], [80.0, 60.0], settled_weight=40.0, settled_points=30.0)
    frame["weight"] = [30.0, 30.0]
    last = simulate(frame, state, 0.4).iloc[-1]
    assert last["mean"] == pytest.approx(30 + 0.3 * 72 + 0.3 * 30, abs=0.7)
    first = simulate(frame, state, 0.4).iloc[0]
    assert first["mean"] == pytest.approx(100 * (30 + 0.3 * 72) / 70, abs=0.7)
    assert first["missed_probability"] == pytest.approx(0.1, abs=0.01)


def test_what_is_certain_is_certain():
    frame, state = single([1.0], [80.0], settled_weight=50.0, settled_points=50.0)
    frame["weight"] = 50.0
    (row,) = simulate(frame, state, 0.4).itertuples()
    assert row.low95 == row.high95 == pytest.approx(90.0)
    assert row.below_pass_probability == row.missed_probability == 0


def test_dependence_widens_the_sum_and_leaves_each_score_alone():
    frame, state = single([0.7, 0.7, 0.7, 0.7], [70.0] * 4)
    frame["weight"] = 20.0
    free, bound = (simulate(frame, state, dependence) for dependence in (0.0, 0.9))
    width = [path["high80"].iloc[-1] - path["low80"].iloc[-1] for path in (free, bound)]
    assert width[1] > 1.3 * width[0]
    assert bound["missed_probability"].iloc[0] == pytest.approx(0.3, abs=0.05)


def test_a_path_depends_on_its_own_enrollment_alone(section, paths):
    frame, state = forecasts(section), standing([section])
    sample = frame[frame["student_id"].isin(section.students[5:9])]
    alone = grade_paths(sample.sample(frac=1, random_state=1), state, PathModel())
    among = paths[paths["student_id"].isin(section.students[5:9])].reset_index(drop=True)
    pd.testing.assert_frame_equal(alone, among)


def test_another_seed_changes_little(section):
    frame, state = forecasts(section), standing([section])
    first, other = (simulate(frame, state, 0.4, seed) for seed in (1, 2))
    assert not first.equals(other)
    assert (first["mean"] - other["mean"]).abs().max() < 4


def test_assignments_without_weight_leave_no_grade_and_no_alarm():
    frame, state = single([0.9, 0.9], [80.0, 80.0], settled_weight=0.0, settled_points=0.0)
    frame["weight"] = [0.0, 50.0]
    rows = simulate(frame, state, 0.4)
    assert np.isnan(rows["mean"].iloc[0]) and np.isfinite(rows["mean"].iloc[1])
    assert rows["below_pass_probability"].iloc[0] == 0


def test_nothing_to_forecast_gives_an_empty_path(section):
    empty = forecasts(section).head(0)
    assert grade_paths(empty, standing([section]), PathModel()).empty
    assert standing([]).empty
    assert true_paths(empty, truths([]), standing([])).empty


def test_truths_that_are_not_known_do_not_count(section):
    truth = section.truth.copy()
    truth[0, -1] = np.nan
    short = replace(section, truth=truth)
    happened = true_paths(forecasts(section), truths([short]), standing([section]))
    of_first = happened[happened["student_id"] == section.students[0]]
    assert len(of_first) == len(section.remaining) - 1
    # What is unknown of one enrollment takes nothing from those after it.
    assert len(happened) == len(section.students) * len(section.remaining) - 1
    assert (happened["grade"].between(0, 100)).all()


def test_curves_and_dependence_are_learned_and_calibrate():
    seen = [panel(120, seed=n, section=f"s{n}") for n in range(8)]
    frame = pd.concat([forecasts(class_panel, share=0.95) for class_panel in seen])
    state, truth = standing(seen), truths(seen)
    model = PathModel.fit(frame, truth, state)
    assert model.uncalibrated == ()
    assert model.dependence > 0
    new = [panel(200, seed=n, section=f"n{n}") for n in range(20, 24)]
    unseen = pd.concat([forecasts(class_panel, share=0.95) for class_panel in new])
    happened = true_paths(unseen, truths(new), standing(new))
    predicted = grade_paths(unseen, standing(new), model).merge(happened, on=[*KEY, "week"])
    # The forecasts state that 5% are missed, about 23% are.
    assert predicted["missed_probability"].mean() == pytest.approx(
        predicted["missed"].mean(), abs=0.04
    )
    assert PathModel.fit(frame, truth, state) == model


def test_too_few_cases_teach_no_curve(section):
    model = PathModel.fit(forecasts(section).head(9), truths([section]), standing([section]))
    assert model.below_pass == model.missed == Curve()
    assert len(model.uncalibrated) == 2


@settings(max_examples=60, deadline=None)
@given(
    slope=st.floats(0, 5),
    intercept=st.floats(-5, 5),
    chances=st.lists(st.floats(0, 1), min_size=2, max_size=20),
)
def test_a_curve_keeps_chances_in_bounds_and_order(slope, intercept, chances):
    ordered = np.sort(np.array(chances))
    probabilities = Curve(slope, intercept).apply(ordered)
    assert ((probabilities >= 0) & (probabilities <= 1)).all()
    assert (np.diff(probabilities) >= 0).all()


@settings(max_examples=80, deadline=None)
@given(
    bounds=st.lists(st.floats(0, 100), min_size=5, max_size=5),
    submit=st.floats(0, 1),
    mean=st.floats(0, 100),
    levels=st.lists(st.floats(0, 1), min_size=2, max_size=9),
)
def test_a_distribution_rises_within_bounds_whatever_is_stated(bounds, submit, mean, levels):
    stated = dict(
        zip(["low95", "low80", "median", "high80", "high95"], sorted(bounds), strict=True)
    )
    frame = pd.DataFrame([{**stated, "submit_probability": submit, "mean": mean}])
    score = ScoreDistributions.of(frame).quantile(np.sort(np.array([levels])))
    assert ((score >= 0) & (score <= 100)).all()
    assert (np.diff(score) >= -1e-9).all()


def test_a_distribution_has_the_stated_mean_where_quantiles_allow(section):
    frame = forecasts(section)
    level = np.tile((np.arange(2000) + 0.5) / 2000, (len(frame), 1))
    drawn = ScoreDistributions.of(frame).quantile(level).mean(axis=1)
    assert np.abs(drawn - frame["mean"]).mean() < 1.5


@given(
    weights=st.lists(st.floats(0.01, 1), min_size=1, max_size=7),
    value=st.sampled_from([100.0, 99.99999999999999, 0.0]),
    settled=st.floats(0, 60),
)
@settings(max_examples=40)
def test_a_perfect_and_an_empty_record_stay_within_the_bounds(weights, value, settled):
    frame, state = single(
        [1.0] * len(weights),
        [value] * len(weights),
        settled_weight=settled,
        settled_points=settled * value / 100,
    )
    frame["weight"] = (100 - settled) * np.array(weights) / sum(weights)
    predicted = grade_paths(frame, state, PathModel())
    grades = predicted[["low95", "low80", "mean", "high80", "high95"]].to_numpy()
    assert ((grades >= 0) & (grades <= 100)).all()
    assert grades == pytest.approx(value, abs=1e-9)


@given(st.lists(st.floats(0, 1), min_size=2, max_size=30))
@settings(max_examples=40)
def test_no_drawn_score_leaves_the_bounds(levels):
    frame, _ = single([1.0, 0.7, 1.0], [100.0, 99.3, 0.0])
    scores = ScoreDistributions.of(frame).quantile(np.array([levels] * 3))
    assert scores.min() >= 0 and scores.max() <= 100
