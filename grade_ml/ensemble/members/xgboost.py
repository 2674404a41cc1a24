"""XGBoost: trees by histogram, squared error or logistic loss, stored as UBJSON."""

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
    from xgboost import Booster

_OBJECTIVES = {Task.GRADE: "reg:squarederror", Task.RISK: "binary:logistic"}


@dataclass(frozen=True)
class XGBoost(Member):
    """A boosted model; the risk is its margin (log-odds)."""

    name = "xgboost"
    library = "xgboost"
    task: Task
    booster: Booster

    @classmethod
    def defaults(cls, task: Task) -> dict[str, float]:
        """See `Member.defaults`."""
        return {
            "rounds": 350,
            "learning_rate": 0.04,
            "max_depth": 6,
            "colsample_bynode": 0.3,
            "reg_lambda": 10.0,
        }

    @classmethod
    def space(cls, task: Task) -> dict[str, Range]:
        """See `Member.space`."""
        return {
            "rounds": Range(150, 600, whole=True),
            "learning_rate": Range(0.02, 0.08, log=True),
            "max_depth": Range(3, 7, whole=True),
            "colsample_bynode": Range(0.15, 0.6),
            "reg_lambda": Range(1, 50, log=True),
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
        """See `Member.fit`."""
        import xgboost

        settings = {
            "objective": _OBJECTIVES[task],
            "learning_rate": parameters["learning_rate"],
            "max_depth": int(parameters["max_depth"]),
            "colsample_bynode": parameters["colsample_bynode"],
            "reg_lambda": parameters["reg_lambda"],
            "min_child_weight": scaled(len(matrix), 1 / 2000, 2, 50),
            "subsample": 0.8,
            "tree_method": "hist",
            "seed": seed,
            "nthread": threads,
            "verbosity": 0,
        }
        data = xgboost.QuantileDMatrix(matrix, target, weight=weight, nthread=threads)
        booster = xgboost.train(settings, data, num_boost_round=rounds(parameters, len(matrix)))
        return cls(task, booster)

    def predict(self, matrix: Matrix) -> Floats:
        """See `Member.predict`."""
        # In place: to build a DMatrix for one row takes longer than to predict it.
        return as_matrix(self.booster.inplace_predict(matrix, predict_type="margin"))

    def contributions(self, matrix: Matrix) -> Floats:
        """See `Member.contributions`; exact TreeSHAP of the library."""
        import xgboost

        return as_matrix(self.booster.predict(xgboost.DMatrix(matrix), pred_contribs=True))

    def save(self, folder: Path) -> None:
        """See `Member.save`."""
        self.booster.save_model(self.path(folder, self.task, "ubj"))

    @classmethod
    def load(cls, folder: Path, task: Task) -> Self:
        """See `Member.load`."""
        import xgboost

        return cls(task, xgboost.Booster(model_file=cls.path(folder, task, "ubj")))
