"""The forecasts a person would make: the last result again, or the mean so far."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Self

import numpy as np

from grade_ml.forecasting.contract import Counts, Estimate, Floats, Forecaster, Method, Panel
from grade_ml.forecasting.panels import mean_known

#: The forecast of a student without any result if the class has none either.
_UNKNOWN_SCORE, _UNKNOWN_SUBMIT = 50.0, 0.75


class _Naive(Forecaster):
    """A level per student, the same for everything that remains; nothing is learned."""

    @classmethod
    def fit(cls, panels: Sequence[Panel], *, seed: int, previous: Self | None = None) -> Self:
        """See `Forecaster.fit`."""
        return cls()

    def forecast(self, panels: Sequence[Panel], counts: Counts) -> list[Estimate]:
        """See `Forecaster.forecast`; without a result of the student it is the class's level."""
        answers = []
        for panel in panels:
            score, submit, *of_class = (
                self._level(values[:, panel.past])
                for values in (panel.score, panel.submitted, *panel.whole_class)
            )
            counts.add(f"{self.method}: no result yet, level of the class", np.isnan(score).sum())
            score = _filled(score, of_class[0], _UNKNOWN_SCORE)[:, None].repeat(panel.shape[1], 1)
            submit = _filled(submit, of_class[1], _UNKNOWN_SUBMIT)[:, None].repeat(
                panel.shape[1], 1
            )
            answers.append(Estimate.bounded(score, submit))
        return answers

    @staticmethod
    def _level(values: Floats) -> Floats:
        """Return one number per student from what is known, NaN where nothing is."""
        raise NotImplementedError

    def save(self, folder: Path) -> None:
        """See `Forecaster.save`; there is nothing to keep."""

    @classmethod
    def load(cls, folder: Path) -> Self:
        """See `Forecaster.load`."""
        return cls()


def _filled(level: Floats, of_class: Floats, unknown: float) -> Floats:
    middle = mean_known(of_class)
    return np.where(np.isnan(level), unknown if np.isnan(middle) else middle, level)


class Last(_Naive):
    """The last result again; a missed assignment counts 0."""

    method = Method.LAST

    @staticmethod
    def _level(values: Floats) -> Floats:
        known = ~np.isnan(values)
        place = np.where(known, np.arange(values.shape[1]), -1).max(1, initial=-1)
        if not values.shape[1]:
            return np.full(len(values), np.nan)
        return np.where(place >= 0, values[np.arange(len(values)), place], np.nan)


class Mean(_Naive):
    """The mean of the results so far; a missed assignment counts 0."""

    method = Method.MEAN

    @staticmethod
    def _level(values: Floats) -> Floats:
        return mean_known(values, 1)
