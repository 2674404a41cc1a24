"""What an explanation is: a number taken apart, for many rows at once or for one enrollment.

How numbers are taken apart is said in `attribution`, where explanations are kept in `store`.
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

#: What no feature stands for. The number cannot leave what is certain and still possible; the
#: course's own model moves the number of all courses.
CLIPPING, COURSE = "clipping", "course_correction"
#: Largest difference between a sum and the number it explains: points, and log-odds.
TOLERANCE = 1e-3


@dataclass(frozen=True)
class Account:
    """One number taken apart: baseline + contributions + remainders = predicted.

    Attributes
    ----------
    predicted
        The number as served: points (0-100), or the log-odds of the risk.
    baseline
        The number of an average row of the training terms.
    contributions
        What each feature adds to it, by the feature's name.
    remainders
        What is added otherwise, by name.
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
        """Return the features that add or take most, the largest first; none that adds nothing."""
        ranked = sorted(self.contributions.items(), key=lambda one: (-abs(one[1]), one[0]))
        return [(name, value) for name, value in ranked[:most] if value]

    def in_probability(self) -> Account:
        """Return the account of log-odds as one of the probability (0-1).

        Each part is scaled by the slope of the line from baseline to prediction (the rescale rule
        of DeepLIFT, Shrikumar, Greenside & Kundaje 2017): signs and order stay, sums stay exact.
        """
        low, high = (1 / (1 + math.exp(-one)) for one in (self.baseline, self.predicted))
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
    """Why one enrollment's prediction says what it says.

    Attributes
    ----------
    grade
        In points; None where no grade is known.
    risk
        In log-odds.
    values
        The features' values as they were read; a missing one is None.
    model
        Name and version, such as "pooled 3".
    degraded
        Why it is less than it could be; empty: it is not.
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
        In points; all NaN where no grade is known.
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
            told = None if math.isnan(grade.predicted) else grade
            yield Explanation(section, student, day, told, risk, known, model, self.degraded)

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
