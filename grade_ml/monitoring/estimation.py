"""Estimates the error of a prediction before its label is known (direct loss estimation).

A regression predicts the absolute error from the prediction, its intervals and the progress of the
section; it is fitted on the champion's held-out rows. It detects students who are hard to predict;
it cannot detect that scores no longer mean what they did, which `concept` does.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

Floats = npt.NDArray[np.float64]

#: The fewest held-out rows on which an estimator is fitted.
LEAST_ROWS = 200
_MAX_ROWS = 30_000


@dataclass(frozen=True)
class ErrorEstimate:
    """A fitted estimator of |grade error| in points.

    Attributes
    ----------
    unseen
        The estimate of each held-out row by a regression that had not seen its fold, in the order
        of the rows; NaN if the row has no grade.
    """

    regressor: Any
    unseen: Floats

    def at(self, places: npt.NDArray[np.int64]) -> ErrorEstimate:
        """Return a copy with only the held-out rows at `places`."""
        return replace(self, unseen=self.unseen[places])

    def of(self, predictions: pd.DataFrame) -> Floats:
        """Return the expected |error| per row (columns as `fit` reads), in points."""
        if predictions.empty:
            return np.zeros(0)
        return np.asarray(np.maximum(self.regressor.predict(_design(predictions)), 0.0))


def fit(held_out: pd.DataFrame, seed: int) -> ErrorEstimate | None:
    """Fit on held-out rows; return None if they are too few.

    Parameters
    ----------
    held_out
        grade, risk, lower80, upper80, lower95, upper95, progress, fold and final_grade.
    """
    if len(held_out) < LEAST_ROWS:
        return None
    error = (held_out["grade"] - held_out["final_grade"]).abs().to_numpy(np.float64)
    design, known = _design(held_out), ~np.isnan(error)
    if known.sum() < LEAST_ROWS:
        return None
    unseen = np.full(len(held_out), np.nan)
    fold = held_out["fold"].to_numpy()
    for number in np.unique(fold):
        inside = fold == number
        if (known & ~inside).any():
            unseen[inside] = np.maximum(
                _regressor(design, error, known & ~inside, seed).predict(design[inside]), 0.0
            )
    return ErrorEstimate(_regressor(design, error, known, seed), unseen)


def _regressor(design: Floats, error: Floats, rows: npt.NDArray[np.bool_], seed: int) -> Any:
    from sklearn.ensemble import HistGradientBoostingRegressor

    places = np.flatnonzero(rows)
    if len(places) > _MAX_ROWS:
        places = np.random.default_rng(seed).choice(places, _MAX_ROWS, replace=False)
    boosting = HistGradientBoostingRegressor(
        max_iter=60, learning_rate=0.1, max_leaf_nodes=8, min_samples_leaf=50, random_state=seed
    )
    return boosting.fit(design[places], error[places])


def _design(rows: pd.DataFrame) -> Floats:
    numbers = {name: rows[name].to_numpy(np.float64) for name in ("grade", "risk", "progress")}
    for level in (80, 95):
        numbers[f"width{level}"] = (rows[f"upper{level}"] - rows[f"lower{level}"]).to_numpy(float)
    return np.column_stack(list(numbers.values()))
