"""Bounds: as published, spending what they may and no more, with any looks."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from grade_ml.experiments.bounds import (
    LEAST_GAIN,
    Spending,
    bounds,
    confidence_sequence,
    crossings,
)

Floats = npt.NDArray[np.float64]
FIFTHS = np.arange(1, 6) / 5
#: Increments of the information and of the labels from look to look, which need not go together.
STEPS = st.lists(st.tuples(st.floats(0, 5), st.floats(0, 5)), min_size=1, max_size=15)
SHAPES = st.sampled_from(Spending)


# Jennison & Turnbull (2000), and the tables of ldbounds.
@pytest.mark.parametrize(
    ("shape", "alpha", "published"),
    [
        (Spending.OBRIEN_FLEMING, 0.05, [4.877, 3.357, 2.680, 2.290, 2.031]),
        (Spending.POCOCK, 0.05, [2.438, 2.427, 2.410, 2.397, 2.386]),
    ],
)
def test_equal_looks_have_the_published_bounds(
    shape: Spending, alpha: float, published: list[float]
) -> None:
    assert bounds(FIFTHS, 40 * FIFTHS, alpha, shape) == pytest.approx(published, abs=6e-4)


def test_a_single_look_is_an_ordinary_test() -> None:
    for shape in Spending:
        assert bounds([1.0], [3.0], 0.05, shape) == pytest.approx([1.959964], abs=1e-5)


def looks(steps: list[tuple[float, float]], last: float) -> tuple[Floats, Floats]:
    labels, known = np.cumsum(np.asarray(steps), axis=0).T
    return np.minimum(labels / (labels[-1] / last if labels[-1] else 1), 1), known


@given(STEPS, SHAPES, st.sampled_from([0.01, 0.05, 0.2]), st.floats(0.05, 1))
@settings(max_examples=40, deadline=None)
def test_the_chance_of_a_false_claim_is_what_was_spent(
    steps: list[tuple[float, float]], shape: Spending, alpha: float, last: float
) -> None:
    fractions, information = looks(steps, last)
    limits = bounds(fractions, information, alpha, shape)
    claims = np.flatnonzero(np.isfinite(limits))
    if claims.size > 1:
        least = information[claims[-2]] * (1 + LEAST_GAIN)
        information[claims[-1]] = max(information[claims[-1]], least)
    total = sum(map(np.sum, crossings(limits, information, 0.0)))
    assert total <= shape.spent(fractions[-1], alpha) * (1 + 1e-6) + 1e-9
    for before, look in pairwise(claims):
        assert information[look] >= information[before] * (1 + LEAST_GAIN)
    # Later looks do not change the bounds of earlier looks.
    for upto in range(1, len(limits)):
        earlier = bounds(fractions[:upto], information[:upto], alpha, shape)
        assert np.array_equal(earlier, limits[:upto])


@pytest.mark.parametrize("shape", Spending)
def test_simulated_experiments_cross_as_often_as_computed(shape: Spending) -> None:
    """Information in jumps, labels in others: an oracle without any of the recursion."""
    random = np.random.default_rng(7)
    steps = random.gamma(0.5, size=40) + 0.01
    information = np.cumsum(steps)
    fractions = np.cumsum(random.gamma(0.5, size=40))
    fractions /= fractions[-1]
    limits = bounds(fractions, information, 0.05, shape)
    paths = np.cumsum(random.normal(size=(20_000, 40)) * np.sqrt(steps), axis=1)
    for effect in (0.0, 2.8 / np.sqrt(information[-1])):
        z = paths / np.sqrt(information) + effect * np.sqrt(information)
        first = np.argmax(np.abs(z) > limits, axis=1)
        crossed = np.abs(z[np.arange(len(z)), first]) > limits[first]
        share = np.bincount(first[crossed], minlength=40) / len(z)
        exact = sum(crossings(limits, information, effect))
        error = np.sqrt(exact * (1 - exact) / len(z)) + 1e-4
        assert np.all(np.abs(share - exact) < 5 * error)
        if not effect:
            # The looks skipped for their small gain leave little unspent.
            assert 0.0499 < exact.sum() < 0.0500001


def test_a_last_look_spends_what_is_left_though_no_information_came() -> None:
    limits = bounds([0.3, 0.6, 1.0, 1.0], [30.0, 60.0, 55.0, 80.0], 0.05, Spending.OBRIEN_FLEMING)
    assert limits[2] < 2.3
    assert np.isinf(limits[3])  # after it nothing is claimed


def test_a_look_of_unknown_information_is_none_and_costs_nothing() -> None:
    whole = bounds([0.2, 0.5, 1.0], [np.nan, 5.0, 10.0], 0.05, Spending.POCOCK)
    assert np.isinf(whole[0])
    assert whole[1:] == pytest.approx(bounds([0.5, 1.0], [5.0, 10.0], 0.05, Spending.POCOCK))
    for unknown in (np.nan, 0.0, np.inf):
        assert np.isinf(bounds([1.0], [unknown], 0.05, Spending.POCOCK)).all()
    assert bounds([], [], 0.05, Spending.POCOCK).size == 0


def test_a_sequence_is_lowest_where_it_was_planned_to_be() -> None:
    units = np.arange(1, 4001)
    at = confidence_sequence(units, units / 7.0, 1000, 0.05, 1)[999]
    elsewhere = [confidence_sequence(units, units / 7.0, n, 0.05, 1)[999] for n in (300, 3000)]
    assert at < min(elsewhere)


def test_a_sequence_holds_at_every_look() -> None:
    random = np.random.default_rng(3)
    steps = random.gamma(1.0, size=2000)
    information = np.cumsum(steps)
    limits = confidence_sequence(information, information, 1000, 0.05, 30)
    assert np.isinf(limits[information < 30]).all()
    paths = np.cumsum(random.normal(size=(2000, 2000)) * np.sqrt(steps), axis=1)
    crossed = (np.abs(paths / np.sqrt(information)) > limits).any(axis=1).mean()
    assert 0 < crossed < 0.05


def test_a_sequence_without_units_or_information_claims_nothing() -> None:
    assert np.isinf(confidence_sequence([10, 40], [1.0, np.nan], 100, 0.05, 30)).all()
    assert confidence_sequence([], [], 100, 0.05, 30).size == 0
