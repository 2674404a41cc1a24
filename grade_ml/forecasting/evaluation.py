"""How a combination of forecasters and its bands do on sections that taught them nothing.

Weights and bands are learned on held-out rows, so that on these rows they flatter themselves. Here
each part of the rows is forecast with weights and bands of the other parts.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from grade_ml.forecasting.bands import Bands
from grade_ml.forecasting.combination import Combination
from grade_ml.forecasting.contract import NAIVE, Floats
from grade_ml.forecasting.held_out import HeldOut


def figures(parts: Sequence[HeldOut]) -> dict[str, float]:
    """Return figures over all parts; none if there is no other part to learn from.

    Returns
    -------
    dict
        rows; rmse of the mean, and naive_rmse: that of the best naive forecaster, in points; brier
        of the chance to hand in; coverage80 and coverage95: shares of the scores inside the bands.
    """
    parts = [part for part in parts if len(part.truth)]
    if len(parts) < 2:
        return {}
    combined, inside = zip(*(_unseen(parts, k) for k in range(len(parts))), strict=True)
    rows, forecasts = HeldOut.together(parts), np.concatenate(combined)
    naive = [_rmse(rows.answers[name][:, 0], rows.truth) for name in NAIVE if name in rows.answers]
    coverage80, coverage95 = np.concatenate(inside).mean(axis=0)
    return {
        "rows": float(len(forecasts)),
        "rmse": _rmse(forecasts[:, 0], rows.truth),
        **({"naive_rmse": min(naive)} if naive else {}),
        "brier": float(((forecasts[:, 1] - rows.submitted) ** 2).mean()),
        "coverage80": float(coverage80),
        "coverage95": float(coverage95),
    }


def _unseen(parts: Sequence[HeldOut], k: int) -> tuple[Floats, npt.NDArray[np.bool_]]:
    """Return what the other parts make of part `k`, (N, 2), and which scores lie in the bands."""
    others = HeldOut.together([part for place, part in enumerate(parts) if place != k])
    own, combination = parts[k], Combination.learn(others)
    taught, _ = combination.combine(others.answers, others.course, others.horizon)
    combined, _ = combination.combine(own.answers, own.course, own.horizon)
    bounds = Bands.learn(others, taught).bounds(combined, own.course, own.horizon)
    within = (own.truth[:, None] >= bounds[:, ::2]) & (own.truth[:, None] <= bounds[:, 1::2])
    return combined, within


def _rmse(forecasts: Floats, truth: Floats) -> float:
    return float(np.sqrt(((forecasts - truth) ** 2).mean()))
