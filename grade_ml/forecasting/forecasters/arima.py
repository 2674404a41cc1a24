"""ARIMA of a small fixed set of low orders, fitted for all series of one length at once.

Conditional least squares over a grid of the moving-average term; the order with the lowest AICc
answers (Hyndman & Khandakar 2008 search more orders, one series at a time). Orders: mean
(0,0,0), level (0,1,1), autoregression (1,0,0), and autoregressive differences (1,1,0).
"""

from __future__ import annotations

import numpy as np

from grade_ml.forecasting.contract import Floats

_GRID = np.linspace(0.05, 1.0, 20)


def arima(values: Floats, ahead: int) -> Floats:
    """Return (series, ahead) forecasts of (series, length) values without gaps; length 4 or more.

    Examples
    --------
    >>> arima(np.array([[50.0, 50, 50, 50, 50]]), 2)
    array([[50., 50.]])
    """
    fits = [_mean(values, ahead), _level(values, ahead), _autoregression(values, ahead)]
    fits.append(_differences(values, ahead))
    loss = np.stack([error for error, _ in fits])
    answers = np.stack([answer for _, answer in fits])
    best = loss.argmin(0)
    return np.asarray(np.clip(answers[best, np.arange(len(values))], 0, 100))


def _aicc(errors: Floats, parameters: int) -> Floats:
    number = errors.shape[1]
    variance = np.maximum((errors**2).mean(1), 1e-6)
    k = parameters + 1
    return np.asarray(number * np.log(variance) + 2 * k + 2 * k * (k + 1) / max(number - k - 1, 1))


def _mean(values: Floats, ahead: int) -> tuple[Floats, Floats]:
    level = values.mean(1, keepdims=True)
    return _aicc(values[:, 1:] - level, 1), level.repeat(ahead, 1)


def _level(values: Floats, ahead: int) -> tuple[Floats, Floats]:
    """Exponential smoothing, the best of a grid of weights: ARIMA(0,1,1)."""
    state = np.repeat(values[:, :1], len(_GRID), 1)
    errors = []
    for column in values[:, 1:].T:
        error = column[:, None] - state
        errors.append(error)
        state = state + _GRID * error
    every = np.stack(errors, axis=2)
    best = (every**2).mean(2).argmin(1)
    row = np.arange(len(values))
    return _aicc(every[row, best], 1), state[row, best][:, None].repeat(ahead, 1)


def _autoregression(values: Floats, ahead: int) -> tuple[Floats, Floats]:
    centre = values.mean(1, keepdims=True)
    slope, errors = _lagged(values - centre)
    power = slope[:, None] ** np.arange(1, ahead + 1)
    return _aicc(errors, 2), centre + (values[:, -1:] - centre) * power


def _differences(values: Floats, ahead: int) -> tuple[Floats, Floats]:
    steps = np.diff(values, axis=1)
    slope, errors = _lagged(steps)
    power = np.cumsum(slope[:, None] ** np.arange(1, ahead + 1), axis=1)
    return _aicc(errors, 1), values[:, -1:] + steps[:, -1:] * power


def _lagged(values: Floats) -> tuple[Floats, Floats]:
    """Return the stationary slope over the value before, and its errors."""
    before, after = values[:, :-1], values[:, 1:]
    square = (before**2).sum(1)
    slope = np.clip((before * after).sum(1) / np.where(square > 0, square, 1), -0.95, 0.95)
    return slope, after - slope[:, None] * before
