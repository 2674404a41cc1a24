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


def test_a_good_forecaster_beats_the_naive_ones_and_bands_hold():
    found = figures(parts())
    assert found["rows"] == sum(len(one.truth) for one in parts())
    assert found["rmse"] < 0.9 * found["naive_rmse"]
    assert found["coverage80"] == pytest.approx(0.8, abs=0.05)
    assert found["coverage95"] == pytest.approx(0.95, abs=0.03)
    assert 0 < found["brier"] < 0.25


def test_the_naive_forecaster_alone_is_no_better_than_itself():
    found = figures([one.only([Method.MEAN]) for one in parts()])
    assert found["rmse"] == found["naive_rmse"]


def test_without_another_part_nothing_is_known():
    nothing = replace(
        held_out()[0],
        **{name: getattr(held_out()[0], name)[:0] for name in ("course", "horizon")},
        truth=np.zeros(0),
        submitted=np.zeros(0),
        answers={name: np.zeros((0, 2)) for name in held_out()[0].answers},
    )
    assert figures([]) == figures(parts(1)) == figures([*parts(1), nothing]) == {}


def test_a_part_does_not_speak_for_itself():
    """Where the last part is odd, its errors are those of weights that the others taught."""
    first, second, last = parts()
    odd = replace(last, truth=100 - last.truth)
    found = figures([first, second, odd])
    others = HeldOut.together([first, second])
    weights = Combination.learn(others)
    combined, _ = weights.combine(odd.answers, odd.course, odd.horizon)
    taught, _ = weights.combine(others.answers, others.course, others.horizon)
    bounds = Bands.learn(others, taught).bounds(combined, odd.course, odd.horizon)
    inside = ((odd.truth >= bounds[:, 0]) & (odd.truth <= bounds[:, 1])).mean()
    assert inside < 0.8
    assert found["coverage80"] < figures([first, second, last])["coverage80"]
    assert found["rmse"] > figures([first, second, last])["rmse"]
