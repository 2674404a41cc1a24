"""LightGBM: trees leaf by leaf, absolute error or logistic loss, stored as text.

The one member whose grade is a median: where half of the students miss the rest and the others go
on, the mean is no student's grade, and the stack weighs the two.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Self

from grade_ml.ensemble.members.contract import (
    Floats,
    Matrix,
    Member,
    Parameters,
    Range,
    Task,
    as_matrix,
    rounds,
    scaled,
)

if TYPE_CHECKING:
    from lightgbm import Booster

_OBJECTIVES = {Task.GRADE: "regression_l1", Task.RISK: "binary"}


@dataclass(frozen=True)
class LightGBM(Member):
    """A boosted model; the risk is its raw score (log-odds)."""

    name = "lightgbm"
    library = "lightgbm"
    task: Task
    booster: Booster

    @classmethod
    def defaults(cls, task: Task) -> dict[str, float]:
        """See `Member.defaults`."""
        return {
            "rounds": 400,
            "learning_rate": 0.03,
            "num_leaves": 15,
            "feature_fraction": 0.3,
            "lambda_l2": 10.0,
        }

    @classmethod
    def space(cls, task: Task) -> dict[str, Range]:
        """See `Member.space`."""
        return {
            "rounds": Range(150, 600, whole=True),
            "learning_rate": Range(0.02, 0.08, log=True),
            "num_leaves": Range(7, 48, log=True, whole=True),
            "feature_fraction": Range(0.15, 0.6),
            "lambda_l2": Range(1, 50, log=True),
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
        """See `Member.fit`; an absolute error is bounded, so rows of the grade weigh the same."""
        import lightgbm

        settings = {
            "objective": _OBJECTIVES[task],
            "learning_rate": parameters["learning_rate"],
            "num_leaves": int(parameters["num_leaves"]),
            "feature_fraction": parameters["feature_fraction"],
            "lambda_l2": parameters["lambda_l2"],
            "min_data_in_leaf": scaled(len(matrix), 1 / 500, 5, 200),
            "bagging_fraction": 0.8,
            "bagging_freq": 1,
            "seed": seed,
            "deterministic": True,
            "force_row_wise": True,
            "num_threads": threads,
            "verbosity": -1,
        }
        weighs = None if task is Task.GRADE else weight
        data = lightgbm.Dataset(matrix, target, weight=weighs, params={"verbosity": -1})
        booster = lightgbm.train(settings, data, num_boost_round=rounds(parameters, len(matrix)))
        return cls(task, booster)

    def predict(self, matrix: Matrix) -> Floats:
        """See `Member.predict`."""
        return as_matrix(self.booster.predict(matrix, raw_score=True))

    def contributions(self, matrix: Matrix) -> Floats:
        """See `Member.contributions`; exact TreeSHAP of the library."""
        return as_matrix(self.booster.predict(matrix, pred_contrib=True))

    def save(self, folder: Path) -> None:
        """See `Member.save`."""
        self.booster.save_model(self.path(folder, self.task, "txt"))

    @classmethod
    def load(cls, folder: Path, task: Task) -> Self:
        """See `Member.load`."""
        import lightgbm

        return cls(task, lightgbm.Booster(model_file=cls.path(folder, task, "txt")))
