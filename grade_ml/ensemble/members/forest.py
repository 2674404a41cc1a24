"""scikit-learn's random forest (Breiman 2001), stored by skops.

Its trees are explained by LightGBM's exact TreeSHAP, to which they are handed in its text format: a
hundred times as quick as the shap library on the forest itself.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from grade_ml.ensemble import persistence
from grade_ml.ensemble.members.contract import (
    Floats,
    Matrix,
    Member,
    Parameters,
    Range,
    Task,
    as_matrix,
    scaled,
)

if TYPE_CHECKING:
    from lightgbm import Booster

#: Below every value that a feature has: a forest splits missing values off like any low value.
_MISSING = np.float32(-1000)


@dataclass(frozen=True)
class Forest(Member):
    """A forest; the risk is its mean probability, stretched to the slope of log-odds at one half.

    A probability, and not its logarithm, for only a mean of trees can be explained exactly.
    """

    name = "random_forest"
    library = "sklearn"
    task: Task
    forest: Any

    @classmethod
    def defaults(cls, task: Task) -> dict[str, float]:
        """See `Member.defaults`."""
        return {"max_features": 0.3 if task is Task.GRADE else 0.2, "leaf_share": 1 / 8000}

    @classmethod
    def space(cls, task: Task) -> dict[str, Range]:
        """See `Member.space`."""
        return {
            "max_features": Range(0.1, 0.6),
            "leaf_share": Range(1 / 20_000, 1 / 2000, log=True),
        }

    @classmethod
    def fit(  # noqa: PLR0913
        cls,
        matrix: Matrix,
        target: Floats,
        weight: Floats,
        task: Task,
        parameters: Parameters,
        *,
        seed: int,
        threads: int,
    ) -> Self:
        """See `Member.fit`; the rows weigh the same, for leaves hold few that differ in weight."""
        from sklearn.ensemble import RandomForestClassifier, RandomForestRegressor

        kind = RandomForestRegressor if task is Task.GRADE else RandomForestClassifier
        forest = kind(
            n_estimators=100,
            max_features=parameters["max_features"],
            min_samples_leaf=scaled(len(matrix), parameters["leaf_share"], 5, 50),
            # Weekly rows of one student repeat each other; and explaining costs by depth squared.
            max_samples=scaled(len(matrix), 0.4, 1, len(matrix)),
            max_depth=14,
            n_jobs=threads,
            random_state=seed,
        )
        forest.fit(_filled(matrix), target if task is Task.GRADE else target.astype(bool))
        return cls(task, forest)

    def predict(self, matrix: Matrix) -> Floats:
        """See `Member.predict`."""
        filled = _filled(matrix)
        # What the library does, less its checks: a tenth of the time where there are few rows.
        trees = (tree.tree_ for tree in self.forest.estimators_)
        total = sum(tree.predict(filled)[:, _output(self.task)] for tree in trees)
        mean = as_matrix(total / len(self.forest.estimators_))
        return mean if self.task is Task.GRADE else self.scale * mean - 2

    def contributions(self, matrix: Matrix) -> Floats:
        """See `Member.contributions`; needs the library lightgbm."""
        booster, filled = self.as_boosted(matrix)
        explained = as_matrix(booster.predict(filled, pred_contrib=True))
        explained *= self.scale / len(self.forest.estimators_)
        if self.task is Task.RISK:
            explained[:, -1] -= 2
        return explained

    @property
    def scale(self) -> float:
        """By how much the mean of the trees is stretched."""
        return 1.0 if self.task is Task.GRADE else 4.0

    def values_at(self, tree: Any) -> Floats:
        """Return the value of each node of one of its trees, before it is stretched."""
        return as_matrix(tree.value[:, 0, _output(self.task)])

    @staticmethod
    def filled(matrix: Matrix) -> Matrix:
        """Return the matrix as the trees read it, without missing values."""
        return _filled(matrix)

    def as_boosted(self, matrix: Matrix) -> tuple[Booster, Matrix]:
        """Return LightGBM's model of the sum of the trees, and the matrix as that reads it."""
        return self._trees, _filled(matrix)

    @cached_property
    def _trees(self) -> Booster:
        import lightgbm

        trees = [estimator.tree_ for estimator in self.forest.estimators_]
        last = self.forest.n_features_in_ - 1
        head = [
            "tree",
            "version=v4",
            "num_class=1",
            "num_tree_per_iteration=1",
            "label_index=0",
            f"max_feature_idx={last}",
            "objective=regression",
            "feature_names=" + " ".join(f"f{place}" for place in range(last + 1)),
            "feature_infos=" + " ".join(["[-1e300:1e300]"] * (last + 1)),
        ]
        texts = [_text(number, tree, self.task) for number, tree in enumerate(trees)]
        text = "\n\n".join(["\n".join(head), *texts, "end of trees\n"])
        return lightgbm.Booster(model_str=text)

    def save(self, folder: Path) -> None:
        """See `Member.save`."""
        persistence.save(self.forest, self.path(folder, self.task, "skops"))

    @classmethod
    def load(cls, folder: Path, task: Task) -> Self:
        """See `Member.load`."""
        return cls(task, persistence.load(cls.path(folder, task, "skops")))


def _filled(matrix: Matrix) -> Matrix:
    return np.ascontiguousarray(np.where(np.isnan(matrix), _MISSING, matrix))


def _output(task: Task) -> int:
    """Return the place of the mean, or of the share at risk, among the values of a node."""
    return 0 if task is Task.GRADE else 1


def _text(number: int, tree: Any, task: Task) -> str:
    """Return one tree in LightGBM's text format: inner nodes and leaves are numbered apart."""
    leaf = tree.children_left == -1
    place = np.where(leaf, -np.cumsum(leaf), np.cumsum(~leaf) - 1)
    value = tree.value[:, 0, _output(task)]
    size = tree.weighted_n_node_samples
    fields = {
        "num_leaves": [int(leaf.sum())],
        "num_cat": [0],
        "split_feature": tree.feature[~leaf],
        "split_gain": np.ones((~leaf).sum()),
        "threshold": tree.threshold[~leaf],
        "decision_type": np.full((~leaf).sum(), 2),
        "left_child": place[tree.children_left[~leaf]],
        "right_child": place[tree.children_right[~leaf]],
        "leaf_value": value[leaf],
        "leaf_weight": size[leaf],
        "leaf_count": size[leaf].astype(int),
        "internal_value": value[~leaf],
        "internal_weight": size[~leaf],
        "internal_count": size[~leaf].astype(int),
        "is_linear": [0],
        "shrinkage": [1],
    }
    return "\n".join([f"Tree={number}", *_lines(fields)])


def _lines(fields: dict[str, Any]) -> Iterator[str]:
    for name, values in fields.items():
        yield f"{name}=" + " ".join(map(repr, np.asarray(values).tolist()))
