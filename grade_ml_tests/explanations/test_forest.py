"""The forest's contributions are the Shapley values of their definition."""

from __future__ import annotations

from itertools import combinations
from math import factorial

import numpy as np
import pytest

from grade_ml.ensemble.members import Task
from grade_ml.ensemble.members.forest import Forest
from grade_ml.explanations.forest import _reference, contributions

pytest.importorskip("numba")
COLUMNS = 4


@pytest.fixture(scope="module", params=list(Task))
def fitted(request: pytest.FixtureRequest) -> tuple[Forest, np.ndarray]:
    random = np.random.default_rng(0)
    matrix = random.normal(size=(200, COLUMNS)).astype(np.float32)
    signal = matrix[:, 0] * matrix[:, 1] + matrix[:, 2]
    matrix[random.random(matrix.shape) < 0.1] = np.nan
    target = 10 * signal if request.param is Task.GRADE else (signal > 0).astype(float)
    weight = np.ones(len(matrix))
    defaults = Forest.defaults(request.param)
    member = Forest.fit(
        matrix, np.nan_to_num(target), weight, request.param, defaults, seed=0, threads=1
    )
    return member, matrix


def test_rows_add_up(fitted: tuple[Forest, np.ndarray]):
    member, matrix = fitted
    shares = contributions(member, matrix)
    np.testing.assert_allclose(shares.sum(axis=1), member.predict(matrix), atol=1e-9)
    assert np.ptp(shares[:, -1]) == 0
    np.testing.assert_array_equal(shares[:5], contributions(member, matrix[:5]))


def test_each_is_the_shapley_value_by_every_coalition(fitted: tuple[Forest, np.ndarray]):
    member, matrix = fitted
    usual = _reference([tree.tree_ for tree in member.forest.estimators_], COLUMNS)
    sample = matrix[:20]

    def worth(known: tuple[int, ...]) -> np.ndarray:
        mixed = np.tile(usual, (len(sample), 1))
        mixed[:, list(known)] = sample[:, list(known)]
        return member.predict(mixed)

    for column in range(COLUMNS):
        others = [place for place in range(COLUMNS) if place != column]
        expected = np.zeros(len(sample))
        for size in range(COLUMNS):
            share = factorial(size) * factorial(COLUMNS - size - 1) / factorial(COLUMNS)
            for known in combinations(others, size):
                expected += share * (worth((*known, column)) - worth(known))
        np.testing.assert_allclose(contributions(member, sample)[:, column], expected, atol=1e-9)
