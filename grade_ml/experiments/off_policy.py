"""What each arm would be worth if all students had been given it, from the students who were.

Each student counts by one over the probability with which the arm was given, as it was logged on
that day: that removes the effect of the changing shares. There are three estimates:

- inverse propensity score (IPS; Horvitz & Thompson 1952): unbiased whatever rewards look like;
- self-normalised IPS (Hájek 1971): a little biased in small samples, and steadier;
- doubly robust (Dudík, Langford & Li 2011): IPS of the residuals of a model of the rewards. The
  model of a student learns from others (cross-fitting), so it is unbiased, too, with any model.

Standard errors treat students as independent. Shares that follow rewards make them a little
dependent; with a floor under the shares that matters little (Hadad et al. 2021), and where the
weights concentrate on few students, an estimate is refused.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import nan, sqrt
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    import pandas as pd

Floats = npt.NDArray[np.float64]
Places = npt.NDArray[np.bool_]

#: Students, by weight, below which the interval of a mean is not to be trusted.
LEAST_EFFECTIVE = 30.0
#: Parts of the students; the model of one part learns from the others.
_FOLDS = 5
#: Students with a known covariate from which a line is fitted instead of a mean.
_LEAST_LINE = 20


@dataclass(frozen=True)
class Value:
    """Mean reward if every student had been given one arm; NaN if it is refused.

    Attributes
    ----------
    students
        Students who were given it and whose reward is known.
    effective
        How many equally weighted students carry as much (Kish 1965).
    reason
        Why nothing is estimated, with figures; empty if it is.
    """

    arm: str
    students: int
    effective: float
    ips: float = nan
    ips_error: float = nan
    normalised: float = nan
    normalised_error: float = nan
    doubly_robust: float = nan
    doubly_robust_error: float = nan
    reason: str = ""


def values(
    log: pd.DataFrame, arms: Sequence[str], *, least_effective: float = LEAST_EFFECTIVE
) -> list[Value]:
    """Return the value of each arm.

    Parameters
    ----------
    log
        One row per student: arm, probability (with which this arm was given), reward (NaN until it
        is known), and covariate (known before the arm was given; NaN where unknown).
    """
    known = log[log["reward"].notna()]
    return [_value(known, arm, least_effective) for arm in arms]


def _value(known: pd.DataFrame, arm: str, least: float) -> Value:
    reward = known["reward"].to_numpy(np.float64)
    own = (known["arm"] == arm).to_numpy(bool)
    probability = known["probability"].to_numpy(np.float64, na_value=nan)[own]
    number = int(own.sum())
    odd = int((~((probability > 0) & (probability <= 1))).sum())
    if odd:
        return Value(arm, number, nan, reason=f"of {odd} students the probability is 0 or unknown")
    if not np.isfinite(reward).all():
        return Value(arm, number, nan, reason=f"{(~np.isfinite(reward)).sum()} rewards are endless")
    weight = 1 / probability
    effective = float(weight.sum() ** 2 / (weight**2).sum()) if number else 0.0
    if not number or effective < least:
        reason = f"it rests on {effective:.1f} students, by weight, and takes {least:g}"
        return Value(arm, number, effective, reason=reason)
    weights = np.zeros(len(reward))
    weights[own] = weight
    model = _crossfitted(reward, own, known["covariate"].to_numpy(np.float64, na_value=nan))
    ips, ips_error = _mean(weights * reward)
    robust, robust_error = _mean(model + weights * (reward - model))
    normalised = float(weights @ reward / weights.sum())
    spread = float(np.sum((weights * (reward - normalised)) ** 2))
    return Value(
        arm,
        number,
        effective,
        ips,
        ips_error,
        normalised,
        sqrt(spread) / float(weights.sum()),
        robust,
        robust_error,
    )


def _mean(parts: Floats) -> tuple[float, float]:
    """Return the mean of one number per student, and its standard error."""
    error = float(parts.std(ddof=1)) / sqrt(len(parts)) if len(parts) > 1 else nan
    return float(parts.mean()), error


def _crossfitted(reward: Floats, own: Places, covariate: Floats) -> Floats:
    """Return the expected reward of each student with the arm, learned from other folds."""
    fold = np.arange(len(reward)) % _FOLDS
    answer = np.zeros(len(reward))
    for part in range(_FOLDS):
        held_out, training = fold == part, (fold != part) & own
        if training.any():
            answer[held_out] = _expected(covariate[training], reward[training], covariate[held_out])
    return answer


def _expected(known: Floats, reward: Floats, targets: Floats) -> Floats:
    """Return a line over the covariate, within the known rewards; their mean if it is unknown."""
    answer = np.full(len(targets), reward.mean())
    unknown, lacking = np.isnan(known), np.isnan(targets)
    if unknown.any():
        answer[lacking] = reward[unknown].mean()
    if (~unknown).sum() >= _LEAST_LINE and np.ptp(known[~unknown]) > 0:
        slope, start = np.polyfit(known[~unknown], reward[~unknown], 1)
        line = start + slope * targets[~lacking]
        answer[~lacking] = np.clip(line, reward.min(), reward.max())
    return answer
