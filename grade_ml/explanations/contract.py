"""The data of an explanation: contributions to a number, for many rows or for one enrollment.

`attribution` computes the contributions, `store` stores the explanations.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from grade_ml.ensemble.rows import ROW

Floats = npt.NDArray[np.float64]

#: The remainders, which belong to no feature. Clipping bounds the number by what is certain and
#: what is still possible; the course's own model moves the number of all courses.
CLIPPING, COURSE = "clipping", "course_correction"
#: Largest difference between a sum and the number it explains: points, and log-odds.
TOLERANCE = 1e-3


@dataclass(frozen=True)
class Account:
    """The parts of one number: baseline + contributions + remainders = predicted.

    Attributes
    ----------
    predicted
        The number as served: points (0-100), or the log-odds of the risk.
    baseline
        The number of an average row of the training terms.
    contributions
        What each feature adds to it, by the feature's name.
    remainders
        What is added beside the features, by name.
    """

    predicted: float
    baseline: float
    contributions: Mapping[str, float]
    remainders: Mapping[str, float]

    @property
    def error(self) -> float:
        """How far the sum is from the number."""
        parts = (*self.contributions.values(), *self.remainders.values())
        return abs(math.fsum((self.baseline, *parts)) - self.predicted)

    def largest(self, most: int) -> list[tuple[str, float]]:
        """Return the features with the largest contributions, the largest first, without zeros."""
        ranked = sorted(self.contributions.items(), key=lambda item: (-abs(item[1]), item[0]))
        return [(name, value) for name, value in ranked[:most] if value]

    def in_probability(self) -> Account:
        """Return the account of log-odds as an account of the probability (0-1).

        Each part is scaled by the slope of the line from baseline to prediction (the rescale rule
        of DeepLIFT, Shrikumar, Greenside & Kundaje 2017): signs and order stay, sums stay exact.
        """
        low, high = (1 / (1 + math.exp(-log_odds)) for log_odds in (self.baseline, self.predicted))
        distance = self.predicted - self.baseline
        slope = (high - low) / distance if abs(distance) > 1e-9 else low * (1 - low)
        return Account(
            high,
            low,
            {name: slope * value for name, value in self.contributions.items()},
            {name: slope * value for name, value in self.remainders.items()},
        )


@dataclass(frozen=True)
class Explanation:
    """The explanation of one enrollment's prediction.

    Attributes
    ----------
    grade
        In points; None if no grade is predicted.
    risk
        In log-odds.
    values
        The features' values as they were read; a missing value is None.
    model
        Name and version, such as "pooled 3".
    degraded
        The reasons why it is degraded; empty if it is not.
    """

    section_id: str
    student_id: str
    cut_day: float
    grade: Account | None
    risk: Account
    values: Mapping[str, Any]
    model: str = ""
    degraded: tuple[str, ...] = ()


@dataclass(frozen=True)
class Breakdown:
    """The `Account` of many rows; `contributions` has the shape (rows, features).

    `remainders` has a column per name, `predicted` a number per row.
    """

    predicted: Floats
    baseline: float
    contributions: Floats
    remainders: pd.DataFrame

    @property
    def error(self) -> Floats:
        """How far each row's sum is from its number."""
        added = self.contributions.sum(axis=1) + self.remainders.to_numpy(np.float64).sum(axis=1)
        return np.asarray(np.abs(self.baseline + added - self.predicted))


@dataclass(frozen=True)
class Attributions:
    """The explanations of many rows.

    Attributes
    ----------
    features
        The names of the columns of `contributions` and of `values`.
    values
        The features as they were read, one row per row.
    predictions
        `ROW` and `PREDICTED` as served.
    grade
        In points; all NaN if no grade is predicted.
    risk
        In log-odds.
    """

    features: tuple[str, ...]
    values: pd.DataFrame
    predictions: pd.DataFrame
    grade: Breakdown
    risk: Breakdown
    degraded: tuple[str, ...] = field(default=())

    def __len__(self) -> int:
        return len(self.predictions)

    def explanations(self, model: str = "") -> Iterator[Explanation]:
        """Yield each row's explanation, in order."""
        sections, students, days = (self.predictions[name].tolist() for name in ROW)
        values = self.values.astype(object).to_numpy()
        values[self.values.isna().to_numpy()] = None
        accounts = zip(self._accounts(self.grade), self._accounts(self.risk), strict=True)
        rows = zip(sections, students, days, values.tolist(), accounts, strict=True)
        for section, student, day, row, (grade, risk) in rows:
            known = dict(zip(self.features, row, strict=True))
            known_grade = None if math.isnan(grade.predicted) else grade
            yield Explanation(section, student, day, known_grade, risk, known, model, self.degraded)

    def _accounts(self, parts: Breakdown) -> Iterator[Account]:
        names = [str(name) for name in parts.remainders]
        for predicted, row, rest in zip(
            parts.predicted.tolist(),
            parts.contributions.tolist(),
            parts.remainders.to_numpy(np.float64).tolist(),
            strict=True,
        ):
            contributions = dict(zip(self.features, row, strict=True))
            remainders = dict(zip(names, rest, strict=True))
            yield Account(predicted, parts.baseline, contributions, remainders)
