"""LightGBM over all students and remaining assignments: will it be handed in, and with what score.

Scores have two humps, at 0 and near the student's level, so each question has a model of its own,
and the answers are mixed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from grade_ml.core.threads import MOST
from grade_ml.forecasting.contract import Counts, Estimate, Forecaster, Method, Panel
from grade_ml.forecasting.rows import Rows, rows
from grade_ml.forecasting.slots import Slots

if TYPE_CHECKING:
    from lightgbm import Booster

#: Loss and number of trees of each question. On held-out sections of OULAD more trees fit the
#: training sections only.
_QUESTIONS: dict[str, tuple[str, int]] = {
    "submit": ("binary", 220),
    "given": ("regression", 180),
}


@dataclass(frozen=True)
class Boosted(Forecaster):
    """One booster for each question."""

    method = Method.BOOSTED
    library = "lightgbm"
    slots: Slots
    boosters: dict[str, Booster]

    @classmethod
    def fit(cls, panels: Sequence[Panel], *, seed: int, previous: Self | None = None) -> Self:
        """See `Forecaster.fit`; it starts from scratch each time."""
        slots = Slots.fit(panels)
        matrix = _matrix(panels, slots)
        handed_in = np.concatenate(
            [panel.truth_submitted[:, panel.remaining].ravel() for panel in panels]
        )
        score = np.concatenate([panel.truth[:, panel.remaining].ravel() for panel in panels])
        given = (handed_in == 1) & ~np.isnan(score)
        questions = {"submit": (~np.isnan(handed_in), handed_in), "given": (given, score)}
        boosters = {
            name: _train(name, matrix[chosen], target[chosen], seed)
            for name, (chosen, target) in questions.items()
        }
        return cls(slots, boosters)

    def forecast(self, panels: Sequence[Panel], counts: Counts) -> list[Estimate]:
        """See `Forecaster.forecast`."""
        if not panels:
            return []
        matrix = _matrix(panels, self.slots)
        submit, given = (
            np.asarray(self.boosters[name].predict(matrix, num_threads=MOST)) for name in _QUESTIONS
        )
        given = np.clip(given, 0, 100)
        ends = np.cumsum([panel.shape[0] * panel.shape[1] for panel in panels])[:-1]
        parts = (np.split(values, ends) for values in (submit * given, submit))
        return [
            Estimate.bounded(*(values.reshape(panel.shape) for values in cut))
            for panel, *cut in zip(panels, *parts, strict=True)
        ]

    def save(self, folder: Path) -> None:
        """See `Forecaster.save`."""
        self.slots.save(folder)
        for name, booster in self.boosters.items():
            booster.save_model(folder / f"{name}.txt")

    @classmethod
    def load(cls, folder: Path) -> Self:
        """See `Forecaster.load`."""
        import lightgbm

        boosters = {
            name: lightgbm.Booster(model_file=folder / f"{name}.txt") for name in _QUESTIONS
        }
        return cls(Slots.load(folder), boosters)


def _matrix(panels: Sequence[Panel], slots: Slots) -> Rows:
    """Return the rows of all panels under each other."""
    parts = (rows(panel, slots) for panel in panels)
    return np.concatenate([part.reshape(-1, part.shape[2]) for part in parts])


def _train(name: str, matrix: Rows, target: Any, seed: int) -> Booster:
    import lightgbm

    loss, trees = _QUESTIONS[name]
    settings = {
        "objective": loss,
        "learning_rate": 0.05,
        "num_leaves": 31,
        "feature_fraction": 0.3,
        "bagging_fraction": 0.7,
        "bagging_freq": 1,
        "lambda_l2": 20.0,
        "min_data_in_leaf": int(np.clip(len(matrix) / 1000, 5, 100)),
        "max_bin": 127,
        "seed": seed,
        "deterministic": True,
        "force_col_wise": True,
        "num_threads": MOST,
        "verbosity": -1,
    }
    data = lightgbm.Dataset(matrix, target, params={"verbosity": -1, "max_bin": 127})
    return lightgbm.train(settings, data, num_boost_round=trees)
