"""Interactions are symmetric, their rows are the contributions, and pairs are named."""

from __future__ import annotations

import sys
from dataclasses import replace

import numpy as np
import pytest

from grade_ml.core.errors import NotReadyError
from grade_ml.ensemble.members import Task
from grade_ml.ensemble.members.contract import Member
from grade_ml.ensemble.members.forest import Forest
from grade_ml.ensemble.members.mlp import Perceptron
from grade_ml.ensemble.pooled import PooledModel
from grade_ml.explanations.attribution import explain
from grade_ml.explanations.interactions import interactions, largest_pairs


@pytest.mark.parametrize("name", ["ensemble", "of_course"])
@pytest.mark.parametrize("task", list(Task))
def test_pairs_are_symmetric_and_their_rows_are_the_contributions(
    name: str, task: Task, unseen, request: pytest.FixtureRequest
):
    pytest.importorskip("shap")
    model, few = request.getfixturevalue(name), unseen.head(6)
    features, pairs = interactions(model, few, task)
    explained = explain(model, few)
    parts = explained.grade if task is Task.GRADE else explained.risk
    assert features == explained.features
    np.testing.assert_allclose(pairs.sum(axis=2), parts.contributions, atol=1e-6)
    np.testing.assert_allclose(pairs, pairs.transpose(0, 2, 1), atol=1e-3)
    (first, second, amount), *_ = largest_pairs(features, pairs[0], 3)
    assert first != second and amount


@pytest.mark.parametrize("missing", ["shap", "lightgbm"])
def test_without_interactions_the_error_gives_the_reason(
    ensemble: PooledModel, unseen, monkeypatch: pytest.MonkeyPatch, missing: str
) -> None:
    """A library is not installed, or only the network has weight."""
    part = ensemble.parts[Task.GRADE]
    explained = explain(ensemble, unseen.head(1))

    def interactions_of(member: Member) -> tuple[object, object]:
        alone = replace(part, members={member.name: member})
        model = replace(ensemble, parts={**ensemble.parts, Task.GRADE: alone})
        return interactions(model, unseen.head(1), Task.GRADE, explained)

    forest = part.members[Forest.name]
    assert isinstance(forest, Forest)
    monkeypatch.setitem(sys.modules, missing, None)
    # Its trees as LightGBM's are not made yet.
    with pytest.raises(NotReadyError, match=f"{missing}.*explain"):
        interactions_of(Forest(forest.task, forest.forest))
    with pytest.raises(NotReadyError, match="comes from mlp alone"):
        interactions_of(part.members[Perceptron.name])
