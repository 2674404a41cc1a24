"""Paths and risk periods of some courses, from what was forecast of them on a day."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from grade_ml.early_warning.grade_paths import grade_paths, standing
from grade_ml.early_warning.loading import Known
from grade_ml.early_warning.risk_model import RiskModel
from grade_ml.early_warning.risk_periods import risk_periods
from grade_ml.forecasting.contract import Panel


@dataclass(frozen=True)
class Outlook:
    """What is to be expected of the running sections of some courses.

    Attributes
    ----------
    paths, periods
        As `grade_paths` and `risk_periods` return them.
    model
        The newest of the models behind them.
    degraded
        Why this is less than it could be; empty if it is not.
    """

    panels: Sequence[Panel]
    paths: pd.DataFrame
    periods: pd.DataFrame
    model: RiskModel
    degraded: tuple[str, ...]


def outlook(known: Known, seed: int) -> Outlook:
    """Return paths and risk periods that follow from the forecasts of the day."""
    panels, course = known.running.panels, known.forecasts["course_id"]
    state = standing(panels)
    paths = pd.concat(
        [
            grade_paths(
                known.forecasts[course.map(known.versions) == version], state, model.paths, seed
            )
            for version, model in known.models.items()
        ],
        ignore_index=True,
    )
    newest = known.models[max(known.models)]
    degraded = (*newest.degraded, *known.running.stale)
    return Outlook(panels, paths, risk_periods(paths), newest, degraded)
