"""External conditions around the campus: daily series, each a pure function of seed and day."""

from __future__ import annotations

import numpy as np
import pandas as pd

from grade_ml.campus.simulated.laws import LAWS
from grade_ml.campus.simulated.seeds import Purpose, generator

#: Waves that add up to a series, with periods from a week to a season (days).
WAVES = 24
SHORTEST, LONGEST = 7.0, 90.0
#: Heat follows the year, warmest around 20 July (day 201), for half of its variance.
WARMEST = 201.0
YEAR = 365.25


def condition_values(seed: int, days: np.ndarray) -> np.ndarray:
    """Return the conditions on `days` (days since 1970-01-01): one row per day, mean 0 and SD 1.

    Columns are in the order of `LAWS.conditions`.
    """
    return np.column_stack([_series(seed, n, name, days) for n, name in enumerate(LAWS.conditions)])


def conditions(seed: int, first: np.datetime64, last: np.datetime64) -> pd.DataFrame:
    """Return `day` and one column per condition, from `first` to `last`, both included."""
    days = np.arange(first, last + 1, dtype="datetime64[D]")
    values = condition_values(seed, days.astype("int64"))
    frame = pd.DataFrame(values, columns=list(LAWS.conditions))
    frame.insert(0, "day", days.astype("datetime64[ns]"))
    return frame


def _series(seed: int, number: int, name: str, days: np.ndarray) -> np.ndarray:
    random = generator(seed, Purpose.CONDITION, number)
    periods = np.exp(random.uniform(np.log(SHORTEST), np.log(LONGEST), WAVES))
    phases = random.uniform(0, 2 * np.pi, WAVES)
    waves = np.cos(2 * np.pi * days[:, None] / periods + phases)
    noise = np.sqrt(2 / WAVES) * waves.sum(axis=1)
    if name != "heat":
        return np.asarray(noise)
    return np.asarray(np.cos(2 * np.pi * (days - WARMEST) / YEAR) + np.sqrt(0.5) * noise)
