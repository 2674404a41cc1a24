"""How the ensemble's errors compare with the baseline's, on the same rows that neither had seen.

The unit is the section: its rows go right or wrong together, so thousands of rows of few sections
show little about the next one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

from grade_ml.core.pseudonyms import Pseudonyms
from grade_ml.ensemble import baseline
from grade_ml.ensemble.baseline import BaselineModel
from grade_ml.ensemble.evaluation import by_section
from grade_ml.ensemble.pooled import PooledModel
from grade_ml.ensemble.rows import row_pseudonyms
from grade_ml.training.data import TrainingData

#: What is compared, and the column of the sections' errors that it comes from.
_ERRORS = {"rmse": "mse", "brier": "brier"}


@dataclass(frozen=True)
class Ratio:
    """By how much errors differ: the mean log ratio over sections, and its standard error."""

    mean: float
    standard_error: float

    @property
    def high(self) -> float:
        """What it may be at a disadvantage: one standard error more than was seen."""
        return self.mean + self.standard_error


@dataclass(frozen=True)
class Comparison:
    """Our errors beside those of the same rows by the baseline.

    Attributes
    ----------
    sections
        How many sections both predicted unseen.
    ratios
        By "rmse" (of the grade) and "brier" (of the risk), below 0 where we are better; without
        those that fewer than two sections show.
    """

    sections: int
    ratios: Mapping[str, Ratio]

    @property
    def figures(self) -> dict[str, float]:
        """The numbers by name, the ratios as factors."""
        return {"sections_compared": float(self.sections)} | {
            f"{name}_ratio{end}": float(np.exp(value))
            for name, ratio in self.ratios.items()
            for end, value in (("", ratio.mean), ("_high", ratio.high))
        }


def compared(ours: pd.DataFrame, theirs: pd.DataFrame) -> Comparison:
    """Compare errors by section, as `by_section` gives them.

    Sections of which the two predicted another number of rows are left out.
    """
    both = ours.merge(theirs, on=["section_id", "rows"], suffixes=("_ours", "_theirs"))
    ratios = {}
    for name, column in _ERRORS.items():
        errors = both[[f"{column}_ours", f"{column}_theirs"]].dropna().to_numpy(np.float64)
        # An error of 0 is one of a section without any variation, and has no logarithm.
        logs = np.log(errors[(errors > 0).all(axis=1)])
        if name == "rmse":
            logs /= 2
        if len(logs) > 1:
            difference = logs[:, 0] - logs[:, 1]
            standard_error = difference.std(ddof=1) / np.sqrt(len(difference))
            ratios[name] = Ratio(float(difference.mean()), float(standard_error))
    return Comparison(len(both), ratios)


def with_baseline(
    model: PooledModel, plain: BaselineModel, data: TrainingData, pseudonyms: Pseudonyms
) -> Comparison:
    """Compare the ensemble with the baseline on the rows of `data` that both held out."""
    rows = row_pseudonyms(baseline.learned(data.snapshots, data.results, plain.seed), pseudonyms)
    ours = model.held_out[model.held_out["row"].isin(rows)]
    return compared(by_section(ours), plain.section_errors)
