"""One small ensemble, and what else can serve, fitted once for all tests of explanations."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from grade_ml.core.resampling import Improvement
from grade_ml.ensemble import pooled
from grade_ml.ensemble.baseline import BaselineModel, Members
from grade_ml.ensemble.course import Correction, CourseModel
from grade_ml.ensemble.encoding import Encoder
from grade_ml.ensemble.pooled import PooledModel
from grade_ml.ensemble.rows import COLLECTED, NAIVE
from grade_ml_tests.ensemble.quick import quick
from grade_ml_tests.ensemble.snapshots import NOISE, snapshots
from grade_ml_tests.factories import PSEUDONYMS

Data = tuple[pd.DataFrame, pd.DataFrame]


@pytest.fixture(scope="session")
def data() -> Data:
    """Snapshots of six sections and their outcomes."""
    return snapshots(students=40, weeks=4)


@pytest.fixture(scope="session")
def ensemble(data: Data) -> PooledModel:
    return pooled.fit(*data, seed=0, pseudonyms=PSEUDONYMS, parameters=quick())


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
def plain(data: Data, ensemble: PooledModel) -> BaselineModel:
    """A baseline of few small trees: its own fit takes longer than all these tests."""
    from sklearn.ensemble import (
        ExtraTreesClassifier,
        ExtraTreesRegressor,
        HistGradientBoostingClassifier,
        HistGradientBoostingRegressor,
    )

    rows, truth = data
    known = rows.merge(truth, on=["section_id", "student_id"])
    encoder = Encoder.fit(rows, ["progress", COLLECTED, NAIVE, *NOISE[:6]], ["course_id"])
    matrix = encoder.transform(known)
    few = {"max_iter": 8, "max_leaf_nodes": 6, "random_state": 0}
    to_come = (known["final_grade"] - known[COLLECTED]).to_numpy()
    at_risk = known["at_risk"].to_numpy(bool)
    grade = [
        HistGradientBoostingRegressor(**few),
        HistGradientBoostingRegressor(**few, loss="absolute_error"),
        ExtraTreesRegressor(5, max_depth=5, random_state=0),
    ]
    risk = [
        HistGradientBoostingClassifier(**few),
        ExtraTreesClassifier(5, max_depth=5, random_state=0),
    ]
    members = Members(
        [member.fit(matrix, to_come) for member in grade],
        [member.fit(matrix, at_risk) for member in risk],
        0.3,
    )
    calibration, evaluation = ensemble.calibration, ensemble.evaluation
    return BaselineModel(encoder, members, calibration, ("section 0",), evaluation, 0)


@pytest.fixture(scope="session")
def unseen() -> pd.DataFrame:
    """Rows of students whom no model has seen, with gaps and a course of another name."""
    rows, _ = snapshots(sections=2, students=30, weeks=4, seed=9)
    random = np.random.default_rng(1)
    rows.loc[random.random(len(rows)) < 0.2, "grade_rate_so_far"] = np.nan
    rows.loc[random.random(len(rows)) < 0.2, "course_grade_mean"] = 55.0
    rows["course_id"] = rows["course_id"].astype(object).replace("course 1", "never seen")
    return rows
