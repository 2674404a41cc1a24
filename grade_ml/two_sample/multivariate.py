"""Whether a classifier separates current from reference rows: detects what no single column shows.

The test of Lopez-Paz & Oquab 2017 ("Revisiting classifier two-sample tests") with a kernel ridge
classifier, whose leave-one-out scores have a closed form: every permutation is a complete new
fit, and the p-value is exact.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from grade_ml.two_sample.columns import Column, Kind
from grade_ml.two_sample.permutation import Bools, Floats, Units, labellings

#: Units, drawn at random where there are more: the work grows with their cube.
_UNITS = 500
#: The larger side in relation to the smaller: with 60 current rows a reference of 240 has nine
#: tenths of the power of 1,000, for a thirtieth of the work.
_RATIO = 4
#: Weight of the penalty in relation to the mean diagonal of the kernel.
_PENALTY = 1.0


@dataclass(frozen=True)
class Multivariate:
    """The result; `auc` is .5 if the sides cannot be separated, less by chance alone."""

    auc: float
    p: float
    p_adjusted: float
    drifted: bool


def separate(
    columns: Sequence[Column], units: Units, permutations: int, seed: int
) -> tuple[float, float]:
    """Return the AUC of separating current from reference units out of sample, and its p-value."""
    drawn = _drawn(units, seed)
    inverse = _inverse(_design(columns, drawn))
    chosen = labellings(drawn, permutations, seed)
    labels = np.zeros((len(drawn.rows), len(chosen)))
    labels[chosen.T, np.arange(len(chosen))] = 1
    labels -= labels.mean(axis=0)
    scores = labels - inverse @ labels / np.diag(inverse)[:, None]
    auc = _auc(scores, labels > 0)
    p = float((auc >= auc[0] - 1e-9).mean())
    return float(auc[0]), p


def _drawn(units: Units, seed: int) -> Units:
    """Return as many units of both sides as the kernel can take."""
    generator = np.random.default_rng((seed, 2))
    smaller = min(units.current, units.reference, _UNITS // 2)
    larger = min(_RATIO * smaller, _UNITS - smaller)
    current = generator.permutation(units.current)[:larger]
    reference = units.current + generator.permutation(units.reference)[:larger]
    return Units(units.rows[np.concatenate([current, reference])], len(current))


def _design(columns: Sequence[Column], units: Units) -> Floats:
    """Return the units (rows averaged) in columns of comparable size.

    Ranks instead of numbers, so that no outlier decides; missing values are in the middle, and a
    column marks them.
    """
    rows = np.unique(units.rows[units.rows >= 0])
    place = np.zeros(rows.max() + 2, dtype=np.int64)
    place[rows] = np.arange(len(rows))
    known = [(column, np.asarray(column.values)[rows]) for column in columns]
    numbers = [values for column, values in known if column.kind is Kind.NUMERIC]
    parts: list[Floats] = [
        np.eye(len(column.categories) + 1)[values.astype(np.int64)]
        for column, values in known
        if column.kind is not Kind.NUMERIC
    ]
    if numbers:
        parts.append(_ranks(np.column_stack(numbers).astype(np.float64)))
    design = np.hstack(parts)
    deviation = design.std(axis=0)
    design = design[:, deviation > 0]
    design = (design - design.mean(axis=0)) / np.maximum(deviation[deviation > 0], 0.1)
    used = (units.rows >= 0)[..., None]
    averaged: Floats = (design[place[units.rows]] * used).sum(axis=1) / used.sum(axis=1)
    return averaged


def _ranks(values: Floats) -> Floats:
    """Return the ranks of each column, of variance 1 where none is missing, and what is missing."""
    from scipy.stats import rankdata

    missing = np.isnan(values)
    known = np.maximum((~missing).sum(axis=0), 1)
    # Missing values come last, and are not counted.
    ranks = rankdata(np.where(missing, np.inf, values), axis=0)
    scaled = ((ranks - 0.5) / known - 0.5) * np.sqrt(12)
    ranked: Floats = np.hstack([np.where(missing, 0.0, scaled), missing.astype(np.float64)])
    return ranked


def _inverse(design: Floats) -> Floats:
    """Return the inverse of the penalised kernel of degree 2 (numbers, squares, products).

    With G this inverse, the scores of ridge regression that has not seen the row are y - Gy / diag
    G.
    """
    kernel = design @ design.T
    kernel /= max(float(np.diag(kernel).mean()), 1e-12)
    kernel = kernel + kernel**2
    centre = kernel.mean(axis=0)
    kernel = kernel - centre - centre[:, None] + centre.mean()
    penalty = max(_PENALTY * float(np.diag(kernel).mean()), 1e-12)
    return np.linalg.inv(kernel + penalty * np.eye(len(kernel)))


def _auc(scores: Floats, positive: Bools) -> Floats:
    from scipy.stats import rankdata

    ranks = rankdata(scores, axis=0)
    count = positive.sum(axis=0)
    below = (ranks * positive).sum(axis=0) - count * (count + 1) / 2
    auc: Floats = below / (count * (len(scores) - count))
    return auc
