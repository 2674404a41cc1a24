"""One model per student where a series is long enough, else the slot's mean.

4 to 11 results: the mean of Theta (Assimakopoulos & Nikolopoulos 2000) and exponential smoothing
(ETS); 12 and more: ARIMA. With fewer, such a model adds nothing to the slot's mean.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Self

import numpy as np

from grade_ml.core.optional import installed
from grade_ml.forecasting.contract import Counts, Estimate, Floats, Forecaster, Method, Panel
from grade_ml.forecasting.forecasters.arima import arima
from grade_ml.forecasting.forecasters.slot import SlotMean
from grade_ml.forecasting.settings import SETTINGS


@dataclass(frozen=True)
class Local(Forecaster):
    """Forecasts of the score; the chance to hand in is the slot mean's."""

    method = Method.LOCAL
    library = "statsforecast"
    instead = "ARIMA replaces Theta and exponential smoothing"
    fallback: SlotMean

    @classmethod
    def fit(cls, panels: Sequence[Panel], *, seed: int, previous: Self | None = None) -> Self:
        """See `Forecaster.fit`."""
        return cls(SlotMean.fit(panels, seed=seed))

    def forecast(self, panels: Sequence[Panel], counts: Counts) -> list[Estimate]:
        """See `Forecaster.forecast`."""
        base = self.fallback.forecast(panels, Counts())
        return [self._one(panel, start, counts) for panel, start in zip(panels, base, strict=True)]

    def _one(self, panel: Panel, start: Estimate, counts: Counts) -> Estimate:
        past = panel.score[:, panel.past]
        length = (~np.isnan(past)).sum(1)
        mean = start.mean.copy()
        for number in np.unique(length):
            own = np.flatnonzero(length == number)
            if number < SETTINGS.least_local:
                reason = f"{self.method}: fewer than {SETTINGS.least_local} results, slot mean"
                counts.add(reason, len(own))
                continue
            values = past[own]
            series = values[~np.isnan(values)].reshape(len(own), number)
            # Students with the same results have the same forecast.
            distinct, which = np.unique(series, axis=0, return_inverse=True)
            mean[own] = _forecast(distinct, panel.shape[1], counts)[which]
        return Estimate.bounded(mean, start.submit)

    def save(self, folder: Path) -> None:
        """See `Forecaster.save`."""
        self.fallback.save(folder)

    @classmethod
    def load(cls, folder: Path) -> Self:
        """See `Forecaster.load`."""
        return cls(SlotMean.load(folder))


def _forecast(series: Floats, ahead: int, counts: Counts) -> Floats:
    number = series.shape[1]
    if number >= SETTINGS.least_arima:
        return arima(series, ahead)
    if not installed(Local.library):
        counts.add(f"{Method.LOCAL}: statsforecast is missing, ARIMA", len(series))
        return arima(series, ahead)
    answer = series[:, -1:].repeat(ahead, 1)
    failed = []
    for row in np.flatnonzero(np.ptp(series, axis=1) > 0):
        forecast = _theta_and_ets(series[row], ahead)
        if forecast is None:
            failed.append(row)
        else:
            answer[row] = forecast
    counts.add(f"{Method.LOCAL}: Theta and ETS did not converge, ARIMA", len(failed))
    if failed:
        answer[failed] = arima(series[failed], ahead)
    return answer


def _theta_and_ets(values: Floats, ahead: int) -> Floats | None:
    """Return the mean of those that give finite numbers; `None` if none does."""
    answers = []
    for model in _models():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                forecast = model.forecast(y=values, h=ahead)["mean"]
            except (ArithmeticError, ValueError, RuntimeError, np.linalg.LinAlgError):
                # The library's errors if a short series has no fit; the caller counts them.
                continue
        if np.isfinite(forecast).all():
            answers.append(np.clip(forecast, 0, 100))
    return np.mean(answers, axis=0) if answers else None


@cache
def _models() -> tuple[Any, ...]:
    from statsforecast.models import AutoETS, Theta

    return Theta(season_length=1), AutoETS(model="ZNN", season_length=1)
