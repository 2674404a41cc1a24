"""One small ensemble, and what else can serve, fitted once for all tests of explanations."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from grade_ml.ensemble import baseline, pooled
from grade_ml.ensemble.baseline import BaselineModel
from grade_ml.ensemble.course import Correction, CourseModel
from grade_ml.ensemble.pooled import PooledModel
from grade_ml.registry.promotion import Improvement
from grade_ml_tests.ensemble.quick import quick
from grade_ml_tests.ensemble.snapshots import snapshots

Data = tuple[pd.DataFrame, pd.DataFrame]


@pytest.fixture(scope="session")
def data() -> Data:
    """Snapshots of six sections and their outcomes."""
    return snapshots(students=40, weeks=4)


@pytest.fixture(scope="session")
def ensemble(data: Data) -> PooledModel:
    return pooled.fit(*data, seed=0, parameters=quick())


@pytest.fixture(scope="session")
def of_course(ensemble: PooledModel) -> CourseModel:
    """The ensemble with a correction that shifts, stretches and makes many rows hit a bound."""
    correction = Correction(
        grade=np.array([12.0, -20, 5, 0.3, -0.2, 0.1]), risk=np.array([0.5, 1, -2, 0.2, -0.3, 0.1])
    )
    gained = Improvement(0.1, 0.05, 0.2, 100, 50)
    evaluation = ensemble.evaluation
    return CourseModel("course 1", ensemble, 7, correction, ("section 1",), evaluation, gained)


@pytest.fixture(scope="session")
def plain(data: Data) -> BaselineModel:
    return baseline.fit(*data, seed=0)


@pytest.fixture(scope="session")
def unseen() -> pd.DataFrame:
    """Rows of students whom no model has seen, with gaps and a course of another name."""
    rows, _ = snapshots(sections=2, students=30, weeks=4, seed=9)
    random = np.random.default_rng(1)
    rows.loc[random.random(len(rows)) < 0.2, "grade_rate_so_far"] = np.nan
    rows.loc[random.random(len(rows)) < 0.2, "course_grade_mean"] = 55.0
    rows["course_id"] = rows["course_id"].astype(object).replace("course 1", "never seen")
    return rows
