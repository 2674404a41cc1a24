"""Where the treatment differs: by course, phase and subgroup, and whether segments differ.

Shown with a look and never part of its decision: a search in twenty places detects a difference in
one of them by chance, and in a segment that is looked at repeatedly even more often.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd

from grade_ml.experiments.comparison import Evidence, Floats, Moments, usable

#: Students per arm of a segment below whom nothing is reported: among 20 segments, one is claimed
#: at p = .0025, where 30 students of exponential shape are claimed 1.3 times too often, and 50 not.
LEAST_SEGMENT = 50

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Segment:
    """The difference within one segment; unknown figures are NaN.

    Attributes
    ----------
    kind, name
        Such as `course` and the course's id.
    units
        Students of control and of treatment; the same if both score all students.
    difference, low, high
        Treatment minus control, with the 95% interval of this segment alone.
    p, p_adjusted
        Two-sided, and after Benjamini & Hochberg over all segments of the look that are large
        enough.
    claimed
        Whether a difference may be claimed.
    reason
        Why nothing is reported of it; empty otherwise.
    """

    kind: str
    name: str
    units: tuple[int, int]
    difference: float
    low: float
    high: float
    p: float
    p_adjusted: float
    claimed: bool
    reason: str = ""


@dataclass(frozen=True)
class Interaction:
    """Whether the difference is the same in all segments of a kind that are large enough.

    Attributes
    ----------
    q
        Cochran's Q: weighted squares around the common difference.
    p, p_adjusted
        Of Welch's test, and after Benjamini & Hochberg over the kinds; NaN with fewer than two
        segments.
    """

    kind: str
    segments: int
    q: float
    p: float
    p_adjusted: float


@dataclass(frozen=True)
class Segments:
    """All segments of a look, the largest of each kind first, and one interaction per kind."""

    rows: tuple[Segment, ...]
    interactions: tuple[Interaction, ...]


def segments(  # noqa: PLR0913 - names of columns
    rows: pd.DataFrame,
    kinds: Sequence[str],
    *,
    value: str,
    student: str,
    treated: str | None = None,
    alpha: float = 0.05,
) -> Segments:
    """Return the difference in each segment.

    Parameters
    ----------
    rows
        One row per label or student. Those of one student in one segment count as one value, their
        mean; those without a finite value, or without a name in a kind, are left out of it.
    kinds
        Columns that separate segments.
    value
        Column: where `treated` is None, treatment less control of a student whom both score.
    treated
        Column: whether the student is in the treatment arm.
    alpha
        Share of false claims among the segments that are claimed.
    """
    finite = rows[usable(rows[value].to_numpy(dtype=np.float64))]
    student_codes = pd.factorize(finite[student])[0].astype(np.int64)
    values = finite[value].to_numpy(dtype=np.float64)
    side = None if treated is None else finite[treated].to_numpy(dtype=np.bool_)
    groups = [_of_kind(kind, finite[kind], student_codes, values, side) for kind in kinds]
    adjusted = _adjusted(np.concatenate([np.empty(0), *(group.p for group in groups)]))
    between = [group.heterogeneity() for group in groups]
    between_adjusted = _adjusted(np.array([p for _, p in between]))
    listed: list[Segment] = []
    for group in groups:
        listed += group.segments(adjusted[: group.p.size], alpha)
        adjusted = adjusted[group.p.size :]
    return Segments(
        tuple(listed),
        tuple(
            Interaction(group.kind, int(group.large.sum()), q, p, float(p_adjusted))
            for group, (q, p), p_adjusted in zip(groups, between, between_adjusted, strict=True)
        ),
    )


@dataclass(frozen=True)
class _Kind:
    """The segments of one kind, one place each; the covariance is that of their differences."""

    kind: str
    names: Sequence[str]
    units: Floats
    evidence: Evidence
    covariance: Floats

    @property
    def large(self) -> npt.NDArray[np.bool_]:
        return np.asarray((self.units.min(axis=0) >= LEAST_SEGMENT) & np.isfinite(self.evidence.z))

    @property
    def p(self) -> Floats:
        from scipy.special import ndtr

        return np.where(self.large, 2 * ndtr(-np.abs(self.evidence.z)), np.nan)

    def segments(self, adjusted: Floats, alpha: float) -> list[Segment]:
        low, high = self.evidence.interval(1.959964)
        p = self.p
        order = np.lexsort((np.asarray(self.names, dtype=str), -self.units.sum(axis=0)))
        return [
            Segment(
                kind=self.kind,
                name=self.names[at],
                units=(int(self.units[0, at]), int(self.units[1, at])),
                difference=float(self.evidence.difference[at]),
                low=float(low[at]),
                high=float(high[at]),
                p=float(p[at]),
                p_adjusted=float(adjusted[at]),
                claimed=bool(adjusted[at] <= alpha),
                reason=self._reason(int(at)),
            )
            for at in order
        ]

    def _reason(self, at: int) -> str:
        fewest = int(self.units[:, at].min())
        if fewest < LEAST_SEGMENT:
            return f"{fewest} students are too few to say anything; {LEAST_SEGMENT} are needed."
        return "" if self.large[at] else "The values do not vary."

    def heterogeneity(self) -> tuple[float, float]:
        """Return Cochran's Q and the p-value of Welch's test (1951).

        A student may be in several segments, as in the phases of a course: Q is of the covariance
        of the differences, which is diagonal, and Q is Cochran's, where each is in one.
        """
        from scipy.special import fdtrc

        large = np.flatnonzero(self.large)
        count = large.size
        if count < 2:
            return np.nan, np.nan
        weights = np.linalg.pinv(self.covariance[np.ix_(large, large)], hermitian=True)
        difference = self.evidence.difference[large]
        common = weights.sum(axis=0) @ difference / weights.sum()
        q = float((difference - common) @ weights @ (difference - common))
        # Weights are estimates, too, which the chi-square distribution does not know.
        share = 1 / self.evidence.standard_error[large] ** 2
        doubt = float(np.sum((1 - share / share.sum()) ** 2 / self.evidence.degrees[large]))
        f = q / (count - 1) / (1 + 2 * (count - 2) / (count**2 - 1) * doubt)
        return q, float(fdtrc(count - 1, (count**2 - 1) / (3 * doubt), f))


def _of_kind(
    kind: str,
    column: pd.Series,
    student_codes: Ints,
    values: Floats,
    treated: npt.NDArray[np.bool_] | None,
) -> _Kind:
    from scipy.sparse import coo_array

    segment, names = pd.factorize(column.where(column != ""))
    known = segment >= 0
    count = len(names)
    # One value per student in a segment: rows that share the key are one.
    students = int(student_codes.max(initial=-1)) + 1
    place = segment[known].astype(np.int64) * students + student_codes[known]
    if treated is not None:
        place = place * 2 + treated[known]
    keys, rows = np.unique(place, return_inverse=True)
    value = np.bincount(rows, values[known], keys.size) / np.bincount(rows, minlength=keys.size)
    side = np.ones(keys.size, dtype=np.int64)
    if treated is not None:
        keys, side = np.divmod(keys, 2)
    segment, student = np.divmod(keys, max(students, 1))
    # Cells: of each segment the control and the treatment.
    cell = segment * 2 + side
    size = np.bincount(cell, minlength=2 * count).astype(np.float64)
    start = np.bincount(cell, value, 2 * count) / np.maximum(size, 1)
    apart = value - start[cell]
    sums = (np.bincount(cell, apart**power, 2 * count) for power in (1, 2, 3))
    first, second, third = (total.astype(np.float64) for total in sums)
    moments = Moments.of_sums(size, first, second, third, start)
    control, treatment = moments.part(slice(0, None, 2)), moments.part(slice(1, None, 2))
    units = np.array([control.units, treatment.units])
    if treated is None:
        units[0] = units[1]
    weight = (2 * side - 1) / np.sqrt(np.maximum(size * (size - 1), 1))[cell]
    influence = coo_array((apart * weight, (student, segment)), shape=(students, count)).tocsr()
    return _Kind(
        kind,
        [str(name) for name in names],
        units,
        Evidence.of(treatment, control if treated is not None else None),
        np.asarray((influence.T @ influence).toarray()),
    )


def _adjusted(p: Floats) -> Floats:
    from scipy.stats import false_discovery_control

    adjusted = np.full(p.shape, np.nan)
    known = np.isfinite(p)
    if known.any():
        adjusted[known] = false_discovery_control(p[known])
    return adjusted
