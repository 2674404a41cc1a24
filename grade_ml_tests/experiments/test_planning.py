"""Planning: as textbooks have it for a single test, and dearer by what the looks cost."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest

from grade_ml.core.errors import ConfigurationError
from grade_ml.experiments.planning import (
    Design,
    drift,
    duration,
    effect_for,
    power_for,
    students_for,
)


@pytest.mark.parametrize("share", [0.5, 0.2])
def test_two_arms_need_what_a_test_needs_times_the_cost_of_the_looks(share: float) -> None:
    result = students_for(0.25, Design(share=share))
    # 15.7 / d² per arm, where the arms are of one size.
    single = 15.7 / 0.25**2 / 2 / (share * (1 - share))
    assert result.students == pytest.approx(result.inflation * single, rel=0.003)
    # 84 looks detect with .77 what a single test detects with .80.
    assert 1.04 < result.inflation < 1.1
    assert result.stops_at < 0.75


def test_pairs_need_a_fraction_of_two_arms() -> None:
    split, both = (students_for(0.2, Design(correlation=rho)).students for rho in (None, 0.8))
    assert both / split == pytest.approx((1 - 0.8) / 2, rel=0.01)


def test_more_labels_of_a_student_help_as_far_as_they_differ() -> None:
    single, alike, apart = (
        students_for(0.2, Design(labels_per_student=labels, alike=icc))
        for labels, icc in ((1.0, 0.6), (4.0, 0.6), (4.0, 0.0))
    )
    assert alike.students / single.students == pytest.approx((1 + 3 * 0.6) / 4, rel=0.01)
    assert apart.students / single.students == pytest.approx(1 / 4, rel=0.01)
    assert alike.labels == 4 * alike.students


def test_size_effect_and_power_agree() -> None:
    design = Design(alpha=0.01, power=0.9, correlation=0.5)
    size = students_for(0.1, design)
    assert effect_for(size.students, design).effect == pytest.approx(0.1, rel=0.002)
    assert power_for(size.students, -0.1, design).power == pytest.approx(0.9, abs=0.002)
    assert power_for(size.students, 0.0, design).power == pytest.approx(0.005, abs=1e-4)


def test_a_single_test_is_far_enough_at_2_80_standard_errors() -> None:
    assert drift(0.05, 0.8).single == pytest.approx(2.8016, abs=1e-4)


def test_an_experiment_takes_until_its_labels_came() -> None:
    size = students_for(0.2, Design())
    weeks = pd.Series([0, 100, 0, 300], index=pd.date_range("2026-02-01", periods=4, freq="7D"))
    result = duration(weeks, size)
    assert result.weeks == 10  # 800 in two terms of four weeks, the rest in the second of the third
    assert result.expected_weeks < result.weeks
    assert result.labels_per_week == 100
    assert "takes 10 weeks" in result.text
    assert duration(pd.Series([np.nan, *weeks]), size) == result


@pytest.mark.parametrize("history", [[], [0, 0], [np.nan]])
def test_without_labels_no_duration_is_estimated(history: list[float]) -> None:
    result = duration(pd.Series(history, dtype=float), students_for(0.2, Design()))
    assert math.isnan(result.weeks)
    assert "duration is unknown" in result.text


def test_what_would_take_for_ever_is_reported() -> None:
    result = duration(pd.Series([1.0]), students_for(0.01, Design()))
    assert math.isnan(result.weeks)
    assert "larger effect" in result.text


@pytest.mark.parametrize(
    "changes",
    [
        {"alpha": 0.0},
        {"power": 0.01},
        {"power": 1.0},
        {"share": 1.0},
        {"correlation": 1.0},
        {"alike": math.nan},
        {"labels_per_student": 0.5},
    ],
)
def test_an_impossible_design_is_refused(changes: dict[str, float]) -> None:
    with pytest.raises(ConfigurationError, match=next(iter(changes)).split("_")[0]):
        Design(**changes)


def test_nothing_to_find_is_refused() -> None:
    for effect in (0.0, math.nan, math.inf):
        with pytest.raises(ConfigurationError):
            students_for(effect, Design())
    with pytest.raises(ConfigurationError):
        effect_for(0, Design())
    with pytest.raises(ConfigurationError):
        duration(pd.Series([-1.0]), students_for(0.2, Design()))
