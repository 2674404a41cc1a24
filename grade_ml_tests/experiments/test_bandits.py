"""Shares that follow rewards: late, stored and odd rewards."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from datetime import date, timedelta

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from grade_ml.core import optional
from grade_ml.core.errors import ExperimentError
from grade_ml.experiments.bandits import (
    Cohort,
    State,
    begun,
    cohorts,
    expected_shares,
    in_force,
    restored,
    shares,
    stored,
)
from grade_ml.experiments.plan import Policy
from grade_ml.experiments.store import Allocation
from grade_ml_tests.experiments.plans import of_actions

MONDAY = date(2026, 11, 2)
ARMS = ("standard", "none", "mentor")


def _history(students: int, seed: int = 0, reward: str = "binary") -> pd.DataFrame:
    chance = np.random.default_rng(seed)
    arm = chance.choice(ARMS, students)
    value = chance.random(students)
    if reward == "binary":
        value = (value < pd.Series(arm).map({"standard": 0.4, "none": 0.2, "mentor": 0.7})) * 1.0
    known = chance.random(students) < 0.6
    return pd.DataFrame(
        {
            "assigned_on": [
                MONDAY + timedelta(days=int(day)) for day in chance.integers(5, size=students)
            ],
            "arm": arm,
            "probability": 1 / 3,
            "exposed": known | (chance.random(students) < 0.5),
            "reward": np.where(known, value, np.nan),
        }
    )


LATER = MONDAY + timedelta(days=9)


def _state(history: pd.DataFrame) -> State:
    return begun(ARMS, MONDAY).learned(cohorts(history), LATER)


@pytest.mark.parametrize("policy", Policy)
@settings(max_examples=15)
@given(st.integers(0, 200), st.integers(0, 50), st.sampled_from(["binary", "score"]))
def test_shares_add_up_keep_the_floor_and_repeat(
    policy: Policy, students: int, seed: int, reward: str
) -> None:
    state = _state(_history(students, seed, reward))
    result = shares(state, policy, least_share=0.1, seed=seed, draws=100)
    assert list(result) == list(ARMS)
    assert sum(result.values()) == pytest.approx(1)
    assert min(result.values()) >= 0.1
    assert shares(state, policy, least_share=0.1, seed=seed, draws=100) == result


@pytest.mark.parametrize("policy", Policy)
@settings(max_examples=8)
@given(st.integers(0, 120), st.integers(0, 50), st.sampled_from(["binary", "score"]))
def test_a_state_that_was_stored_between_batches_is_the_uninterrupted_state(
    policy: Policy, students: int, seed: int, reward: str
) -> None:
    """Assignments first, exposures and rewards later and in any order, stored after each batch."""
    history = _history(students, seed, reward)
    state = begun(ARMS, MONDAY).learned(
        cohorts(history.assign(exposed=False, reward=np.nan)), LATER
    )
    batch = np.random.default_rng(seed).integers(3, size=students)
    for number in range(3):
        arrived = [replace(cohort, assigned=0) for cohort in cohorts(history[batch == number])]
        allocations = json.loads(json.dumps(stored(state)))
        state = restored(allocations, state.as_of).learned(arrived, LATER)
    whole = _state(history)
    assert json.dumps(stored(state)) == json.dumps(stored(whole))
    assert shares(state, policy, draws=100) == shares(whole, policy, draws=100)


def test_late_rewards_count_as_pending_and_change_no_share_until_they_arrive() -> None:
    history = _history(200)
    early = _state(history.assign(reward=np.nan))
    assert sum(totals.assigned for totals in early.totals.values()) == 200
    assert sum(totals.pending for totals in early.totals.values()) == history["exposed"].sum()
    assert shares(early) == pytest.approx(dict.fromkeys(ARMS, 1 / 3), abs=0.02)
    late = _state(history)
    assert sum(totals.pending for totals in late.totals.values()) < history["exposed"].sum()
    assert shares(late)["mentor"] > 0.9


def test_thompson_gives_an_arm_the_probability_that_it_is_the_best() -> None:
    """With 1 of 1 against 0 of 1: P(Beta(2, 1) > Beta(1, 2)) = 5/6."""
    state = begun(("a", "b"), MONDAY).learned(
        [Cohort(MONDAY, "a", 0.5, 1, 1, 1, 1.0), Cohort(MONDAY, "b", 0.5, 1, 1, 1, 0.0)], MONDAY
    )
    assert shares(state)["a"] == pytest.approx(5 / 6, abs=0.015)
    # A third of a success and two thirds of a failure: P(Beta(4/3, 5/3) > Beta(1, 2)).
    third = begun(("a", "b"), MONDAY).learned(
        [Cohort(MONDAY, "a", 0.5, 1, 1, 1, 1 / 3), Cohort(MONDAY, "b", 0.5, 1, 1, 1, 0.0)], MONDAY
    )
    drawn = np.random.default_rng(0).beta([4 / 3, 1], [5 / 3, 2], (200_000, 2))
    assert shares(third)["a"] == pytest.approx((drawn[:, 0] > drawn[:, 1]).mean(), abs=0.015)


def test_ucb_gives_all_but_the_floor_to_the_arm_that_could_be_the_best() -> None:
    def state(*totals: tuple[int, int, float]) -> State:
        arrived = [
            Cohort(MONDAY, arm, 0.5, 50, *counts) for arm, counts in zip("ab", totals, strict=True)
        ]
        return begun("ab", MONDAY).learned(arrived, MONDAY)

    def best(*totals: tuple[int, int, float]) -> dict[str, float]:
        return shares(state(*totals), Policy.UCB, least_share=0.1)

    assert best((40, 40, 20), (40, 40, 30)) == pytest.approx({"a": 0.1, "b": 0.9})
    # Seen less, it could be better: .5 + sqrt(2 ln 44 / 4) against .75 + sqrt(2 ln 44 / 40).
    assert best((4, 4, 2), (40, 40, 30)) == pytest.approx({"a": 0.9, "b": 0.1})
    # Rewards to come count, or all would go to one arm for as long as they take.
    assert best((44, 4, 2), (40, 40, 30)) == pytest.approx({"a": 0.1, "b": 0.9})
    # mabwiser itself would never choose an arm of which nothing is known.
    assert best((40, 0, 0), (40, 40, 30)) == pytest.approx({"a": 0.5, "b": 0.5})


def _learn(*batch: Cohort, as_of: date = MONDAY) -> State:
    return begun(ARMS, MONDAY).learned(batch, as_of)


REFUSED: dict[str, tuple[Callable[[], object], str]] = {
    "one arm": (lambda: begun(("standard",), MONDAY), "between two arms"),
    "the same arm twice": (lambda: begun(("a", "a"), MONDAY), "between two arms"),
    "an arm removed": (lambda: _learn(Cohort(MONDAY, "gone", 0.5, 1)), "cannot be removed"),
    "the clock going back": (
        lambda: _learn(as_of=MONDAY - timedelta(days=1)),
        "has learned until 2026-11-02",
    ),
    "a day to come": (
        lambda: _learn(Cohort(LATER, "none", 0.5, 1)),
        "after 2026-11-02",
    ),
    "probability 0": (lambda: _learn(Cohort(MONDAY, "none", 0.0, 1)), "with the probability 0"),
    "probability unknown": (
        lambda: _learn(Cohort(MONDAY, "none", float("nan"), 1)),
        "with the probability nan",
    ),
    "more rewards than students": (
        lambda: _learn(Cohort(MONDAY, "none", 0.5, 1, 1, 2, 1.0)),
        "2 rewards are known",
    ),
    "a reward without exposure": (
        lambda: _learn(Cohort(MONDAY, "none", 0.5, 1, 0, 1, 1.0)),
        "took effect on 0",
    ),
    "a reward above 1": (
        lambda: _learn(Cohort(MONDAY, "none", 0.5, 1, 1, 1, 55.0)),
        "add up to 55",
    ),
    "a reward that is no number": (
        lambda: _learn(Cohort(MONDAY, "none", 0.5, 1, 1, 1, float("nan"))),
        "add up to nan",
    ),
    "scores as rewards": (
        lambda: cohorts(_history(5).assign(reward=[55.0, 0, 1, np.nan, np.inf])),
        "2 of 5 rewards lie outside",
    ),
    "a history without probabilities": (
        lambda: cohorts(_history(5).assign(probability=[np.nan, 1, 1, 1, 1])),
        "Of 1 students",
    ),
    "a floor too high": (lambda: shares(_learn(), least_share=0.4), "cannot each keep 0.4"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_learned_from_is_refused_with_the_reason(case: str) -> None:
    call, words = REFUSED[case]
    with pytest.raises(ExperimentError, match=words) as caught:
        call()
    assert caught.value.remedy


def test_without_its_library_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(optional, "find_spec", lambda module: None)
    with pytest.raises(
        optional.MissingLibraryError, match=r"mabwiser is not .*grade-ml\[bandits\]"
    ):
        shares(_learn())


def test_all_students_of_a_day_are_assigned_by_the_shares_of_the_days_before() -> None:
    """And moved shares, like late outcomes, are no mismatch of the arms' sizes."""
    plan = of_actions(0.5, 0.5)
    standard, none = (arm.name for arm in plan.arms)
    allocations = [
        Allocation(MONDAY + timedelta(days=day), arm, share, {})
        for day, first in ((1, 0.9), (0, 0.6))
        for arm, share in ((standard, first), (none, 1 - first))
    ]
    shares_on = [
        in_force(allocations, plan, MONDAY + timedelta(days=day))[standard] for day in range(4)
    ]
    assert shares_on == [0.5, 0.6, 0.9, 0.9]
    days = [MONDAY] * 100 + [MONDAY + timedelta(days=1)] * 100 + [LATER] * 200
    result = expected_shares(days, allocations, plan)
    assert result == pytest.approx({standard: 0.725, none: 0.275})
    assert expected_shares([], allocations, plan) == {standard: 0.5, none: 0.5}
