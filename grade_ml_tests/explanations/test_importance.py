"""Importance: what it measures, how precise it is, and when its change is reported."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from grade_ml.ensemble.pooled import PooledModel
from grade_ml.explanations.importance import (
    everywhere,
    expected,
    importance,
    judged,
    phase_of,
    with_spread,
)

FEATURES = ["big", "small", "nothing"]


def contributions(rows: int = 200, seed: int = 0, big: float = 5.0) -> np.ndarray:
    random = np.random.default_rng(seed)
    return np.column_stack([random.normal(0, big, rows), random.normal(0, 1, rows), np.zeros(rows)])


def students(rows: int = 200, each: int = 1) -> np.ndarray:
    return np.repeat([f"s{place}" for place in range(rows // each)], each)


def test_importance_is_the_mean_size_and_shares_add_up():
    weighed = importance(contributions(), FEATURES, students(), seed=0)
    assert weighed["feature"].tolist() == FEATURES
    assert weighed["importance"].iloc[0] == pytest.approx(5 * np.sqrt(2 / np.pi), rel=0.15)
    assert weighed["share"].sum() == pytest.approx(1)
    assert (weighed["low"] <= weighed["importance"]).all()
    assert (weighed["importance"] <= weighed["high"]).all()


def test_rows_of_one_student_count_as_one_observation():
    once = np.repeat(contributions(40), 5, axis=0)
    apart = importance(once, FEATURES, students(200), seed=0).iloc[0]
    together = importance(once, FEATURES, students(200, each=5), seed=0).iloc[0]
    assert together["high"] - together["low"] > 1.7 * (apart["high"] - apart["low"])


def test_the_interval_holds_the_truth_as_often_as_it_states():
    truth = 5 * np.sqrt(2 / np.pi)
    held = 0
    for seed in range(200):
        row = importance(contributions(60, seed), FEATURES, students(60), seed).iloc[0]
        held += row["low"] <= truth <= row["high"]
    assert 180 <= held <= 200


def test_rows_without_a_grade_say_nothing():
    unknown = np.full((10, 3), np.nan)
    assert importance(unknown, FEATURES, students(10), seed=0).empty
    both = np.vstack([contributions(), unknown])
    weighed = importance(both, FEATURES, students(210), seed=0)
    whole = importance(contributions(), FEATURES, students(), seed=0)
    pd.testing.assert_series_equal(weighed["importance"], whole["importance"])


def reference(shares: list[float], spread: float = 0.01) -> pd.DataFrame:
    return pd.DataFrame({"feature": FEATURES, "share": shares, "spread": spread})


def test_only_a_share_that_left_its_band_beyond_chance_alarms():
    weighed = importance(contributions(), FEATURES, students(), seed=0)
    as_before = weighed.set_index("feature").loc[FEATURES, "share"].tolist()
    assert not judged(weighed, reference(as_before))["alarm"].any()
    moved = judged(weighed, reference([0.5, 0.5, 0.0])).set_index("feature")["alarm"]
    assert moved["big"] and moved["small"] and not moved["nothing"]
    wide = judged(weighed, reference([0.5, 0.5, 0.0], spread=0.3))
    assert not wide["alarm"].any()
    assert not judged(weighed, reference(as_before)[:0])["alarm"].any()


def test_all_courses_together_weigh_by_students():
    rows = pd.DataFrame(
        {
            "course_id": ["a", "a", "b", "b"],
            "task": "grade",
            "grouping": "",
            "group_name": "",
            "feature": ["x", "y", "x", "y"],
            "students": [30, 30, 10, 10],
            "importance": [4.0, 2, 8, 2],
            "low": [3.0, 1, 7, 1],
            "high": [5.0, 3, 9, 3],
        }
    )
    weighed = everywhere(rows).set_index("feature")
    assert weighed.loc["x", "importance"] == pytest.approx(5.0)
    assert weighed.loc["x", "students"] == 40
    assert weighed["share"].sum() == pytest.approx(1)
    # Independent courses: surer together than the larger of them alone.
    assert weighed.loc["x", "high"] - weighed.loc["x", "low"] < 2


@pytest.mark.parametrize(
    ("progress", "phase"), [(0, "early"), (0.5, "middle"), (0.9, "late"), (1, "late")]
)
def test_phases(progress: float, phase: str):
    assert phase_of(progress) == phase


def test_what_importance_was_in_training_terms(ensemble: PooledModel, data):
    rows = data[0][data[0]["course_id"] == "course 1"]
    usual = expected(ensemble, ensemble, rows, "middle", seed=0)
    assert usual.groupby("task")["share"].sum().tolist() == pytest.approx([1, 1])
    assert expected(ensemble, ensemble, rows.head(8), "early", seed=0).empty


def test_a_band_is_as_wide_as_students_and_fits_vary_together():
    usual = pd.DataFrame(
        {"task": "grade", "feature": ["a", "b"], "share": [0.6, 0.4], "error": [0.03, 0.02]}
    )
    fits = pd.DataFrame(
        {"task": "grade", "phase": ["late", "early"], "feature": "a", "spread": [0.04, 0.5]}
    )
    spread = with_spread(usual, fits, "late").set_index("feature")["spread"]
    assert spread.to_dict() == pytest.approx({"a": 0.05, "b": 0.02})
