"""Treatment minus control at one look: effect, interval, tests, and what prevents a claim.

One value per student, for any number of courses and labels: rows of one student are correlated, and
counting each promotes by chance (16 to 32% at a correlation of .3 to .9). `labels` makes the rows
behind these values; `bounds` allows for repeated looks.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]

#: Students per arm before anything is claimed: below, neither t nor its skewness is known enough
#: for the small p-values of first looks.
LEAST_UNITS = 30
#: Students with a known covariate below whom it is left alone: its slope would be mostly noise.
LEAST_COVARIATES = 30
#: A mismatch of the arms' sizes this rare is no chance; at .05 every twentieth sound experiment
#: would be stopped, at every look again.
MISMATCH = 0.001
#: Students expected in an arm below whom the chi-square distribution does not hold (Cochran 1954).
LEAST_EXPECTED = 5.0
#: A spread below this share of the values is the rounding of equal numbers, not a spread.
_ROUNDING = 1e-12
#: Larger values count as infinite: the sum of their cubes would be.
_LARGEST = 1e90
#: The smallest p-value that is reported; 0 would be a certainty.
_LEAST_P = 1e-300


def usable(values: Floats) -> Bools:
    """Return which values are finite numbers that can be computed with."""
    return np.abs(values) < _LARGEST


@dataclass(frozen=True)
class Moments:
    """Of one value per student: how many, mean, variance (unbiased) and third central moment.

    Numbers or arrays of one shape, one place per comparison: a look has one, its segments many.
    """

    units: Floats
    mean: Floats
    variance: Floats
    third: Floats

    def part(self, places: slice) -> Moments:
        """Return the moments of some places."""
        moments = self.units, self.mean, self.variance, self.third
        return Moments(*(values[places] for values in moments))

    @classmethod
    def of(cls, values: Floats) -> Moments:
        """Return the moments of finite values."""
        centre = float(values.mean()) if values.size else 0.0
        # Distances from about the mean: sums of the values' own powers would lose digits.
        first, second, third = (np.asarray(((values - centre) ** n).sum()) for n in (1, 2, 3))
        return cls.of_sums(np.asarray(float(values.size)), first, second, third, centre)

    @classmethod
    def of_sums(
        cls, units: Floats, first: Floats, second: Floats, third: Floats, start: float | Floats = 0
    ) -> Moments:
        """Return the moments from the sums of powers of the distances from `start`."""
        with np.errstate(all="ignore"):
            mean, square, cube = first / units, second / units, third / units
            spread = np.maximum(square - mean**2, 0)
            return cls(
                units=units,
                mean=start + mean,
                variance=np.where(units > 1, spread * units / (units - 1), np.nan),
                third=cube - 3 * mean * square + 2 * mean**3,
            )


@dataclass(frozen=True)
class Evidence:
    """A difference of means and its uncertainty: numbers, or arrays of one shape.

    Attributes
    ----------
    difference, standard_error
        In the unit of the values.
    degrees
        Of Student's t distribution: units less one, or Welch's.
    skewness
        Of the difference itself: that of the values over the root of their number.
    """

    difference: Floats
    standard_error: Floats
    degrees: Floats
    skewness: Floats

    @classmethod
    def of(cls, treatment: Moments, control: Moments | None = None) -> Evidence:
        """Return the evidence on a mean (paired differences), or on two independent means."""
        sides = [treatment] if control is None else [treatment, control]
        with np.errstate(all="ignore"):
            squares = [side.variance / side.units for side in sides]
            error = np.sqrt(sum(squares))
            largest = np.max([np.abs(side.mean) for side in sides], axis=0)
            error = np.where(error <= _ROUNDING * largest, 0.0, error)
            degrees = sum(squares) ** 2 / sum(
                square**2 / (side.units - 1) for square, side in zip(squares, sides, strict=True)
            )
            third = treatment.third / treatment.units**2
            if control is not None:
                third = third - control.third / control.units**2
            return cls(
                difference=treatment.mean - (0.0 if control is None else control.mean),
                standard_error=error,
                degrees=np.asarray(degrees),
                skewness=third / error**3,
            )

    @property
    def t(self) -> Floats:
        """The difference in standard errors; unknown (NaN) without a spread."""
        with np.errstate(all="ignore"):
            t = self.difference / self.standard_error
            return np.where(np.isfinite(t) & (self.degrees > 0), t, np.nan)

    @property
    def z(self) -> Floats:
        """The same on the scale of the normal distribution, whatever the units and their skewness.

        The smaller of two: by Student's t as it is and without its skewness (Hall 1992). Alone, the
        first claims up to 5 times too often, at p = .0025, of 30 to 100 values of exponential
        shape; the second 3 to 5 times of differences of squared errors, whose outliers make
        skewness a poor estimate. Where they disagree on the sign, it is 0.
        """
        with np.errstate(all="ignore"):
            plain, bent = (self._normal(t) for t in (self.t, _straight(self.t, self.skewness)))
            smaller = np.minimum(np.abs(plain), np.abs(bent))
            return np.asarray((np.sign(plain) + np.sign(bent)) / 2 * smaller)

    def interval(self, bound: float) -> tuple[Floats, Floats]:
        """Return the differences that a |z| of `bound` does not rule out; the inverse of `z`."""
        with np.errstate(all="ignore"):
            most = np.sqrt(
                self.degrees * np.expm1((bound / _wallace(self.degrees)) ** 2 / self.degrees)
            )
            highest = np.maximum(most, _bent(most, self.skewness))
            lowest = np.minimum(-most, _bent(-most, self.skewness))
            return (
                np.asarray(self.difference - highest * self.standard_error),
                np.asarray(self.difference - lowest * self.standard_error),
            )

    def _normal(self, t: Floats) -> Floats:
        """Return Student's t on the normal scale (Wallace 1959): where p < .05, never too large."""
        size = np.sqrt(self.degrees * np.log1p(t**2 / self.degrees))
        return np.asarray(np.sign(t) * _wallace(self.degrees) * size)


def _straight(t: Floats, skewness: Floats) -> Floats:
    """Return t without the skewness of the difference: Hall's transformation, which is monotone."""
    return t + skewness * t**2 / 3 + skewness**2 * t**3 / 27 + skewness / 6


def _bent(straight: Floats, skewness: Floats) -> Floats:
    """Return the t of which `_straight` makes this."""
    root = np.cbrt(1 + skewness * (straight - skewness / 6))
    return np.where(np.abs(skewness) > 1e-9, 3 * (root - 1) / skewness, straight)


def _wallace(degrees: Floats) -> Floats:
    return (8 * degrees + 1) / (8 * degrees + 3)


@dataclass(frozen=True)
class Comparison:
    """Treatment minus control at one look; unknown figures are NaN.

    Attributes
    ----------
    units
        Students with a usable value: of control, of treatment. In a paired comparison the same.
    labels
        The number of labels behind the values.
    excluded
        Students left out because a value is missing or infinite.
    means
        Of the values themselves: of control, of treatment.
    difference, standard_error
        Treatment minus control, after the covariate where there is one.
    low, high
        The interval of a single look (Student's t); at repeated looks `interval` holds.
    degrees, skewness
        As in `Evidence`.
    z
        Compared with a bound: the difference in standard errors, on the normal scale.
    p_mean, p_rank
        Two-sided, of a single look, reported with the decision but not part of it: Welch's t and
        Mann-Whitney's U, or, paired, Student's t and Wilcoxon's signed ranks.
    effect
        Cohen's d: the difference in standard deviations of the values, or, paired, of differences.
    variance_cut
        The share of the variance that the covariate took away.
    problems
        Why nothing may be claimed, as sentences.
    notes
        Further sentences for the reader.
    """

    units: tuple[int, int]
    labels: int
    excluded: int
    means: tuple[float, float]
    difference: float
    standard_error: float = math.nan
    low: float = math.nan
    high: float = math.nan
    degrees: float = math.nan
    skewness: float = math.nan
    z: float = math.nan
    p_mean: float = math.nan
    p_rank: float = math.nan
    effect: float = math.nan
    variance_cut: float = math.nan
    problems: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def information(self) -> float:
        """1/SE²; NaN, which is no look to `bounds`, while there are too few students to claim."""
        if min(self.units) < LEAST_UNITS or math.isnan(self.z):
            return math.nan
        return 1 / self.standard_error**2

    def interval(self, bound: float) -> tuple[float, float]:
        """Return the interval that lies on one side of 0 exactly where |z| is above `bound`."""
        figures = self.difference, self.standard_error, self.degrees, self.skewness
        low, high = Evidence(*(np.asarray(figure) for figure in figures)).interval(bound)
        return float(low), float(high)


def paired(
    control: npt.ArrayLike,
    treatment: npt.ArrayLike,
    *,
    labels: int | None = None,
    alpha: float = 0.05,
) -> Comparison:
    """Compare two versions that scored the same students.

    Parameters
    ----------
    control, treatment
        One value per student, in the same order: the mean loss over the student's labels.
    labels
        The number of labels behind the values; `None` if each has one label.
    alpha
        Of the interval of a single look.

    Examples
    --------
    >>> comparison = paired([4.0, 9.0, 1.0, 16.0], [3.0, 7.0, 1.0, 12.0])
    >>> comparison.units, comparison.difference, comparison.problems
    ((4, 4), -1.75, ())
    """
    before, after = np.asarray(control, dtype=np.float64), np.asarray(treatment, dtype=np.float64)
    kept = usable(before) & usable(after)
    before, after = before[kept], after[kept]
    differences = after - before
    differences[np.abs(differences) <= _ROUNDING * np.maximum(abs(before), abs(after))] = 0.0
    evidence = Evidence.of(Moments.of(differences))
    count = before.size if labels is None else labels
    comparison = _observed(before, after, int(np.sum(~kept)), count, evidence)
    return _tested(
        comparison,
        evidence,
        alpha,
        deviation=lambda: float(differences.std(ddof=1)),
        ranks=lambda: _signed_ranks(differences),
    )


def split(
    values: npt.ArrayLike,
    treated: npt.ArrayLike,
    covariate: npt.ArrayLike | None = None,
    *,
    labels: int | None = None,
    alpha: float = 0.05,
) -> Comparison:
    """Compare students of two arms.

    Parameters
    ----------
    values
        One value per student.
    treated
        Whether the student is in the treatment arm.
    covariate
        A value of the student from before the experiment, such as the earlier mean score (CUPED;
        Deng et al. 2013). The slope is that within the arms. Students without a value are a stratum
        of their own: an unknown score is no 0.
    labels, alpha
        As in `paired`.
    """
    value, arm = np.asarray(values, dtype=np.float64), np.asarray(treated, dtype=np.bool_)
    kept = usable(value)
    value, arm = value[kept], arm[kept]
    adjusted = Adjusted(value)
    if covariate is not None:
        adjusted = adjust(value, arm, np.asarray(covariate, dtype=np.float64)[kept])
    evidence = Evidence.of(Moments.of(adjusted.values[arm]), Moments.of(adjusted.values[~arm]))
    sides = value[~arm], value[arm]
    count = value.size if labels is None else labels
    comparison = replace(
        _observed(*sides, int(np.sum(~kept)), count, evidence),
        variance_cut=adjusted.variance_cut,
        notes=adjusted.notes,
    )
    return _tested(
        comparison,
        evidence,
        alpha,
        deviation=lambda: _deviation(*sides),
        ranks=lambda: _rank_sums(*sides),
    )


@dataclass(frozen=True)
class SampleRatio:
    """Whether the arms have the sizes that the plan requires.

    Attributes
    ----------
    units
        Students assigned to each arm: assignments, never outcomes, which may come late in one arm.
    expected
        The sizes that follow from the shares.
    p
        Of the chi-square test; NaN where an arm expects fewer than five.
    reason
        A sentence on the mismatch, or why there is no test; empty otherwise.
    """

    units: tuple[int, ...]
    expected: tuple[float, ...]
    p: float
    reason: str = ""

    @property
    def mismatch(self) -> bool:
        """Whether something other than chance divided the students."""
        return self.p < MISMATCH


def sample_ratio(units: Mapping[str, int], shares: Mapping[str, float]) -> SampleRatio:
    """Test the number of students in each arm against the shares of the plan, by arm.

    Examples
    --------
    >>> sample_ratio({"standard": 4800, "none": 5200}, {"standard": 0.5, "none": 0.5}).mismatch
    True
    """
    from scipy.stats import chisquare

    arms = [*shares, *sorted(set(units) - set(shares))]
    observed = np.array([units.get(arm, 0) for arm in arms])
    share = np.array([shares.get(arm, 0.0) for arm in arms])
    expected = observed.sum() * share / share.sum()
    counts = tuple(int(count) for count in observed), tuple(float(count) for count in expected)
    stray = arms[len(shares) :]
    if stray:
        named = ", ".join(stray)
        return SampleRatio(*counts, _LEAST_P, f"Students are in arms that the plan lacks: {named}.")
    if expected.min() < LEAST_EXPECTED:
        return SampleRatio(
            *counts, math.nan, "An arm expects fewer than 5 students, too few to test the sizes."
        )
    p = _p(float(chisquare(observed, expected).pvalue))
    sizes = ", ".join(
        f"{arm} {count:,} instead of {right:,.0f}"
        for arm, count, right in zip(arms, observed, expected, strict=True)
    )
    reason = f"The arms do not have the sizes that were planned: {sizes}." if p < MISMATCH else ""
    return SampleRatio(*counts, p, reason)


@dataclass(frozen=True)
class Adjusted:
    """Values less what a covariate explains of them, with the same mean over both arms.

    Attributes
    ----------
    variance_cut
        The share of the variance within the arms that went; NaN where nothing was adjusted.
    """

    values: Floats
    variance_cut: float = math.nan
    notes: tuple[str, ...] = ()


def adjust(values: Floats, treated: Bools, covariate: Floats) -> Adjusted:
    """Return finite values less what the covariate explains of them; see `split`."""
    known = usable(covariate)
    if known.sum() < LEAST_COVARIATES or min(treated.sum(), (~treated).sum()) < 2:
        return Adjusted(
            values, notes=("Too few students have a score of the time before: it is not used.",)
        )
    columns = [np.where(known, covariate, covariate[known].mean())]
    notes: tuple[str, ...] = ()
    if unknown := int(np.sum(~known)):
        columns.append((~known).astype(np.float64))
        notes = (f"{unknown:,} without a score of the time before are a stratum of their own.",)
    design = np.column_stack(columns)
    within, left = design.copy(), values.copy()
    for side in (treated, ~treated):
        within[side] -= design[side].mean(axis=0)
        left[side] -= values[side].mean()
    if np.ptp(within[:, 0]) <= _ROUNDING * np.abs(columns[0]).max():
        same = "The score of the time before is the same for all: it is not used."
        return Adjusted(values, notes=(same,))
    whole = float(left @ left)
    if not whole:
        return Adjusted(values)
    slope, _, rank, _ = np.linalg.lstsq(within, left)
    remaining = float(np.sum((left - within @ slope) ** 2)) / (values.size - 2 - rank)
    cut = float(1 - remaining / (whole / (values.size - 2)))
    return Adjusted(values - (design - design.mean(axis=0)) @ slope, cut, notes)


def _observed(
    control: Floats, treatment: Floats, excluded: int, labels: int, evidence: Evidence
) -> Comparison:
    problems = []
    for name, side in (("control", control), ("treatment", treatment)):
        if side.size < 2:
            few = "a single student" if side.size else "no student"
            problems.append(f"The {name} has {few} with a value: nothing can be compared.")
    if excluded:
        students = f"{excluded:,} students" if excluded > 1 else "1 student"
        problems.append(
            f"Values of {students} are missing or infinite. They are left out, and those who are "
            "left out may be where the arms differ."
        )
    if min(control.size, treatment.size) >= 2 and np.isnan(evidence.z):
        problems.append(
            "The values do not vary, and without a spread nothing can be tested."
            if evidence.standard_error == 0
            else "The values are too small, or too far apart, to be computed with."
        )
    means = [float(side.mean()) if side.size else math.nan for side in (control, treatment)]
    return Comparison(
        units=(control.size, treatment.size),
        labels=labels,
        excluded=excluded,
        means=(means[0], means[1]),
        difference=float(evidence.difference),
        problems=tuple(problems),
    )


def _tested(
    comparison: Comparison,
    evidence: Evidence,
    alpha: float,
    deviation: Callable[[], float],
    ranks: Callable[[], float],
) -> Comparison:
    from scipy.special import stdtr, stdtrit

    if np.isnan(evidence.z):
        return comparison
    error, degrees = float(evidence.standard_error), float(evidence.degrees)
    reach = float(stdtrit(degrees, 1 - alpha / 2)) * error
    return replace(
        comparison,
        standard_error=error,
        low=comparison.difference - reach,
        high=comparison.difference + reach,
        degrees=degrees,
        skewness=float(evidence.skewness),
        z=float(evidence.z),
        p_mean=_p(2 * float(stdtr(degrees, -abs(float(evidence.t))))),
        p_rank=_p(ranks()),
        effect=comparison.difference / deviation(),
    )


def _deviation(control: Floats, treatment: Floats) -> float:
    squares = sum(float(np.sum((side - side.mean()) ** 2)) for side in (control, treatment))
    return math.sqrt(squares / (control.size + treatment.size - 2))


def _signed_ranks(differences: Floats) -> float:
    from scipy.stats import wilcoxon

    return float(wilcoxon(differences, zero_method="pratt", method="approx").pvalue)


def _rank_sums(control: Floats, treatment: Floats) -> float:
    from scipy.stats import mannwhitneyu

    return float(mannwhitneyu(treatment, control, method="asymptotic").pvalue)


def _p(value: float) -> float:
    # NaN stays NaN.
    return max(value, _LEAST_P)
