"""From raw predictions to honest predictions: calibrated risk, and intervals around the grade.

Everything here is learned from held-out rows; how these came about is not known here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import pandas as pd

from grade_ml.core.threads import limited_threads
from grade_ml.ensemble.intervals import Conformal
from grade_ml.ensemble.rows import log_odds_of, probability

Floats = npt.NDArray[np.float64]

#: What the expected size of an error depends on.
CONTEXT = ("grade", "risk", "collected", "progress", "weight_remaining", "course_seen")
#: Points. Late in a section most errors are near 0; scaled by less than this, the few large ones
#: would widen every interval (95% at three quarters of OULAD's 2014B: 37 points wide, with 2: 22).
_MIN_SCALE = 2.0


@dataclass(frozen=True)
class Calibration:
    """A fitted scale of the errors, their conformal quantiles, and a curve for the risk.

    `scale` is None where no grade is known; `risk_curve` is None where the risk never varied.
    """

    scale: Any
    conformal: Conformal
    risk_curve: Any

    @classmethod
    def fit(cls, held_out: pd.DataFrame, seed: int) -> Self:
        """Learn from held-out rows.

        Parameters
        ----------
        held_out
            `CONTEXT` (uncalibrated), final_grade (0-100 or NaN), at_risk (bool), and fold: rows
            of one fold do not set the scale of their own residuals, except where there is one only.
        """
        known = held_out[held_out["final_grade"].notna() & held_out["grade"].notna()]
        if known.empty:
            return cls(None, Conformal.fit(np.zeros(1), np.zeros(1)), _fit_risk_curve(held_out))
        conformal = Conformal.fit(_ratios(known, seed), known["progress"].to_numpy(np.float64))
        return cls(_fit_scale(known, seed), conformal, _fit_risk_curve(held_out))

    def apply(self, raw: pd.DataFrame) -> pd.DataFrame:
        """Return `raw` (with the columns `CONTEXT`) with intervals and calibrated risk."""
        unknown = np.full(len(raw), np.nan)
        scale = unknown if self.scale is None or raw.empty else _scale(self.scale, raw)
        bounds = self.conformal.intervals(
            raw["grade"].to_numpy(np.float64), scale, raw["progress"].to_numpy(np.float64)
        )
        risk = raw["risk"].to_numpy(np.float64)
        if self.risk_line is not None:
            slope, shift = self.risk_line
            risk = probability(shift + slope * log_odds_of(raw["risk"]))
        columns = {name: raw[name].array for name in raw} | bounds | {"risk": risk}
        return pd.DataFrame(columns, raw.index)

    @property
    def risk_line(self) -> tuple[float, float] | None:
        """What calibration does to the log-odds of the risk: slope and shift; None if nothing."""
        if self.risk_curve is None:
            return None
        return float(self.risk_curve.coef_[0, 0]), float(self.risk_curve.intercept_[0])

    @classmethod
    def from_parts(cls, scale: Any, risk_curve: Any, conformal: Mapping[str, Any]) -> Self:
        """Return a calibration from its stored parts."""
        return cls(scale, Conformal.from_dict(conformal), risk_curve)


def cross_calibrated(held_out: pd.DataFrame, seed: int) -> pd.DataFrame:
    """Return held-out rows, each fold calibrated by the others, so that their figures are honest.

    The uncalibrated numbers stay beside, as raw_grade and raw_risk.
    """
    parts = []
    for fold, rows in held_out.groupby("fold"):
        others = held_out[held_out["fold"] != fold]
        parts.append(Calibration.fit(others if len(others) else rows, seed).apply(rows))
    calibrated = pd.concat(parts, ignore_index=True)
    raw = pd.concat([rows for _, rows in held_out.groupby("fold")], ignore_index=True)
    return calibrated.assign(raw_grade=raw["grade"], raw_risk=raw["risk"])


def _ratios(known: pd.DataFrame, seed: int) -> Floats:
    """Return each row's residual over the error that the other folds let expect."""
    residual = (known["final_grade"] - known["grade"]).to_numpy(np.float64)
    scale = np.empty(len(known))
    for fold in known["fold"].unique():
        own = (known["fold"] == fold).to_numpy()
        scale[own] = _scale(_fit_scale(known if own.all() else known[~own], seed), known[own])
    ratios: Floats = residual / scale
    return ratios


def _fit_scale(known: pd.DataFrame, seed: int) -> Any:
    from sklearn.ensemble import HistGradientBoostingRegressor

    error = (known["final_grade"] - known["grade"]).abs().to_numpy(np.float64)
    model = HistGradientBoostingRegressor(
        max_iter=50,
        learning_rate=0.1,
        max_leaf_nodes=15,
        min_samples_leaf=100,
        early_stopping=False,
        random_state=seed,
    )
    return model.fit(known[list(CONTEXT)].to_numpy(np.float64), error)


def _scale(model: Any, rows: pd.DataFrame) -> Floats:
    with limited_threads(len(rows)):  # waking a second thread for one row takes longer than the row
        context = np.column_stack([rows[name].to_numpy(np.float64) for name in CONTEXT])
        predicted: Floats = model.predict(context)
    return np.maximum(predicted, _MIN_SCALE)


def _fit_risk_curve(held_out: pd.DataFrame) -> Any:
    from sklearn.linear_model import LogisticRegression

    at_risk = held_out["at_risk"].to_numpy(bool)
    if not 0 < at_risk.sum() < at_risk.size:
        return None
    return LogisticRegression(C=1e3).fit(log_odds_of(held_out["risk"])[:, None], at_risk)
