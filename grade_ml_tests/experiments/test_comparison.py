"""Comparisons: as other programs compute them, and in words where nothing can be computed."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from grade_ml.experiments.comparison import (
    LEAST_UNITS,
    Comparison,
    Evidence,
    Moments,
    adjust,
    paired,
    sample_ratio,
    split,
)

Floats = npt.NDArray[np.float64]
RANDOM = np.random.default_rng(5)
BEFORE = RANDOM.normal(60, 15, 400)
SCORES = 0.8 * BEFORE + RANDOM.gamma(2, 6, 400)
TREATED = RANDOM.random(400) < 0.3


@pytest.fixture(autouse=True)
def _no_warning() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def test_two_arms_are_compared_as_scipy_does() -> None:
    comparison = split(SCORES, TREATED)
    sides = SCORES[TREATED], SCORES[~TREATED]
    welch = stats.ttest_ind(*sides, equal_var=False)
    interval = welch.confidence_interval()
    assert comparison.p_mean == pytest.approx(welch.pvalue)
    assert (comparison.low, comparison.high) == pytest.approx((interval.low, interval.high))
    assert comparison.degrees == pytest.approx(welch.df)
    assert comparison.p_rank == pytest.approx(stats.mannwhitneyu(*sides).pvalue)
    assert comparison.difference == pytest.approx(sides[0].mean() - sides[1].mean())
    assert comparison.units == (len(sides[1]), len(sides[0]))
    pooled = math.sqrt(sum(s.var(ddof=1) * (len(s) - 1) for s in sides) / 398)
    assert comparison.effect == pytest.approx(comparison.difference / pooled)
    assert (comparison.labels, comparison.excluded, comparison.problems) == (400, 0, ())


def test_pairs_are_compared_as_scipy_does() -> None:
    comparison = paired(BEFORE, SCORES, labels=900)
    student = stats.ttest_rel(SCORES, BEFORE)
    interval = student.confidence_interval()
    assert comparison.p_mean == pytest.approx(student.pvalue)
    assert (comparison.low, comparison.high) == pytest.approx((interval.low, interval.high))
    assert comparison.p_rank == pytest.approx(
        stats.wilcoxon(SCORES, BEFORE, method="approx").pvalue
    )
    assert comparison.means == pytest.approx((BEFORE.mean(), SCORES.mean()))
    assert (comparison.units, comparison.labels, comparison.problems) == ((400, 400), 900, ())


def test_z_without_skewness_is_the_exact_quantile() -> None:
    for degrees in (10.0, 29.0, 400.0):
        t = np.array([-4.0, -1.0, 0.0, 0.5, 3.0])
        evidence = Evidence(t, np.ones(5), np.full(5, degrees), np.zeros(5))
        exact = stats.norm.isf(stats.t.sf(t, degrees))
        assert evidence.z == pytest.approx(exact, abs=0.01)
        # Where anything is claimed, never more than is true.
        assert np.all(np.abs(evidence.z)[[0, 4]] <= np.abs(exact)[[0, 4]])


def test_skewed_values_claim_no_more_than_others() -> None:
    draws = RANDOM.exponential(size=(20_000, 40)) - 1
    sums = [np.sum(draws**power, axis=1) for power in (1, 2, 3)]
    evidence = Evidence.of(Moments.of_sums(np.full(20_000, 40.0), *sums))
    beyond = np.array([(evidence.z > 1.96).mean(), (evidence.z < -1.96).mean()])
    students = np.array([(evidence.t > 2.02).mean(), (evidence.t < -2.02).mean()])
    assert np.all(beyond < 0.037)
    assert beyond.sum() < 0.05
    assert students[1] > 0.05  # what Student's t alone would do
    assert evidence.z[7] == pytest.approx(Evidence.of(Moments.of(draws[7])).z)


@given(st.integers(2, 60), st.floats(0.1, 6), st.integers(0, 1000), st.booleans())
def test_the_interval_of_a_bound_leaves_0_out_where_z_is_beyond(
    size: int, bound: float, seed: int, two: bool
) -> None:
    values = np.random.default_rng(seed).exponential(size=size) - 0.8
    comparison = split(np.append(values, -(values**2)), np.arange(2 * size) < size) if two else None
    comparison = comparison or paired(np.zeros(size), values)
    low, high = comparison.interval(bound)
    assert low <= high
    assert (low > 0 or high < 0) == (abs(comparison.z) > bound)
    assert math.isnan(comparison.information) == (size < LEAST_UNITS)


def test_no_claim_has_no_finite_interval() -> None:
    assert paired(BEFORE, SCORES).interval(math.inf) == (-math.inf, math.inf)


def test_cuped_cuts_the_variance_by_the_squared_correlation() -> None:
    comparison, plain = split(SCORES, TREATED, BEFORE), split(SCORES, TREATED)
    within = [np.corrcoef(BEFORE[arm], SCORES[arm])[0, 1] ** 2 for arm in (TREATED, ~TREATED)]
    assert comparison.variance_cut == pytest.approx(
        np.average(within, weights=(0.3, 0.7)), abs=0.03
    )
    cut = 1 - (comparison.standard_error / plain.standard_error) ** 2
    assert cut == pytest.approx(comparison.variance_cut, abs=0.05)
    assert (comparison.p_rank, comparison.means, comparison.notes) == (
        plain.p_rank,
        plain.means,
        (),
    )
    assert math.isnan(plain.variance_cut)


def test_an_unknown_score_before_is_no_0() -> None:
    unknown = np.where(np.arange(400) % 4 == 0, np.nan, BEFORE)
    # Students without a score are weaker.
    scores = SCORES - 20 * np.isnan(unknown)
    comparison = split(scores, TREATED, unknown)
    assert "100 without a score of the time before" in comparison.notes[0]
    assert (
        comparison.variance_cut > split(scores, TREATED, np.nan_to_num(unknown)).variance_cut + 0.05
    )
    adjusted = adjust(scores, TREATED, unknown)
    assert adjusted.values.mean() == pytest.approx(scores.mean())
    # Another unit of the score before changes nothing.
    assert adjust(scores, TREATED, 7 - unknown / 100).values == pytest.approx(adjusted.values)


@pytest.mark.parametrize(
    ("before", "words"),
    [
        (np.full(400, np.nan), "Too few students"),
        (np.where(np.arange(400) < 20, BEFORE, np.inf), "Too few students"),
        (np.full(400, 61.7), "the same for all"),
    ],
)
def test_a_useless_covariate_is_not_used_and_named(before: Floats, words: str) -> None:
    comparison, plain = split(SCORES, TREATED, before), split(SCORES, TREATED)
    assert words in comparison.notes[0]
    assert (comparison.z, comparison.standard_error) == (plain.z, plain.standard_error)
    assert math.isnan(comparison.variance_cut)


NOTHING = np.array([])
EQUAL = np.full(50, 0.1)
ODD: dict[str, tuple[Comparison, str, int]] = {
    "no students": (paired(NOTHING, NOTHING), "no student", 0),
    "one student": (paired([1.0], [2.0]), "a single student", 0),
    "no spread": (paired(np.zeros(50), EQUAL), "do not vary", 0),
    "only rounding": (paired(BEFORE / 3 + BEFORE / 7, BEFORE * (1 / 3 + 1 / 7)), "do not vary", 0),
    "missing and infinite": (paired([1.0, np.nan, 3.0], [np.inf, 1.0, 2.0]), "2 students", 2),
    "one missing": (paired([*BEFORE, 1.0], [*SCORES, np.nan]), "1 student ", 1),
    "beyond numbers": (paired([1e300, 1.0, 2.0], [1.0, 3.0, 1.0]), "1 student ", 1),
    "an arm without students": (split(SCORES, np.ones(400)), "control has no student", 0),
    "an arm of one": (split(SCORES, np.arange(400) == 3), "treatment has a single student", 0),
    "all ties": (split(np.ones(80), np.arange(80) < 40), "do not vary", 0),
    "each arm of one value": (split(np.arange(80) < 40, np.arange(80) < 40), "do not vary", 0),
    "an arm of missing values": (
        split(np.where(TREATED, np.nan, SCORES), TREATED, BEFORE),
        "treatment has no student",
        int(TREATED.sum()),
    ),
}


@pytest.mark.parametrize("kind", ODD)
def test_odd_input_is_a_problem_in_words_and_claims_nothing(kind: str) -> None:
    comparison, words, excluded = ODD[kind]
    assert any(words in problem for problem in comparison.problems)
    assert comparison.excluded == excluded
    figures = (
        comparison.z,
        comparison.p_mean,
        comparison.p_rank,
        comparison.low,
        comparison.standard_error,
    )
    if min(comparison.units) < 2 or "do not vary" in words:
        assert all(math.isnan(figure) for figure in figures)
        assert math.isnan(comparison.information)
    assert not any(figure == 0 for figure in figures)


def test_what_is_certain_has_no_p_value_of_0() -> None:
    comparison = split(np.where(TREATED, 1e6, 0.0) + SCORES, TREATED)
    assert 0 < comparison.p_mean < 1e-200
    assert math.isfinite(comparison.z)
    assert comparison.z > 30


def test_the_sizes_of_the_arms_are_those_planned() -> None:
    halves = {"a": 0.5, "b": 0.5}
    sound = sample_ratio({"a": 5010, "b": 4990}, halves)
    assert (sound.mismatch, sound.reason) == (False, "")
    assert sound.p == pytest.approx(stats.chisquare([5010, 4990]).pvalue)
    odd = sample_ratio({"a": 5200, "b": 4800}, halves)
    assert odd.mismatch
    assert "a 5,200 instead of 5,000, b 4,800 instead of 5,000" in odd.reason
    thirds = sample_ratio({"a": 600, "b": 200, "c": 200}, {"a": 0.6, "b": 0.2, "c": 0.2})
    assert thirds.p == pytest.approx(1)


def test_few_or_strange_students_are_reported() -> None:
    few = sample_ratio({"a": 90, "b": 0}, {"a": 0.95, "b": 0.05})
    assert math.isnan(few.p)
    assert not few.mismatch
    assert "fewer than 5" in few.reason
    assert sample_ratio({"a": 0}, {"a": 0.5, "b": 0.5}).reason
    stray = sample_ratio({"a": 50, "b": 50, "z": 1}, {"a": 0.5, "b": 0.5})
    assert stray.mismatch
    assert "z" in stray.reason
