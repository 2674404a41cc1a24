"""When a difference is large enough to be claimed, in spite of repeated looks.

Where the number of labels is planned: two-sided bounds after Lan & DeMets (1983), by the recursion
of Armitage, McPherson & Rowe (1969; Jennison & Turnbull 2000, chapter 19). Where it is open: an
asymptotic confidence sequence (Waudby-Smith et al. 2024). `comparison` defines z; `look` decides
when a bound is crossed.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from collections.abc import Sequence

Floats = npt.NDArray[np.float64]

#: A look that adds less than this share of the information is no look: what it may spend goes to
#: the next one. It costs at most 1% of the duration, and bounds 720 looks to about 200 steps.
LEAST_GAIN = 0.01
#: Nor is one that may spend less: its bound would be a z beyond 6.4.
LEAST_SPENT = 1e-10
#: No z beyond lies on the grid: the chance is 1e-15.
_FARTHEST = 8.0
#: Nodes of the grid per unit of z. Narrowest on the grid is the step of a look with the least gain,
#: a standard deviation of .1; twice as many nodes move no bound by more than 1e-6.
_NODES = 32


class Spending(StrEnum):
    """How the chance of a false claim is spent over the labels.

    `OBRIEN_FLEMING` spends little at first, so that the last look requires hardly more than a test
    without looks; `POCOCK` spends evenly, so that a large harm is detected early.
    """

    OBRIEN_FLEMING = "obrien_fleming"
    POCOCK = "pocock"

    def spent(self, fractions: npt.ArrayLike, alpha: float) -> Floats:
        """Return the two-sided chance of a false claim up to each fraction (0-1) of the labels."""
        from scipy.special import ndtr, ndtri

        share = np.clip(np.asarray(fractions, dtype=np.float64), 0.0, 1.0)
        if self is Spending.POCOCK:
            return alpha * np.log1p((np.e - 1) * share)
        with np.errstate(divide="ignore"):
            return np.asarray(4 * ndtr(ndtri(alpha / 4) / np.sqrt(share)), dtype=np.float64)


def bounds(
    fractions: Sequence[float] | Floats,
    information: Sequence[float] | Floats,
    alpha: float,
    shape: Spending,
) -> Floats:
    """Return the |z| above which each look may claim a difference; infinite where it is no look.

    A bound depends on its own look and earlier looks only, so that a claim stays valid.

    Parameters
    ----------
    fractions
        Labels seen as a share of the labels planned, look by look, capped at 1. A look at 1 spends
        all that is left, also where the experiment ends early: the caller passes 1 then. Looks
        after it claim nothing.
    information
        1/SE² of each look; unknown (NaN) is no look. Where it falls, as estimates do, it counts as
        unchanged. The last look counts as one that adds the least gain: less would be assumed of
        its correlation than is true, which errs on the safe side.
    alpha
        The two-sided chance of a false claim, over all looks together.

    Examples
    --------
    >>> fifths = [0.2, 0.4, 0.6, 0.8, 1.0]
    >>> bounds(fifths, fifths, 0.05, Spending.OBRIEN_FLEMING).round(3).tolist()
    [4.877, 3.357, 2.68, 2.29, 2.031]
    """
    share = np.clip(np.maximum.accumulate(np.asarray(fractions, dtype=np.float64)), 0.0, 1.0)
    budget = shape.spent(share, alpha)
    # Unknown information is none: `known > 0` leaves such a look out.
    known = np.nan_to_num(np.asarray(information, dtype=np.float64), nan=0.0, posinf=0.0)
    limits = np.full(share.size, np.inf)
    running, used = _START, 0.0
    for look in np.flatnonzero((budget >= LEAST_SPENT) & (known > 0)):
        least = (1 + LEAST_GAIN) * running.information
        if budget[look] - used < LEAST_SPENT or (known[look] < least and share[look] < 1):
            continue
        step = running.step(max(float(known[look]), least))
        limits[look] = step.bound(float(budget[look] - used))
        running, used = step.within(float(limits[look])), float(budget[look])
    return limits


def crossings(
    limits: Sequence[float] | Floats, information: Sequence[float] | Floats, effect: float
) -> tuple[Floats, Floats]:
    """Return the chances that a look is the first beyond its bound: above, and below.

    Parameters
    ----------
    limits
        What `bounds` returned for the looks.
    information
        1/SE² of each look, growing.
    effect
        The true difference, in the unit of the standard errors.
    """
    above, below = np.zeros((2, len(limits)))
    running = _START
    for look, (limit, known) in enumerate(zip(limits, information, strict=True)):
        if np.isfinite(limit):
            step = running.step(float(known), effect)
            above[look], below[look] = step.beyond(float(limit))
            running = step.within(float(limit))
    return above, below


def confidence_sequence(
    units: Sequence[float] | Floats,
    information: Sequence[float] | Floats,
    planned_units: float,
    alpha: float,
    least_units: int,
) -> Floats:
    """Return the |z| above which each look may claim a difference, however long it continues.

    The boundary of the normal mixture holds at all times of a Brownian motion; its time is the
    information, counted in units: at the first look with enough units, as many as there are.

    Parameters
    ----------
    units
        Students of each look.
    information
        1/SE² of each look; unknown (NaN) claims nothing.
    planned_units
        Where the bound is to be as low as it can be.
    least_units
        Below them nothing is claimed: the sequence holds as the units grow, and errors are skewed.

    Examples
    --------
    >>> confidence_sequence([10, 100, 1000], [1, 10, 100], 1000, 0.05, 30).round(3).tolist()
    [inf, 3.855, 3.035]
    """
    size = np.asarray(units, dtype=np.float64)
    # Unknown information is none: `known > 0` leaves such a look out.
    known = np.nan_to_num(np.asarray(information, dtype=np.float64), nan=0.0, posinf=0.0)
    limits = np.full(size.size, np.inf)
    eligible = np.flatnonzero((size >= least_units) & (known > 0))
    if not eligible.size:
        return limits
    first = eligible[0]
    time = np.maximum.accumulate(known[eligible]) * (size[first] / known[first]) / planned_units
    budget = -2 * np.log(alpha)
    # rho² of the paper is `scale` / planned units, which makes the bound lowest there.
    scale = budget + np.log1p(budget)
    limits[eligible] = np.sqrt((1 + 1 / (scale * time)) * (np.log1p(scale * time) + budget))
    return limits


@dataclass(frozen=True)
class _Survivors:
    """The experiments that crossed no bound so far: their z at the last look, as masses."""

    information: float
    z: Floats
    mass: Floats

    def step(self, information: float, effect: float = 0.0) -> _Step:
        retained = self.information / information
        moved = effect * (information - self.information) / np.sqrt(information)
        return _Step(
            information, np.sqrt(retained) * self.z + moved, float(np.sqrt(1 - retained)), self.mass
        )


@dataclass(frozen=True)
class _Step:
    """Where they will stand at the next look: normal around `means`, with one `spread`."""

    information: float
    means: Floats
    spread: float
    mass: Floats

    def beyond(self, bound: float) -> tuple[float, float]:
        from scipy.special import ndtr

        above = ndtr((self.means - bound) / self.spread)
        below = ndtr((-bound - self.means) / self.spread)
        return float(self.mass @ above), float(self.mass @ below)

    def bound(self, allowed: float) -> float:
        from scipy.optimize import brentq

        return float(brentq(lambda z: sum(self.beyond(z)) - allowed, 0.0, 2 * _FARTHEST))

    def within(self, bound: float) -> _Survivors:
        reach = min(bound, _FARTHEST)
        nodes, weights = _legendre(int(np.ceil(_NODES * reach / 32)) * 32)
        z = reach * nodes
        distance = (z[:, None] - self.means) / self.spread
        density = np.exp(-0.5 * distance**2) @ self.mass / (self.spread * np.sqrt(2 * np.pi))
        return _Survivors(self.information, z, reach * weights * density)


_START = _Survivors(0.0, np.zeros(1), np.ones(1))


@lru_cache(maxsize=32)
def _legendre(nodes: int) -> tuple[Floats, Floats]:
    from scipy.special import roots_legendre

    z, weights = roots_legendre(nodes)
    return np.asarray(z, dtype=np.float64), np.asarray(weights, dtype=np.float64)
