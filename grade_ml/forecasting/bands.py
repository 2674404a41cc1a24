"""Bands of a score: a two-humped distribution, and the width that held-out scores require.

The distribution is a mass at 0 (not handed in) and, for work that is handed in, the expected score
plus the errors of held-out scores at that level. Nested intervals of it are widened or narrowed
until they hold the promised share of held-out rows, by course and horizon (split conformal
prediction with the distribution's ranks as scores; Vovk et al. 2005, Chernozhukov et al. 2021).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from grade_ml.forecasting.combination import Cell, by_cell, in_cells, own_courses
from grade_ml.forecasting.contract import Floats, Ints
from grade_ml.forecasting.held_out import HeldOut

LEVELS = (0.8, 0.95)
_GRID = np.linspace(0.005, 0.995, 100)
_BINS = 6
#: The least chance to hand in by which a mean is divided.
_LEAST = 0.02


@dataclass(frozen=True)
class Bands:
    """Errors (bins, grid) by level of the expected score, and (80%, 95%) ranks by cell."""

    edges: Floats
    errors: Floats
    courses: tuple[str, ...]
    ranks: Mapping[Cell, Floats]

    @classmethod
    def learn(cls, rows: HeldOut, combined: Floats) -> Bands:
        """Learn from held-out rows and their forecasts (N, 2)."""
        given = expected_given(combined)
        handed_in = rows.submitted == 1
        error, level = (rows.truth - given)[handed_in], given[handed_in]
        edges = (
            np.quantile(level, np.linspace(0, 1, _BINS + 1)[1:-1]) if len(level) else np.zeros(0)
        )
        place = np.searchsorted(edges, level)
        errors = np.stack(
            [
                np.quantile(error[place == number], _GRID)
                if (place == number).any()
                else np.zeros(len(_GRID))
                for number in range(len(edges) + 1)
            ]
        )
        bare = cls(edges, errors, tuple(own_courses(rows)), {})
        rank = bare._rank(combined, rows.truth, handed_in)
        ranks = {}
        for cell, places in by_cell(rows, bare.courses):
            shares = [min(level * (1 + 1 / len(places)), 1.0) for level in LEVELS]
            ranks[cell] = np.quantile(rank[places], shares, method="higher")
        return cls(edges, errors, bare.courses, ranks)

    def _given(self, combined: Floats) -> Floats:
        """Return (N, grid) scores of those who hand in, in rising order."""
        given = expected_given(combined)
        place = np.searchsorted(self.edges, given)
        return np.clip(given[:, None] + self.errors[place], 0, 100)

    def _rank(self, combined: Floats, truth: Floats, handed_in: npt.NDArray[np.bool_]) -> Floats:
        """Return the least width, as a share 0-1, whose interval holds the truth."""
        missed, given = 1 - combined[:, 1], self._given(combined)
        # Many scores are 100: a band that reaches 100 holds them all, so the nearer end counts.
        below = missed + (1 - missed) * (given < truth[:, None]).mean(1)
        upto = missed + (1 - missed) * (given <= truth[:, None]).mean(1)
        central = np.maximum(np.maximum(1 - 2 * upto, 2 * below - 1), 0)
        rank = np.where(central <= 1 - 2 * missed, central, below)
        zero = ~handed_in | (truth <= 0)
        return np.where(zero, np.maximum(1 - 2 * missed, 0), rank)

    def quantiles(self, combined: Floats, levels: Floats) -> Floats:
        """Return (N, levels) quantiles of the whole distribution; `levels` is (L,) or (N, L)."""
        missed = (1 - combined[:, 1])[:, None]
        requested = np.broadcast_to(levels, (len(combined), np.shape(levels)[-1]))
        share = np.clip((requested - missed) / np.maximum(1 - missed, 1e-9), 0, 1)
        values = self._given(combined)
        position = np.clip(share * len(_GRID) - 0.5, 0, len(_GRID) - 1)
        low = position.astype(np.int64)
        high = np.minimum(low + 1, len(_GRID) - 1)
        first = np.take_along_axis(values, low, 1)
        second = np.take_along_axis(values, high, 1)
        quantile = np.clip(first + (position - low) * (second - first), first, second)
        return np.where(requested <= missed, 0.0, quantile)

    def median(self, combined: Floats) -> Floats:
        """Return (N,) the scores below which half of the distribution lies."""
        return self.quantiles(combined, np.array([0.5]))[:, 0]

    def bounds(self, combined: Floats, course: npt.NDArray[np.object_], horizon: Ints) -> Floats:
        """Return (N, 4): low80, high80, low95, high95; the median lies in each."""
        width = np.empty((len(combined), 2))
        for places, ranks in in_cells(self.ranks, self.courses, course, horizon):
            width[places] = ranks
        missed = (1 - combined[:, 1])[:, None]
        # Once 0 is inside, all that is left of the width goes upwards.
        central = width <= 1 - 2 * missed
        low = np.where(central, (1 - width) / 2, 0.0)
        high = np.where(central, (1 + width) / 2, np.maximum(width, 1 - missed))
        values = self.quantiles(combined, np.hstack([low, high]))
        values = np.where(np.hstack([central, np.ones_like(central)]), values, 0.0)
        low80, low95, high80, high95 = np.split(values, 4, axis=1)
        return np.hstack([low80, high80, np.minimum(low95, low80), np.maximum(high95, high80)])

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain values."""
        return {
            "edges": self.edges.tolist(),
            "errors": self.errors.tolist(),
            "courses": list(self.courses),
            "ranks": [[*cell, values.tolist()] for cell, values in self.ranks.items()],
        }

    @classmethod
    def from_dict(cls, stored: Mapping[str, Any]) -> Bands:
        """Read what `to_dict` returned."""
        return cls(
            np.array(stored["edges"]),
            np.array(stored["errors"]),
            tuple(stored["courses"]),
            {(name, of_bucket): np.array(values) for name, of_bucket, values in stored["ranks"]},
        )


def expected_given(combined: Floats) -> Floats:
    """Return the expected score of an assignment that is handed in."""
    return np.clip(combined[:, 0] / np.maximum(combined[:, 1], _LEAST), 0, 100)


def crps(truth: Floats, quantiles: Floats, levels: Floats) -> Floats:
    """Return the continuous ranked probability score of each row, in points.

    Twice the mean pinball loss over evenly spread `levels` (Gneiting & Raftery 2007).
    """
    error = truth[:, None] - quantiles
    return np.asarray(2 * np.maximum(levels * error, (levels - 1) * error).mean(1))
