"""Contributions to a random forest's number, fast enough for every student in each nightly run.

Exact Shapley values against one reference row (interventional TreeSHAP, Lundberg et al. 2020): a
branch is followed only if the row or the reference takes it, which for a hundred deep trees is
fifty times as quick as values that follow every branch. The reference consists of the median
thresholds of the forest, and is part of no data. Needs numba.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from math import comb
from typing import Any

import numpy as np
import numpy.typing as npt

from grade_ml.ensemble.members.contract import Matrix
from grade_ml.ensemble.members.forest import Forest

Floats = npt.NDArray[np.float64]


def contributions(member: Forest, matrix: Matrix) -> Floats:
    """Return the contribution of each column to each number: shape (rows, columns + 1).

    The last column is the reference's number; a row sums to its prediction.

    Raises
    ------
    ImportError
        numba is not installed.
    """
    walk = _walk()
    filled = member.filled(matrix)
    trees = [estimator.tree_ for estimator in member.forest.estimators_]
    reference = _reference(trees, filled.shape[1])
    total = np.zeros((len(filled), filled.shape[1]))
    for tree in trees:
        walk(
            filled,
            reference,
            tree.children_left,
            tree.children_right,
            tree.feature,
            tree.threshold,
            np.ascontiguousarray(member.values_at(tree)),
            _WEIGHTS,
            total,
        )
    total *= member.scale / len(trees)
    base = member.predict(reference[None])
    return np.hstack([total, np.full((len(filled), 1), base[0])])


def _reference(trees: list[Any], columns: int) -> Matrix:
    """Return per column the median of the thresholds, weighted by the rows at each split."""
    feature, threshold, size = (
        np.concatenate([getattr(tree, name) for tree in trees])
        for name in ("feature", "threshold", "weighted_n_node_samples")
    )
    medians = np.zeros(columns, dtype=np.float32)
    for column in np.unique(feature[feature >= 0]):
        own = feature == column
        order = np.argsort(threshold[own], kind="stable")
        rows = np.cumsum(size[own][order])
        medians[column] = threshold[own][order][np.searchsorted(rows, rows[-1] / 2)]
    return medians


#: More decisions than this do not occur on a path: the forest's depth is limited.
_DEEPEST = 64


def _weights() -> Floats:
    """Return (a - 1)! b! / (a + b)! by a and b."""
    return np.array(
        [
            [1.0 / (a * comb(a + b, a)) if a else 0.0 for b in range(_DEEPEST)]
            for a in range(_DEEPEST)
        ]
    )


_WEIGHTS = _weights()


@cache
def _walk() -> Callable[..., None]:
    import numba

    return numba.njit(nogil=True)(_add_tree)


def _add_tree(  # noqa: PLR0912, PLR0913, PLR0917 - compiled: one plain loop
    rows: Matrix,
    reference: Matrix,
    left: npt.NDArray[np.intp],
    right: npt.NDArray[np.intp],
    feature: npt.NDArray[np.intp],
    threshold: Floats,
    value: Floats,
    weights: Floats,
    total: Floats,
) -> None:
    """Add the contributions of each column to one tree's number of each row to `total`.

    If row and reference take different branches at a column, both are followed, one with the row's
    value and one with the reference's; the coalitions that agree with all decisions reach a leaf.
    """
    nodes, depths = np.empty(256, np.int64), np.empty(256, np.int64)
    columns, sides = np.empty(256, np.int64), np.empty(256, np.int64)
    decided, side_of = np.empty(64, np.int64), np.empty(64, np.int64)
    for row in range(rows.shape[0]):
        nodes[0], depths[0], columns[0] = 0, 0, -1
        waiting = 1
        while waiting > 0:
            waiting -= 1
            node, depth = nodes[waiting], depths[waiting]
            if columns[waiting] >= 0:
                decided[depth], side_of[depth] = columns[waiting], sides[waiting]
                depth += 1
            while left[node] >= 0:
                column = feature[node]
                below = rows[row, column] <= threshold[node]
                usual = reference[column] <= threshold[node]
                if below != usual:
                    known = 0
                    for place in range(depth):
                        if decided[place] == column:
                            known = side_of[place]
                    if known == 2:
                        below = usual
                    elif known == 0:
                        nodes[waiting] = left[node] if usual else right[node]
                        depths[waiting], columns[waiting], sides[waiting] = depth, column, 2
                        waiting += 1
                        decided[depth], side_of[depth] = column, 1
                        depth += 1
                node = left[node] if below else right[node]
            own = 0
            for place in range(depth):
                own += side_of[place] == 1
            others = depth - own
            for place in range(depth):
                if side_of[place] == 1:
                    total[row, decided[place]] += value[node] * weights[own, others]
                else:
                    total[row, decided[place]] -= value[node] * weights[others, own]
