"""Which effect an experiment can detect, and how long it takes: before it starts, and pure.

Effects are in standard deviations of one label's value. The looks cost a little: bounds that are
higher than those of a single test require more students. `expected` counts the labels that are due.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt
import pandas as pd

from grade_ml.core.errors import ConfigurationError
from grade_ml.experiments.bounds import Spending, bounds, crossings

#: Looks that a plan assumes: every four hours of two weeks. Their power is .779 where a single
#: test has .8, and that of 720 looks .777.
_LOOKS = 84
#: Terms for which a history is repeated; a longer duration is not reported.
_TERMS = 20


@dataclass(frozen=True)
class Design:
    """The assumptions about labels before they arrive.

    Attributes
    ----------
    alpha, power
        Two-sided error rate, and the probability to detect the effect.
    correlation
        Between the losses of two versions on one label (0-1): both score the same students. `None`
        if students are divided between the arms.
    labels_per_student
        How many are expected of each student.
    alike
        Correlation of the labels of one student (0-1).
    share
        Of the students in the treatment arm, if they are divided.
    """

    alpha: float = 0.05
    power: float = 0.8
    correlation: float | None = None
    labels_per_student: float = 1.0
    alike: float = 0.6
    share: float = 0.5

    def __post_init__(self) -> None:
        """Refuse impossible values."""
        for name, low, high in (
            ("alpha", 0.0, 0.5),
            ("power", self.alpha, 1.0),
            ("share", 0.0, 1.0),
        ):
            if not low < getattr(self, name) < high:
                raise ConfigurationError(
                    f"{name} is {getattr(self, name):g}.", f"Take a number in {low:g} to {high:g}."
                )
        for name in ("correlation", "alike"):
            if getattr(self, name) is not None and not 0 <= getattr(self, name) < 1:
                raise ConfigurationError(
                    f"{name} is {getattr(self, name):g}.", "Take a correlation, from 0 to below 1."
                )
        if not 1 <= self.labels_per_student < math.inf:
            raise ConfigurationError(
                f"{self.labels_per_student:g} labels are expected per student.",
                "Take 1 or more: students without a label do not count.",
            )

    @property
    def variance(self) -> float:
        """Of the difference, times all students, in squared standard deviations of a label."""
        labels = self.labels_per_student
        mean = (1 + (labels - 1) * self.alike) / labels
        if self.correlation is not None:
            return 2 * (1 - self.correlation) * mean
        return mean / (self.share * (1 - self.share))


@dataclass(frozen=True)
class Size:
    """How many students are needed to detect an effect.

    Attributes
    ----------
    students
        In all arms together; if both versions score all students, each student counts once.
    labels
        Those that all students are expected to have: `planned_labels` of a plan.
    effect
        Detected with the probability `power`, in standard deviations of a label.
    inflation
        How many times as many students as a single test needs.
    stops_at
        The share of the labels after which an experiment with this effect ends, on average.
    """

    students: int
    labels: int
    effect: float
    power: float
    inflation: float
    stops_at: float


def students_for(effect: float, design: Design) -> Size:
    """Return how many students are needed to detect an effect, in standard deviations of a label.

    Examples
    --------
    >>> size = students_for(0.2, Design())
    >>> size.students, round(size.inflation, 2)
    (828, 1.05)
    """
    if not (math.isfinite(effect) and effect != 0):
        raise ConfigurationError(
            f"An effect of {effect:g} cannot be planned for.", "Name one that would matter."
        )
    needed = drift(design.alpha, design.power)
    students = math.ceil(needed.repeated**2 * design.variance / effect**2)
    return _size(max(students, 4), abs(effect), design, design.power)


def effect_for(students: int, design: Design) -> Size:
    """Return the smallest effect that so many students detect with `design.power`."""
    if students < 1:
        raise ConfigurationError(
            "No effect can be detected without students.", "Name how many take part."
        )
    effect = drift(design.alpha, design.power).repeated * math.sqrt(design.variance / students)
    return _size(students, effect, design, design.power)


def power_for(students: int, effect: float, design: Design) -> Size:
    """Return the probability that so many students detect an effect."""
    if students < 1 or not math.isfinite(effect):
        raise ConfigurationError(
            f"{students} students and an effect of {effect:g} have no power.",
            "Name at least one student, and a number.",
        )
    chance, _ = _detected(design.alpha, abs(effect) * math.sqrt(students / design.variance))
    return _size(students, abs(effect), design, chance)


def _size(students: int, effect: float, design: Design, power: float) -> Size:
    inflation = drift(design.alpha, design.power).inflation
    _, stops_at = _detected(design.alpha, effect * math.sqrt(students / design.variance))
    labels = round(students * design.labels_per_student)
    return Size(students, labels, effect, power, inflation, stops_at)


@dataclass(frozen=True)
class Drift:
    """Standard errors that a true difference lies from 0 at the end: of a single test, of looks."""

    single: float
    repeated: float

    @property
    def inflation(self) -> float:
        """How many times as many students the looks require."""
        return (self.repeated / self.single) ** 2


@lru_cache(maxsize=64)
def drift(alpha: float, power: float) -> Drift:
    """Return how far from 0 a difference has to be to be detected with the probability `power`."""
    from scipy.optimize import brentq
    from scipy.special import ndtri

    # The other side's share of the power is below 1e-6 at any use of this.
    single = float(ndtri(1 - alpha / 2) + ndtri(power))
    # 84 looks require 5% more students at the usual rates, and never for twice as many.
    repeated = brentq(lambda far: _detected(alpha, far)[0] - power, single, 1.5 * single, xtol=1e-4)
    return Drift(single, float(repeated))


def _detected(alpha: float, far: float) -> tuple[float, float]:
    """Return the probability to detect `far` in its direction, and the mean share at the end."""
    share, limits = _looks(alpha)
    above, below = crossings(limits, share, far)
    ended = above + below
    return float(above.sum()), float(ended @ share + 1 - ended.sum())


@lru_cache(maxsize=8)
def _looks(alpha: float) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    share = np.arange(1, _LOOKS + 1) / _LOOKS
    return share, bounds(share, share, alpha, Spending.OBRIEN_FLEMING)


@dataclass(frozen=True)
class Duration:
    """How long the labels take to arrive; NaN if unknown.

    Attributes
    ----------
    weeks
        Until all planned labels have arrived.
    expected_weeks
        Until an experiment with the planned effect ends, on average.
    labels_per_week
        Mean of the history.
    text
        The same as a sentence.
    """

    weeks: float
    expected_weeks: float
    labels_per_week: float
    text: str


def duration(labels_by_week: pd.Series, size: Size) -> Duration:
    """Return how long an experiment takes if labels arrive as before.

    Parameters
    ----------
    labels_by_week
        Labels of each week in order, from the first week of a term to its last; a week without
        labels is a 0. It is repeated, term after term. Weeks that are unknown (NaN) are left out.
    size
        What the experiment needs.
    """
    history = labels_by_week.to_numpy(dtype=np.float64)
    history = history[np.isfinite(history)]
    if (history < 0).any():
        raise ConfigurationError(
            "A week of the history has fewer than 0 labels.", "Count the labels that arrived."
        )
    if not history.sum():
        text = "No label arrived in the known weeks, so the duration is unknown."
        return Duration(math.nan, math.nan, 0.0 if history.size else math.nan, text)
    arrived = np.cumsum(np.tile(history, _TERMS))
    mean = float(history.mean())
    if arrived[-1] < size.labels:
        terms = size.labels / history.sum()
        text = (
            f"{size.labels:,} labels are {terms:,.0f} times those of all {history.size} known "
            "weeks. Look for a larger effect, or include more courses."
        )
        return Duration(math.nan, math.nan, mean, text)
    weeks, early = (
        int(np.searchsorted(arrived, share * size.labels - 1e-9)) + 1
        for share in (1.0, size.stops_at)
    )
    text = (
        f"{size.students:,} students with {size.labels:,} labels detect a difference of "
        f"{size.effect:.2g} standard deviations with a chance of {size.power:.0%}. At {mean:,.0f} "
        f"labels a week that takes {weeks} week{'s' * (weeks > 1)}; if the difference exists, "
        f"{early} on average. The looks cost {size.inflation - 1:.0%} more students than one test."
    )
    return Duration(float(weeks), float(early), mean, text)
