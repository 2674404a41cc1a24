"""The score that a forecast describes, as a distribution to draw from.

A forecast states the chance that nothing is handed in, five quantiles and the mean. Here they
become one quantile function: 0 up to the chance of a miss, straight lines between the quantiles
above it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

import numpy as np

from grade_ml.forecasting.contract import Floats

if TYPE_CHECKING:
    import pandas as pd

_LEVELS = np.array([0.0, 0.025, 0.1, 0.5, 0.9, 0.975, 1.0])
_QUANTILES = ["low95", "low80", "median", "high80", "high95"]


@dataclass(frozen=True)
class ScoreDistributions:
    """The distributions of r scores.

    Attributes
    ----------
    missed
        Chance that nothing is handed in, (r,).
    levels, scores
        Knots of the quantile function, (r, 7), both rising; none lies below the chance of a miss.
    """

    missed: Floats
    levels: Floats
    scores: Floats

    @classmethod
    def of(cls, forecasts: pd.DataFrame) -> Self:
        """Return the distributions of frames with the columns `contract.FORECASTS`.

        The lowest score that is handed in is chosen so that the mean is the stated mean, as far as
        the quantiles allow.
        """
        missed = 1 - forecasts["submit_probability"].to_numpy(np.float64)
        stated = forecasts[_QUANTILES].to_numpy(np.float64)
        below = stated[:, 0] - (stated[:, 1] - stated[:, 0]) / 3
        above = stated[:, 4] + (stated[:, 4] - stated[:, 3]) / 3
        scores = np.column_stack([np.maximum(below, 0), stated, np.minimum(above, 100)])
        levels = np.maximum(_LEVELS, missed[:, None])
        widths = np.diff(levels, axis=1)
        steps = np.maximum(widths, 0) * (scores[:, :-1] + scores[:, 1:]) / 2
        # The first knot above the chance of a miss; what lies between is spread down from it.
        first = np.argmax(levels > missed[:, None], axis=1)
        rows = np.arange(len(scores))
        before = np.arange(steps.shape[1]) < first[:, None]
        rest = np.where(before, 0.0, steps).sum(axis=1)
        width = levels[rows, first] - missed
        mean = forecasts["mean"].to_numpy(np.float64)
        with np.errstate(divide="ignore", invalid="ignore"):
            lowest = 2 * (mean - rest) / width - scores[rows, first]
        lowest = np.clip(np.nan_to_num(lowest), 0, scores[rows, first])
        at_start = np.arange(scores.shape[1]) < first[:, None]
        return cls(missed, levels, np.where(at_start, lowest[:, None], scores))

    def rows(self, chosen: slice) -> Self:
        """Return the distributions of some rows."""
        return type(self)(self.missed[chosen], self.levels[chosen], self.scores[chosen])

    def quantile(self, level: Floats) -> Floats:
        """Return the scores, 0-100, at the levels (r, s), 0-1; missed scores are 0."""
        score = np.empty_like(level)
        # Row by row: five times as fast as the seven knots one after the other for all rows.
        for row, knots in enumerate(zip(self.levels, self.scores, strict=True)):
            score[row] = np.interp(level[row], *knots)
        return np.where(level < self.missed[:, None], 0.0, np.clip(score, 0, 100))

    def if_handed_in(self, levels: tuple[float, ...]) -> Floats:
        """Return quantiles (r, s) of the scores, 0-100, in case the work is handed in."""
        handed_in = (1 - self.missed)[:, None]
        return self.quantile(self.missed[:, None] + handed_in * np.array(levels))
