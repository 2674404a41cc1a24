"""Tests whether running sections differ more from past ones than sections of a course usually do.

Students of one class share their assignments, dates and teacher, so any class differs from earlier
classes by more than chance among students explains (`drift` alone would report drift in each).
Here the unit is the section: the effect of the running sections is compared with the effects of
past sections on one another. `two_sample.drift` permutes students.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from grade_ml.core.threads import limited_threads
from grade_ml.monitoring.windows import Sides
from grade_ml.two_sample import drift
from grade_ml.two_sample.columns import COMPARED, Column, Kind, columns
from grade_ml.two_sample.drift import DriftReport
from grade_ml.two_sample.permutation import Bools, Floats, Ints, Units, labellings, make_units


@dataclass(frozen=True)
class Comparison:
    """Running sections compared with past sections of a course, before usual differences are known.

    Attributes
    ----------
    columns
        The columns of both frames, as in `drift.DriftReport.features`.
    sizes
        Students in (reference, current).
    now, usual
        By feature, the variance of a section's effect as the running sections alone show it, and as
        past ones do. The effect of numbers is Cliff's delta as a normal quantile, so that it has no
        upper end (a missing value counts as the smallest); that of categories is the total
        variation.
    freedom
        Past sections less one: the degrees of freedom of `usual`.
    figures
        By feature, those figures of `drift.DriftReport.features` that need no permutation.
    """

    columns: tuple[Column, ...]
    sizes: tuple[int, int]
    now: pd.Series
    usual: pd.Series
    freedom: int
    figures: Mapping[Hashable, dict[str, float]]

    @property
    def tested(self) -> list[Column]:
        """The columns that could be compared."""
        return [column for column in self.columns if column.status in COMPARED]

    @property
    def is_current(self) -> Bools:
        """Which rows are students of running sections."""
        return np.arange(sum(self.sizes)) >= self.sizes[0]

    def units(self, seed: int) -> Units:
        """Return the students as the units that are permuted."""
        return make_units(None, None, self.sizes, seed)


def compare(sides: Sides) -> Comparison:
    """Compare the students of running sections with those of past sections."""
    reference, current = sides.reference, sides.current
    sizes = (len(reference), len(current))
    all_columns = columns(reference, current, None, sizes)
    tested = [column for column in all_columns if column.status in COMPARED]
    is_past = np.arange(sum(sizes)) < sizes[0]
    units = make_units(None, None, sizes, seed=0)
    codes, names = pd.factorize(sides.reference_sections)
    past, running = len(names), sides.current_sections.nunique()
    effects = _effects(tested, np.eye(past, dtype=bool)[codes], is_past)
    # Running sections against past ones on average; and, of n past sections, each against the rest.
    now = effects[0] ** 2 / (1 / max(running, 1) + 1 / max(past, 1))
    usual = (effects[1:] ** 2).sum(axis=0) * (past - 1) / max(past, 1) ** 2
    usual = np.maximum(usual, _least(tested, codes, sizes[0]))
    index = [column.name for column in tested]
    return Comparison(
        tuple(all_columns),
        sizes,
        pd.Series(now, index, dtype=np.float64),
        pd.Series(usual if past > 1 else np.nan, index, dtype=np.float64),
        max(past - 1, 0),
        drift.figures(tested, units, labellings(units, 0, seed=0), ~is_past),
    )


def _effects(tested: Sequence[Column], sections: Bools, is_past: Bools) -> Floats:
    """Return the effects: of running against past sections first, then of each past section.

    `sections` marks the section of each past row: rows x sections.
    """
    effects = np.zeros((1 + sections.shape[1], len(tested)))
    numeric = [place for place, column in enumerate(tested) if column.kind is Kind.NUMERIC]
    if numeric:
        values = np.column_stack([np.asarray(tested[p].values, np.float64) for p in numeric])
        values[np.isnan(values)] = -np.inf
        effects[:1, numeric] = _dominance(values, ~is_past[:, None])
        effects[1:, numeric] = _dominance(values[is_past], sections)
    for place, column in enumerate(tested):
        if column.kind is Kind.CATEGORICAL:
            table = np.eye(len(column.categories) + 1)[column.values]
            effects[:1, place] = _variation(table, ~is_past[:, None])
            effects[1:, place] = _variation(table[is_past], sections)
    return effects


def _dominance(values: Floats, groups: Bools) -> Floats:
    """Return the effect of each group of rows against all others: groups x columns.

    It is the normal quantile of the probability that a row of the group is the larger row.
    """
    from scipy.special import ndtri
    from scipy.stats import rankdata

    size = groups.sum(axis=0)[:, None]
    pairs = np.maximum(size * (len(values) - size), 1)
    wins = groups.T.astype(np.float64) @ rankdata(values, axis=0) - size * (size + 1) / 2
    effect: Floats = ndtri((wins + 0.5) / (pairs + 1))
    return effect


def _variation(table: Floats, groups: Bools) -> Floats:
    """Return the total variation of each group of rows of a one-hot table against all others."""
    size = groups.sum(axis=0)[:, None]
    inside = groups.T.astype(np.float64) @ table
    others = table.sum(axis=0) - inside
    gap = inside / np.maximum(size, 1) - others / np.maximum(len(table) - size, 1)
    variation: Floats = np.abs(gap).sum(axis=1) / 2
    return variation


def _least(tested: Sequence[Column], codes: Ints, rows: int) -> Floats:
    """Return the variance that an effect has by chance among students if sections are alike."""
    by_size = float(np.mean(1 / np.maximum(np.bincount(codes), 1))) if rows else 0.0
    variances = []
    for column in tested:
        assert column.values is not None
        _, counts = np.unique(column.values[:rows], return_counts=True)
        share = counts / max(rows, 1)
        if column.kind is Kind.NUMERIC:
            variances.append((1 - (share**3).sum()) * np.pi / 6)
        else:
            variances.append(np.sqrt(share * (1 - share)).sum() ** 2 / (2 * np.pi))
    return by_size * np.array(variances)


@dataclass(frozen=True)
class Usual:
    """How much sections of the same course differ in each feature, over several courses.

    The variance of a course is shrunk towards the mean of all courses, as if `freedom` more
    sections showed that mean: the more courses differ in their variances, the smaller it is (Smyth
    2004, "Linear models and empirical Bayes methods for assessing differential expression").
    `known` is the number of degrees of freedom of all courses together, the most that any variance
    can have.
    """

    variance: pd.Series
    freedom: float
    known: int
    courses: int

    @classmethod
    def of(cls, comparisons: Sequence[Comparison]) -> Usual:
        """Learn from the comparisons of several courses; a single course borrows nothing."""
        from scipy.special import digamma, polygamma

        several = [comparison for comparison in comparisons if comparison.freedom]
        if not several:
            return cls(pd.Series(dtype=np.float64), 0.0, 0, 0)
        weight = np.array([comparison.freedom for comparison in several], dtype=np.float64)
        table = pd.DataFrame([comparison.usual for comparison in several]).to_numpy(np.float64)
        names = pd.DataFrame([comparison.usual for comparison in several]).columns
        known = ~np.isnan(table)
        mean = np.nansum(table * weight[:, None], axis=0) / (known * weight[:, None]).sum(axis=0)
        half = weight[:, None] / 2
        logs = np.log(np.maximum(table, 1e-12)) - digamma(half) + np.log(half)
        several_known = known.sum(axis=0) > 1
        freedom = 0.0
        if several_known.any():
            # The variance of the logarithms of the estimates beyond their sampling variance.
            spread = np.nanvar(logs[:, several_known], axis=0, ddof=1).mean()
            freedom = 2 * _trigamma_inverse(spread - polygamma(1, half).mean())
        return cls(pd.Series(mean, names), freedom, int(weight.sum()), len(several))

    def chances(self, comparison: Comparison) -> Floats:
        """Return the p-value of each feature; NaN if no usual variance is known."""
        from scipy.stats import f

        general = self.variance.reindex(comparison.usual.index).to_numpy(np.float64)
        own = comparison.usual.to_numpy(np.float64)
        share = (
            comparison.freedom / (comparison.freedom + self.freedom) if comparison.freedom else 0.0
        )
        variance = np.where(np.isnan(own), general, general + share * (own - general))
        freedom = min(comparison.freedom + self.freedom, self.known)
        now = comparison.now.to_numpy(np.float64)
        if not freedom:
            return np.full(len(now), np.nan)
        return np.asarray(f.sf(now / np.maximum(variance, 1e-12), 1, freedom))


def _trigamma_inverse(value: float) -> float:
    """Return where the trigamma function is `value`; infinity for 0 and less."""
    from scipy.optimize import brentq
    from scipy.special import polygamma

    if value < 1e-6:
        return np.inf
    return float(np.exp(brentq(lambda log: polygamma(1, np.exp(log)) - value, -20, 20)))


def judge(comparison: Comparison, usual: Usual, *, alpha: float, seed: int) -> DriftReport:
    """Return what has drifted: beyond chance among students and beyond the usual differences.

    The p-value of a feature is the larger of both. If differences between sections already explain
    a feature, its students are not permuted, and its p is that of sections: permuting could only
    make it larger.
    """
    usual_p = dict(zip(comparison.usual.index, usual.chances(comparison), strict=True))
    unusual = [
        column for column in comparison.tested if usual_p[column.name] <= alpha * drift.BY_COLUMN
    ]
    measured = {name: comparison.figures[name] | {"p": p} for name, p in usual_p.items()}
    units = comparison.units(seed)
    if unusual:
        chosen = labellings(units, drift.PERMUTATIONS, seed)
        with limited_threads(sum(comparison.sizes)):
            permuted = drift.figures(unusual, units, chosen, comparison.is_current)
        for name, figures in permuted.items():
            measured[name] = figures | {"p": max(figures["p"], usual_p[name])}
    features = drift.table(comparison.columns, measured, alpha, comparison.sizes[0])
    return DriftReport(
        drifted=bool(features["drifted"].any()),
        features=features,
        # Any two classes differ in several features together: a classifier would separate them.
        multivariate=None,
        alpha=alpha,
        reference_units=units.reference,
        current_units=units.current,
        untested=tuple(
            str(column.name) for column in comparison.columns if column.status not in COMPARED
        ),
    )
