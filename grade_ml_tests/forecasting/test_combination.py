"""Weights go to the methods with the smallest errors, and bands hold what they promise."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from grade_ml.forecasting.bands import Bands, crps
from grade_ml.forecasting.combination import ALL, Combination
from grade_ml.forecasting.contract import Method, Panel
from grade_ml.forecasting.held_out import HeldOut, folds
from grade_ml_tests.forecasting.campus import ended, panel

NAN = float("nan")


def held_out(seed: int = 0, size: int = 6000) -> tuple[HeldOut, np.ndarray]:
    """Return rows of two courses in which one method is good, and the true probabilities."""
    random = np.random.default_rng(seed)
    chance = random.beta(4, 1, size)
    level = random.normal(70, 12, size)
    submitted = (random.random(size) < chance).astype(float)
    truth = np.clip(level + random.normal(0, 8, size), 1, 100) * submitted

    def answer(noise: float) -> np.ndarray:
        chances = np.clip(chance + random.normal(0, noise / 50, size), 0, 1)
        score = np.clip(level + random.normal(0, noise, size), 0, 100)
        return np.stack([chances * score, chances], axis=1)

    answers = {
        Method.LAST: answer(40),
        Method.MEAN: answer(30),
        Method.SLOT: answer(60),
        Method.BOOSTED: answer(3),
    }
    course = np.where(np.arange(size) % 2, "a", "b").astype(object)
    horizon = 1 + np.arange(size) // 2 % 6
    return HeldOut(course, horizon, truth, submitted, answers), chance


def test_the_good_method_has_the_weight_and_a_worse_than_naive_method_has_none():
    rows, _ = held_out()
    combination = Combination.learn(rows)
    table = combination.table.set_index(["course", "bucket", "method"])
    assert (table.xs("boosted", level="method")["weight_mean"] > 0.7).all()
    assert (table.xs("slot", level="method")[["weight_mean", "weight_submit"]] == 0).all(axis=None)
    assert combination.used() >= {Method.BOOSTED}


def test_weights_are_shares_in_every_cell():
    for values in Combination.learn(held_out()[0]).weights.values():
        assert values.min() >= 0
        assert np.allclose(values.sum(1), 1)


def test_the_combination_has_no_larger_error_than_its_best_member():
    combination = Combination.learn(held_out()[0])
    fresh, _ = held_out(seed=1)
    combined, dominant = combination.combine(fresh.answers, fresh.course, fresh.horizon)
    errors = {name: _rmse(answer, fresh) for name, answer in fresh.answers.items()}
    assert _rmse(combined, fresh) <= min(errors.values()) * 1.01
    assert (dominant == "boosted").all()


def _rmse(answer: np.ndarray, rows: HeldOut) -> float:
    return float(np.sqrt(((answer[:, 0] - rows.truth) ** 2).mean()))


@given(
    weights=st.lists(st.lists(st.floats(0, 1e6), min_size=1, max_size=8), min_size=2, max_size=2),
    value=st.sampled_from([0.0, 1.0, 37.3, 99.99999999999999, 100.0]),
    chance=st.sampled_from([0.0, 0.1, 0.9999999999999999, 1.0]),
)
def test_equal_answers_of_all_methods_are_the_result_for_any_weights(weights, value, chance):
    size = min(map(len, weights))
    methods = tuple(Method)[:size]
    shares = np.array([row[:size] for row in weights])
    total = shares.sum(1, keepdims=True)
    cell = np.divide(shares, total, out=np.full_like(shares, 1 / size), where=total > 0)
    combination = Combination(methods, (), {(ALL, 0): cell}, pd.DataFrame())
    answers = {name: np.array([[value, chance]]) for name in methods}
    combined, _ = combination.combine(answers, np.array(["x"], object), np.array([1]))
    assert combined[0] == pytest.approx([value, chance], rel=1e-12, abs=1e-300)
    assert 0 <= combined[0, 0] <= 100 and 0 <= combined[0, 1] <= 1


def test_a_method_without_a_number_for_a_student_hands_on_its_weight_there_only():
    methods = (Method.LAST, Method.MEAN, Method.BOOSTED)
    cell = np.array([[0.25, 0.25, 0.5]] * 2)
    combination = Combination(methods, (), {(ALL, 0): cell}, pd.DataFrame())
    answers = {
        name: np.array([[score, 1.0]] * 3)
        for name, score in zip(methods, (20, 40, 90), strict=True)
    }
    answers[Method.BOOSTED][1] = np.nan
    for name in methods:
        answers[name][2, 0] = np.inf
    course, horizon = np.array(["x"] * 3, object), np.ones(3, int)
    combined, dominant = combination.combine(answers, course, horizon)
    assert combined[:, 0].tolist() == pytest.approx([60.0, 30.0, NAN], nan_ok=True)
    assert combined[:, 1].tolist() == [1.0, 1.0, 1.0]
    assert dominant.tolist()[:2] == ["boosted", "last"]


@given(
    st.lists(
        st.tuples(st.floats(0, 100), st.floats(0, 1)).map(
            lambda pair: (pair[0] * pair[1], pair[1])
        ),
        min_size=1,
        max_size=20,
    ),
    st.lists(st.floats(0, 1), min_size=2, max_size=2).map(sorted),
    st.integers(0, 50),
)
def test_bands_are_in_order_and_in_bounds_for_any_estimates(estimates, ranks, seed):
    errors = np.sort(np.random.default_rng(seed).normal(0, 15, (3, 100)), axis=1)
    bands = Bands(np.array([50.0, 80.0]), errors, (), {(ALL, 0): np.array(ranks)})
    combined = np.array(estimates)
    course, horizon = np.array(["x"] * len(estimates), object), np.ones(len(estimates), int)
    low80, high80, low95, high95 = bands.bounds(combined, course, horizon).T
    rows = np.stack([low95, low80, bands.median(combined), high80, high95])
    assert (np.diff(rows, axis=0) >= 0).all()
    assert rows.min() >= 0 and rows.max() <= 100


def test_a_missing_method_hands_its_weight_on():
    rows, _ = held_out()
    combination = Combination.learn(rows)
    others = {name: rows.answers[name] for name in (Method.LAST, Method.MEAN)}
    combined, dominant = combination.combine(others, rows.course, rows.horizon)
    assert np.isfinite(combined).all()
    assert set(dominant) <= {"last", "mean"}


def test_unknown_courses_and_far_horizons_have_the_nearest_weights():
    rows, _ = held_out()
    combination = Combination.learn(rows)
    course, horizon = np.array(["new"], dtype=object), np.array([99])
    single = {name: answer[:1] for name, answer in rows.answers.items()}
    assert np.isfinite(combination.combine(single, course, horizon)[0]).all()
    assert (ALL, 0) in combination.weights


def test_bands_hold_what_they_promise_on_rows_they_have_not_seen():
    rows, _ = held_out()
    bands = Bands.learn(rows, rows.answers[Method.BOOSTED])
    fresh, _ = held_out(seed=2)
    low80, high80, low95, high95 = bands.bounds(
        fresh.answers[Method.BOOSTED], fresh.course, fresh.horizon
    ).T
    inside80 = (low80 <= fresh.truth) & (fresh.truth <= high80)
    inside95 = (low95 <= fresh.truth) & (fresh.truth <= high95)
    assert abs(inside80.mean() - 0.80) < 0.02
    assert abs(inside95.mean() - 0.95) < 0.015
    for course in ("a", "b"):
        assert abs(inside80[fresh.course == course].mean() - 0.80) < 0.03


def test_half_of_the_scores_lie_on_either_side_of_the_median():
    rows, _ = held_out()
    bands = Bands.learn(rows, rows.answers[Method.BOOSTED])
    fresh, chance = held_out(seed=2)
    own = fresh.answers[Method.BOOSTED]
    median = bands.median(own)
    sure = chance > 0.9
    assert abs((fresh.truth < median)[sure].mean() - 0.5) < 0.03
    assert (median[own[:, 1] < 0.5] == 0).all()


def test_the_median_has_a_smaller_error_than_the_mean_where_scores_are_skewed():
    """Most score 90, one in five 20: half of the scores lie above the mean of 76."""

    def lopsided(seed: int) -> HeldOut:
        rows, _ = held_out(seed)
        low = np.random.default_rng(seed + 9).random(len(rows.truth)) < 0.2
        answer = np.tile([76.0, 1.0], (len(low), 1))
        truth = np.where(low, 20.0, 90.0)
        return replace(
            rows, truth=truth, submitted=np.ones(len(low)), answers={Method.MEAN: answer}
        )

    rows, fresh = lopsided(0), lopsided(1)
    own = fresh.answers[Method.MEAN]
    median = Bands.learn(rows, rows.answers[Method.MEAN]).median(own)
    assert np.abs(median - fresh.truth).mean() < np.abs(own[:, 0] - fresh.truth).mean() - 5


def test_bands_hold_no_more_than_they_promise_where_many_scores_are_full_marks():
    def full_marks(seed: int) -> HeldOut:
        rows, _ = held_out(seed)
        return replace(rows, truth=np.where(rows.truth > 70, 100.0, rows.truth))

    rows, fresh = full_marks(0), full_marks(3)
    bands = Bands.learn(rows, rows.answers[Method.BOOSTED])
    low80, high80, _, _ = bands.bounds(fresh.answers[Method.BOOSTED], fresh.course, fresh.horizon).T
    inside = (low80 <= fresh.truth) & (fresh.truth <= high80)
    assert 0.78 < inside.mean() < 0.86


def test_bands_of_a_likely_submission_are_narrow_and_of_a_doubtful_submission_reach_down_to_zero():
    rows, _ = held_out()
    bands = Bands.learn(rows, rows.answers[Method.BOOSTED])
    answers = np.array([[79.0, 0.99], [40.0, 0.5]])
    low80, high80, _, _ = bands.bounds(answers, np.array(["a", "a"], object), np.array([1, 1])).T
    assert low80[0] > 50 and low80[1] == 0
    assert high80[0] - low80[0] < high80[1] - low80[1]


@given(
    st.lists(st.tuples(st.floats(0, 100), st.floats(0, 1)), min_size=1, max_size=20),
    st.integers(1, 40),
)
def test_bounds_are_ordered_and_within_0_and_100(answers: list, horizon: int):
    bands = _bands()
    combined = np.array(answers, dtype=float)
    course = np.array(["a"] * len(combined), dtype=object)
    bounds = bands.bounds(combined, course, np.full(len(combined), horizon))
    low80, high80, low95, high95 = bounds.T
    assert bounds.min() >= 0 and bounds.max() <= 100
    assert (low95 <= low80).all() and (high80 <= high95).all()
    median = bands.median(combined)
    assert (low80 <= median).all() and (median <= high80).all()


def _bands(known: list = []) -> Bands:  # noqa: B006 - learned once
    if not known:
        rows, _ = held_out(size=1500)
        known.append(Bands.learn(rows, rows.answers[Method.BOOSTED]))
    return known[0]


def test_learned_things_survive_as_plain_values():
    rows, _ = held_out(size=1500)
    combination, bands = Combination.learn(rows), _bands()
    again = Combination.from_dict(combination.to_dict())
    results = [
        method.combine(rows.answers, rows.course, rows.horizon)[0]
        for method in (combination, again)
    ]
    assert np.array_equal(*results)
    same = Bands.from_dict(bands.to_dict()).bounds(results[0], rows.course, rows.horizon)
    assert np.array_equal(same, bands.bounds(results[0], rows.course, rows.horizon))


def test_crps_of_a_point_is_the_absolute_error():
    levels = (np.arange(50) + 0.5) / 50
    assert crps(np.array([30.0]), np.full((1, 50), 50.0), levels)[0] == pytest.approx(20)


def test_folds_hold_out_whole_sections_of_different_courses():
    seen = []
    for known, held in folds(list(ended()), 3):
        assert {class_panel.section_id for class_panel in known}.isdisjoint(
            class_panel.section_id for class_panel in held
        )
        seen += [class_panel.section_id for class_panel in held]
    assert set(seen) == {class_panel.section_id for class_panel in ended()}


def test_the_only_section_of_a_course_is_forecast_by_models_that_know_the_course():
    def section(course: str, name: str) -> Panel:
        scores = [[50.0, NAN]] * 6
        truth = [[50.0, 60.0]] * 6
        return panel(scores, [10, 20], 15, course=course, section=name, truth=truth)

    sections = [section("twice", "t1"), section("twice", "t2"), section("once", "o1")]
    forecast = []
    for known, held in folds(sections, 3):
        assert {class_panel.course_id for class_panel in held} <= {
            class_panel.course_id for class_panel in known
        }
        both = {(class_panel.section_id, s) for class_panel in known for s in class_panel.students}
        own = {(class_panel.section_id, s) for class_panel in held for s in class_panel.students}
        assert own and both.isdisjoint(own)
        forecast += [
            (class_panel.section_id, s) for class_panel in held for s in class_panel.students
        ]
        assert all(
            len(class_panel.students) == 6
            for class_panel in held
            if class_panel.course_id == "twice"
        )
    assert len(forecast) == len(set(forecast)) == 18


def test_a_single_section_is_divided_by_students():
    only = [
        class_panel for class_panel in ended() if class_panel.section_id == ended()[0].section_id
    ]
    for known, held in folds(only, 3):
        left, right = (
            {s for class_panel in part for s in class_panel.students} for part in (known, held)
        )
        assert left and right and left.isdisjoint(right)


def test_many_terms_are_forecast_forward_in_time():
    terms = [panel([[50, NAN]], [10, 20], 15, section=f"s{k}", truth=[[50, 60]]) for k in range(6)]

    dated = [
        replace(class_panel, started_on=19_000 + 180.0 * k) for k, class_panel in enumerate(terms)
    ]
    splits = list(folds(dated, 3))
    assert len(splits) == 3
    for known, held in splits:
        assert max(class_panel.started_on for class_panel in known) < min(
            class_panel.started_on for class_panel in held
        )
