"""Paths: every answer is that of the tree, and the last line is what the tree predicts."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from grade_ml.ensemble.members import Member, Task
from grade_ml.ensemble.members.forest import Forest
from grade_ml.ensemble.members.lightgbm import LightGBM
from grade_ml.ensemble.members.xgboost import XGBoost
from grade_ml.ensemble.pooled import PooledModel, Workload, default_parameters
from grade_ml.ensemble.stacking import Stack
from grade_ml.explanations.decision_paths import Path, Step, Surrogate, member_paths


def is_right(step: Step) -> bool:
    """Whether the answer is that of the value."""
    if step.threshold is None and not step.categories:
        return step.below == (step.value is None)
    if step.value is None:
        return True
    if isinstance(step.threshold, float) and step.threshold < -300:
        return False  # it stands for missing values, and is no question
    if step.threshold is None:
        return step.value in step.categories
    assert isinstance(step.value, float)
    if step.inclusive:
        return (step.value <= step.threshold) == step.below
    return (step.value < step.threshold) == step.below


@pytest.fixture(scope="module")
def fitted(ensemble: PooledModel, data) -> dict[str, Member]:
    """One of each member with readable trees, fitted for a few rounds."""
    rows = data[0].merge(data[1], on=["section_id", "student_id"])
    load = Workload.of(Task.GRADE, rows, ensemble.parts[Task.GRADE].encoders)
    everything = np.ones(len(rows), bool)
    members = {}
    for kind in (XGBoost, LightGBM, Forest):
        values = default_parameters()[Task.GRADE][kind.name]
        few = values | {name: 25 for name in ("rounds",) if name in values}
        members[kind.name] = load.fit(kind, everything, few, 0)
    return members


@pytest.mark.parametrize("name", ["xgboost", "lightgbm", "random_forest"])
def test_a_path_through_a_member_ends_where_its_tree_ends(
    name: str, fitted: dict[str, Member], ensemble: PooledModel, unseen: pd.DataFrame
):
    part = ensemble.parts[Task.GRADE]
    stack = Stack((name,), (0.5,), np.ones((1, 1)), np.zeros(1))
    alone = replace(part, members={name: fitted[name]}, stack=stack)
    paths = member_paths(alone, unseen)
    assert paths is not None and len(paths) == len(unseen)
    assert all(is_right(step) for path in paths for step in path.steps)
    assert all(path.steps and path.tree.startswith(name) for path in paths)
    # Two students whose answers are the same hear the same.
    predictions: dict[object, float] = {}
    for path in paths:
        key = (path.tree, tuple((s.feature, s.threshold, s.below) for s in path.steps))
        assert predictions.setdefault(key, path.predicted) == path.predicted
    assert Path.from_dict(json.loads(paths[0].to_json())) == paths[0]


def test_no_readable_member_has_no_path(ensemble: PooledModel, unseen: pd.DataFrame):
    part = ensemble.parts[Task.GRADE]
    stack = Stack(("points_so_far",), (0.5,), np.ones((1, 1)), np.zeros(1))
    assert member_paths(replace(part, members={}, stack=stack), unseen) is None


def test_the_surrogate_imitates_the_model_on_students_it_had_not_seen(
    ensemble: PooledModel, data, unseen: pd.DataFrame
):
    rows = data[0]
    grade = ensemble.predict(rows)["grade"].to_numpy(float)
    encoder = next(iter(ensemble.parts[Task.GRADE].encoders.values()))
    surrogate = Surrogate.fit(rows, grade, encoder, seed=0)
    assert surrogate is not None and surrogate.fidelity > 0.6
    paths = list(surrogate.paths(unseen))
    assert all(1 <= len(path.steps) <= 4 for path in paths)
    assert all(is_right(step) for path in paths for step in path.steps)
    error = np.array([path.predicted for path in paths]) - ensemble.predict(unseen)["grade"]
    assert np.abs(error).mean() < 15
    again = Surrogate.fit(rows, grade, encoder, seed=0)
    assert again is not None and list(again.paths(unseen)) == paths
    assert Surrogate.fit(rows.head(20), grade[:20], encoder, seed=0) is None
