"""Forecasts of one student from the student's series alone: ARIMA of statsmodels and Prophet.

They are too slow for all students and, at this length, hardly better than the mean so far: beside a
forecast they show what the student's own results imply, and nothing is computed from them.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pandas as pd

from grade_ml.core.optional import absence, installed
from grade_ml.forecasting.contract import Floats, Panel
from grade_ml.forecasting.forecasters.seasonal import weekly_forecast
from grade_ml.forecasting.settings import SETTINGS

#: Orders that are tried; the one with the lowest AICc answers.
_ORDERS = ((0, 0, 0), (1, 0, 0), (0, 1, 1))


@dataclass(frozen=True)
class Alone:
    """Forecasts of the remaining scores (0-100) by method, and why a method has none."""

    forecasts: dict[str, Floats]
    reasons: dict[str, str]


def alone(panel: Panel) -> Alone:
    """Forecast the remaining scores of a panel's first student from his or her results only."""
    past = panel.past[~np.isnan(panel.score[0, panel.past])]
    scores = panel.score[0, past]
    days, ahead = (
        panel.started_on + panel.due_day[assignments] for assignments in (past, panel.remaining)
    )
    methods: dict[str, Callable[[], Floats | None]] = {
        "arima": lambda: _arima(scores, len(ahead)),
        "prophet": lambda: _prophet(scores, days, ahead),
    }
    forecasts, reasons = {}, {}
    for name, method in methods.items():
        if len(scores) < SETTINGS.least_local:
            reasons[name] = f"fewer than {SETTINGS.least_local} results"
        elif name == "prophet" and not installed(name):
            reasons[name] = absence(name)
        else:
            forecast = method()
            if forecast is None:
                reasons[name] = "did not converge"
            else:
                forecasts[name] = np.clip(forecast, 0, 100)
    return Alone(forecasts, reasons)


def _arima(scores: Floats, ahead: int) -> Floats | None:
    """Return the forecast of the best order that converges, `None` if none does."""
    from statsmodels.tsa.arima.model import ARIMA

    best, answer = np.inf, None
    for order in _ORDERS:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                fitted = ARIMA(scores, order=order, trend="c" if order[1] == 0 else "n").fit()
            except (ValueError, np.linalg.LinAlgError):
                # The library's errors if there is no fit of this order.
                continue
        converged = fitted.mle_retvals is None or fitted.mle_retvals.get("converged", True)
        forecast = np.asarray(fitted.forecast(ahead), dtype=np.float64)
        if converged and np.isfinite(forecast).all() and fitted.aicc < best:
            best, answer = fitted.aicc, forecast
    return answer


def _prophet(scores: Floats, days: Floats, ahead: Floats) -> Floats | None:
    dates = days.astype("int64").astype("datetime64[D]").astype("M8[ns]")
    # Two assignments due on one day are one point.
    series = pd.DataFrame({"ds": dates, "y": scores}).groupby("ds", as_index=False).mean()
    return weekly_forecast(series, ahead)
