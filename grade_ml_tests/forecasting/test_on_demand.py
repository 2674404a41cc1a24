"""What one student's results imply alone."""

from __future__ import annotations

import numpy as np
import pytest

from grade_ml.core.optional import installed
from grade_ml.forecasting.on_demand import alone
from grade_ml_tests.forecasting.campus import panel

NAN = float("nan")


def student(*scores: float, ahead: int = 2):
    due = [float(10 * k) for k in range(len(scores) + ahead)]
    return panel([[*scores, *[NAN] * ahead]], due, day=10.0 * len(scores) - 5)


def test_steady_results_go_on():
    answer = alone(student(60, 62, 59, 61, 60, 62))
    assert answer.forecasts["arima"] == pytest.approx([61, 61], abs=4)
    if installed("prophet"):
        assert answer.forecasts["prophet"] == pytest.approx([61, 61], abs=6)


def test_few_results_are_no_series_and_the_reason_is_given():
    answer = alone(student(60, 70))
    assert not answer.forecasts
    assert set(answer.reasons.values()) == {"fewer than 4 results"}


@pytest.mark.parametrize("scores", [(0,) * 6, (100,) * 8, (0, 100) * 5])
def test_odd_results_stay_within_bounds_or_are_reported_not_to_converge(scores: tuple[float, ...]):
    answer = alone(student(*scores))
    assert answer.forecasts.keys() | answer.reasons.keys() == {"arima", "prophet"}
    for values in answer.forecasts.values():
        assert np.isfinite(values).all() and values.min() >= 0 and values.max() <= 100
