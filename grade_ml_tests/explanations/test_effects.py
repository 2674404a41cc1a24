"""Accumulated local effects of a model whose effect is known."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pandas as pd
import pytest

from grade_ml.ensemble.evaluation import Evaluation
from grade_ml.explanations.effects import effect


@dataclass
class Line:
    """Adds two points for each unit of x, and the square of y."""

    sections: tuple[str, ...] = ()
    features: tuple[str, ...] = ("x", "y")
    evaluation: Evaluation = field(default=None)  # type: ignore[assignment]

    def predict(self, rows: pd.DataFrame) -> pd.DataFrame:
        grade = 2 * rows["x"].fillna(0.0) + rows["y"] ** 2
        return pd.DataFrame({"grade": grade, "risk": 0.5 - rows["x"].fillna(0.0) / 100})


@pytest.fixture
def rows() -> pd.DataFrame:
    random = np.random.default_rng(0)
    x = random.uniform(0, 10, 500)
    # y goes along with x, which would mislead partial dependence.
    return pd.DataFrame({"x": x, "y": x + random.normal(0, 0.1, 500), "name": "a"})


def test_a_linear_effect_is_estimated_although_features_are_correlated(rows):
    curve = effect(Line(), rows, "x")
    assert curve is not None and curve.rows == 500
    slopes = np.diff(curve.grade) / np.diff(curve.edges)
    np.testing.assert_allclose(slopes, 2, atol=1e-6)
    np.testing.assert_allclose(np.diff(curve.risk) / np.diff(curve.edges), -0.01, atol=1e-9)


def test_missing_values_are_left_out_and_odd_features_have_none(rows):
    gaps = rows.assign(x=rows["x"].where(rows.index < 100))
    curve = effect(Line(), gaps, "x")
    assert curve is not None and curve.rows == 100
    for name in ("name", "not there"):
        assert effect(Line(), rows, name) is None
    assert effect(Line(), rows.assign(x=1.0), "x") is None
    assert effect(Line(), rows.assign(x=np.nan), "x") is None
