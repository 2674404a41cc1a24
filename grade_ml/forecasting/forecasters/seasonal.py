"""Prophet on course-level weekly series: the class mean by week, and each student beside it.

One series per course: the mean result of the weeks in which something was due, in the sections of
training and in the running one up to its day. Per student such a model would be noise; it is far
too slow for it, too (about 10 series a second).
"""

from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
import pandas as pd

from grade_ml.forecasting.contract import Counts, Estimate, Floats, Forecaster, Method, Panel
from grade_ml.forecasting.forecasters.slot import SlotMean
from grade_ml.forecasting.panels import mean_known
from grade_ml.forecasting.settings import SETTINGS

#: Weeks with results that a series needs.
_LEAST_WEEKS = 6
_FILE = "weeks.json"


@dataclass(frozen=True)
class Seasonal(Forecaster):
    """Weekly class means (course, section, day since 1970, mean) of the sections learned from."""

    method = Method.PROPHET
    library = "prophet"
    weeks: list[tuple[str, str, float, float]]
    fallback: SlotMean

    @classmethod
    def fit(cls, panels: Sequence[Panel], *, seed: int, previous: Self | None = None) -> Self:
        """See `Forecaster.fit`; Prophet itself is fitted when a forecast is requested."""
        last = {panel.section_id: panel for panel in sorted(panels, key=lambda panel: panel.day)}
        weeks = [
            (panel.course_id, name, when, value)
            for name, panel in sorted(last.items())
            for when, value in _weekly(panel, mean_known(panel.truth), len(panel.due_day))
        ]
        return cls(weeks, SlotMean.fit(panels, seed=seed))

    def forecast(self, panels: Sequence[Panel], counts: Counts) -> list[Estimate]:
        """See `Forecaster.forecast`."""
        base = self.fallback.forecast(panels, Counts())
        answers, fitted = [], 0
        for panel, start in zip(panels, base, strict=True):
            series = self._series(panel)
            if len(series) < _LEAST_WEEKS or fitted >= SETTINGS.most_prophet:
                reason = "few weeks" if len(series) < _LEAST_WEEKS else "many courses"
                counts.add(f"{self.method}: {reason}, slot mean", panel.shape[0])
                answers.append(start)
                continue
            fitted += 1
            level = weekly_forecast(series, panel.started_on + panel.due_day[panel.remaining])
            if level is None:
                counts.add(f"{self.method}: did not converge, slot mean", panel.shape[0])
                answers.append(start)
                continue
            of_class, _ = panel.whole_class
            apart = (panel.score - mean_known(of_class))[:, panel.past]
            known = ~np.isnan(apart)
            own = np.where(known, apart, 0).sum(1) / (known.sum(1) + 1.0)
            mean = np.clip(level, 0, 100) + own[:, None]
            answers.append(Estimate.bounded(mean, start.submit))
        return answers

    def _series(self, panel: Panel) -> pd.DataFrame:
        known = {
            (section, when): value
            for course, section, when, value in self.weeks
            if course == panel.course_id
            and section != panel.section_id
            # A section that runs at the same time is no more known than this section.
            and when <= panel.started_on + panel.day
        }
        class_mean = mean_known(panel.whole_class[0])
        known |= {
            (panel.section_id, when): value
            for when, value in _weekly(panel, class_mean, len(panel.past))
        }
        rows = pd.DataFrame(
            [(when, value) for (_, when), value in known.items()], columns=["ds", "y"]
        )
        rows = rows.groupby("ds", as_index=False).mean()
        return rows.assign(ds=rows["ds"].astype("int64").astype("datetime64[D]").astype("M8[ns]"))

    def save(self, folder: Path) -> None:
        """See `Forecaster.save`."""
        self.fallback.save(folder)
        (folder / _FILE).write_text(json.dumps(self.weeks))

    @classmethod
    def load(cls, folder: Path) -> Self:
        """See `Forecaster.load`."""
        weeks = [tuple(row) for row in json.loads((folder / _FILE).read_text())]
        return cls(weeks, SlotMean.load(folder))


def _weekly(panel: Panel, means: Floats, first: int) -> list[tuple[float, float]]:
    """Return (Monday as day since 1970, mean) of the weeks in which the first ones were due."""
    when = panel.started_on + panel.due_day[:first]
    monday = when - (when + 3) % 7
    known = ~np.isnan(means[:first])
    rows = pd.DataFrame({"when": monday[known], "mean": means[:first][known]})
    weeks = rows.groupby("when", as_index=False).mean()
    return list(zip(weeks["when"].tolist(), weeks["mean"].tolist(), strict=True))


def weekly_forecast(series: pd.DataFrame, days: Floats) -> Floats | None:
    """Return Prophet's forecast of a series (columns ds, y) on days since 1970-01-01.

    `None` if its optimiser did not converge.
    """
    # Two log each fit, though a failure raises; one misses a library for plots that nobody draws.
    for name in ("prophet", "prophet.plot", "cmdstanpy"):
        logging.getLogger(name).disabled = True
    from prophet import Prophet

    model = Prophet(
        n_changepoints=min(3, len(series) // 4),
        yearly_seasonality=False,
        weekly_seasonality=False,
        daily_seasonality=False,
        # Its own intervals are not read: calibrated intervals replace them.
        uncertainty_samples=0,
    )
    ahead = pd.DataFrame({"ds": days.astype("int64").astype("datetime64[D]").astype("M8[ns]")})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            forecast = model.fit(series).predict(ahead)["yhat"].to_numpy(np.float64)
        except (RuntimeError, ValueError):
            # The optimiser's errors if it did not converge; the caller counts them.
            return None
    return forecast if np.isfinite(forecast).all() else None
