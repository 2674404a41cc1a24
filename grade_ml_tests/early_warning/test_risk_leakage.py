"""What is dated after the day changes no result for the day."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np
import pandas as pd

from grade_ml.early_warning.anomalies import anomalies
from grade_ml.early_warning.grade_paths import grade_paths, results_so_far, standing
from grade_ml.early_warning.risk_model import RiskModel
from grade_ml.early_warning.risk_periods import risk_periods
from grade_ml.forecasting.contract import Panel
from grade_ml_tests.early_warning.made import forecasts, later, panel


@cache
def model() -> RiskModel:
    seen = [panel(80, seed=n, section=f"s{n}", started_on=19_000 + 300 * n) for n in range(4)]
    return RiskModel.fit(pd.concat([forecasts(class_panel) for class_panel in seen]), seen)


def computed(now: Panel, before: Panel) -> list[pd.DataFrame]:
    frame, state = forecasts(now), standing([now])
    paths = grade_paths(frame, state, model().paths)
    unusual = anomalies([now], [before], forecasts(before), model().reference)
    return [paths, risk_periods(paths), results_so_far([now]), unusual]


def test_another_future_changes_nothing():
    class_panel = panel(120, assignments=8, day=30.0, seed=9, section="new")
    random = np.random.default_rng(1)
    other = replace(
        class_panel,
        truth=np.where(
            class_panel.due_day <= 60,
            class_panel.truth,
            random.uniform(0, 100, class_panel.truth.shape),
        ),
        truth_submitted=np.where(class_panel.due_day <= 60, class_panel.truth_submitted, 1.0),
    )
    assert not np.array_equal(class_panel.truth, other.truth)
    for mine, theirs in zip(
        computed(later(class_panel, 60.0), class_panel),
        computed(later(other, 60.0), other),
        strict=True,
    ):
        pd.testing.assert_frame_equal(mine, theirs)
