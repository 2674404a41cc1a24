"""CatBoost: symmetric trees, squared error or logistic loss, stored as cbm."""

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
)

if TYPE_CHECKING:
    from catboost import CatBoost as Model

_LOSSES = {Task.GRADE: "RMSE", Task.RISK: "Logloss"}
#: What the library writes into every file of the moment and of the process.
_CHANCE = ("train_finish_time", "model_guid")


@dataclass(frozen=True)
class CatBoost(Member):
    """A boosted model; the risk is its raw value (log-odds)."""

    name = "catboost"
    library = "catboost"
    task: Task
    model: Model

    @classmethod
    def defaults(cls, task: Task) -> dict[str, float]:
        """See `Member.defaults`."""
        return {"rounds": 400, "learning_rate": 0.06, "depth": 6, "rsm": 0.3, "l2_leaf_reg": 20.0}

    @classmethod
    def space(cls, task: Task) -> dict[str, Range]:
        """See `Member.space`."""
        return {
            "rounds": Range(150, 600, whole=True),
            "learning_rate": Range(0.03, 0.12, log=True),
            "depth": Range(4, 7, whole=True),
            "rsm": Range(0.15, 0.6),
            "l2_leaf_reg": Range(3, 60, log=True),
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
        import catboost

        model = catboost.CatBoost(
            {
                "loss_function": _LOSSES[task],
                "iterations": rounds(parameters, len(matrix)),
                "learning_rate": parameters["learning_rate"],
                "depth": int(parameters["depth"]),
                "rsm": parameters["rsm"],
                "l2_leaf_reg": parameters["l2_leaf_reg"],
                "random_seed": seed,
                "thread_count": threads,
                "logging_level": "Silent",
                # Else it leaves a folder catboost_info where the process runs.
                "allow_writing_files": False,
            }
        )
        model.fit(catboost.Pool(matrix, target, weight=weight))
        for name in _CHANCE:
            model.get_metadata()[name] = ""
        return cls(task, model)

    def predict(self, matrix: Matrix) -> Floats:
        """See `Member.predict`."""
        return as_matrix(self.model.predict(matrix, prediction_type="RawFormulaVal"))

    def contributions(self, matrix: Matrix) -> Floats:
        """See `Member.contributions`; exact TreeSHAP of the library, without background data."""
        import catboost

        pool = catboost.Pool(matrix)
        return as_matrix(self.model.get_feature_importance(pool, type="ShapValues"))

    def save(self, folder: Path) -> None:
        """See `Member.save`."""
        self.model.save_model(str(self.path(folder, self.task, "cbm")))

    @classmethod
    def load(cls, folder: Path, task: Task) -> Self:
        """See `Member.load`."""
        import catboost

        return cls(task, catboost.CatBoost().load_model(str(cls.path(folder, task, "cbm"))))
