"""Interactions are symmetric, their rows are the contributions, and pairs are named."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from grade_ml.ensemble.members import Task
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
    told = explain(model, few)
    parts = told.grade if task is Task.GRADE else told.risk
    assert features == told.features
    np.testing.assert_allclose(pairs.sum(axis=2), parts.contributions, atol=1e-6)
    np.testing.assert_allclose(pairs, pairs.transpose(0, 2, 1), atol=1e-3)
    (first, second, amount), *_ = largest_pairs(features, pairs[0], 3)
    assert first != second and amount


def test_without_shap_it_says_so():
    code = (
        "import sys; sys.modules['shap'] = None\n"
        "import numpy as np\n"
        "from grade_ml.core.errors import NotReadyError\n"
        "from grade_ml.explanations.interactions import _by_shap\n"
        "try: _by_shap(None, np.zeros((1, 1)))\n"
        "except NotReadyError as error: print(error)"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "grade-ml[explain]" in ran.stdout
