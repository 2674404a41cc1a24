"""How a combination is judged: on rows that taught it nothing."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from grade_ml.forecasting.bands import Bands
from grade_ml.forecasting.combination import Combination
from grade_ml.forecasting.contract import Method
from grade_ml.forecasting.evaluation import figures
from grade_ml.forecasting.held_out import HeldOut
from grade_ml_tests.forecasting.test_combination import held_out


def parts(count: int = 3) -> list[HeldOut]:
    return [held_out(seed=seed)[0] for seed in range(count)]


def test_a_good_forecaster_is_better_than_the_naive_forecasters_and_bands_hold():
    accuracy = figures(parts())
    assert accuracy["rows"] == sum(len(part.truth) for part in parts())
    assert accuracy["rmse"] < 0.9 * accuracy["naive_rmse"]
    assert accuracy["coverage80"] == pytest.approx(0.8, abs=0.05)
    assert accuracy["coverage95"] == pytest.approx(0.95, abs=0.03)
    assert 0 < accuracy["brier"] < 0.25


def test_the_naive_forecaster_alone_is_no_better_than_itself():
    accuracy = figures([part.only([Method.MEAN]) for part in parts()])
    assert accuracy["rmse"] == accuracy["naive_rmse"]


def test_without_another_part_nothing_is_known():
    nothing = replace(
        held_out()[0],
        **{name: getattr(held_out()[0], name)[:0] for name in ("course", "horizon")},
        truth=np.zeros(0),
        submitted=np.zeros(0),
        answers={name: np.zeros((0, 2)) for name in held_out()[0].answers},
    )
    assert figures([]) == figures(parts(1)) == figures([*parts(1), nothing]) == {}


def test_a_part_does_not_enter_its_own_evaluation():
    """Where the last part is odd, its errors are those of weights that the others taught."""
    first, second, last = parts()
    odd = replace(last, truth=100 - last.truth)
    accuracy = figures([first, second, odd])
    others = HeldOut.together([first, second])
    weights = Combination.learn(others)
    combined, _ = weights.combine(odd.answers, odd.course, odd.horizon)
    taught, _ = weights.combine(others.answers, others.course, others.horizon)
    bounds = Bands.learn(others, taught).bounds(combined, odd.course, odd.horizon)
    inside = ((odd.truth >= bounds[:, 0]) & (odd.truth <= bounds[:, 1])).mean()
    assert inside < 0.8
    assert accuracy["coverage80"] < figures([first, second, last])["coverage80"]
    assert accuracy["rmse"] > figures([first, second, last])["rmse"]
