"""Members with known faults, stacked: who counts, and how much."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
import pytest

from grade_ml.ensemble.members import Task
from grade_ml.ensemble.stacking import PHASED, Floats, Stack, naive_scores, stacked

STUDENTS, WEEKS, FOLDS = 150, 12, 3
BOTH = pytest.mark.parametrize("task", list(Task), ids=str)


@dataclass(frozen=True)
class World:
    """Rows of students over the weeks, the score that is true, and what came of it."""

    task: Task
    rows: pd.DataFrame
    truth: Floats
    target: Floats
    random: np.random.Generator

    def member(self, error: float | Floats = 0.0, seed: int = 0) -> Floats:
        """Return a member that is off by `error` (in points, or a tenth in log-odds)."""
        noise = np.random.default_rng(seed + 10).normal(size=len(self.rows))
        return self.truth + error * noise * (1 if self.task is Task.GRADE else 0.1)


def world(task: Task) -> World:
    random = np.random.default_rng(0)
    rows = pd.DataFrame(
        {
            "student_id": np.repeat([f"s{i}" for i in range(STUDENTS)], WEEKS),
            "fold": np.repeat(np.arange(STUDENTS) % FOLDS, WEEKS),
            "progress": np.tile((np.arange(WEEKS) + 0.5) / WEEKS, STUDENTS),
        }
    )
    if task is Task.GRADE:
        truth = random.uniform(20, 80, len(rows))
        target = truth + random.normal(0, 2, len(rows))
    else:
        truth = random.normal(0, 2, len(rows))
        target = (random.random(len(rows)) < 1 / (1 + np.exp(-truth))).astype(float)
    return World(task, rows, truth, target, random)


def weights(stack: Stack) -> dict[str, float]:
    return dict(zip(stack.names, stack.weights[:, 0].tolist(), strict=True))


def chosen(made: World, scores: Mapping[str, Floats]):
    return stacked(scores, made.target, made.rows, made.task)


@BOTH
def test_members_with_errors_of_their_own_share_and_none_is_negative(task: Task) -> None:
    made = world(task)
    scores = {
        "one": made.member(10, seed=1),
        "two": made.member(10, seed=2),
        "opposite": -made.member(10, seed=3),
    }
    choice = chosen(made, scores)
    assert choice.losses["stack"] < choice.losses["one alone"] < choice.losses["opposite alone"]
    assert (choice.stack.weights >= 0).all()
    assert {"one", "two"} <= set(choice.stack.used)
    assert weights(choice.stack)["opposite"] < 0.05
    if task is Task.GRADE:
        assert choice.stack.weights.sum() == pytest.approx(1)


@BOTH
def test_what_a_row_got_came_from_other_folds(task: Task) -> None:
    made = world(task)
    scores = {"one": made.member(10, seed=1), "two": made.member(10, seed=2)}
    first, changes = made.rows["fold"] == 0, made.rows["student_id"] == "s0"
    changed = np.where(changes, made.target.max() - made.target, made.target)
    choice, other = chosen(made, scores), stacked(scores, changed, made.rows, task)
    np.testing.assert_array_equal(choice.held_out[first], other.held_out[first])
    assert (choice.held_out[~first] != other.held_out[~first]).any()


@BOTH
def test_a_stack_survives_storage(task: Task) -> None:
    made = world(task)
    scores = {"one": made.member(10, seed=1), "two": made.member(10, seed=2)}
    stack = chosen(made, scores).stack
    again = Stack.from_dict(json.loads(json.dumps(stack.to_dict())))
    progress = made.rows["progress"].to_numpy()
    np.testing.assert_array_equal(again.combine(scores, progress), stack.combine(scores, progress))
    assert again.used == stack.used


@BOTH
def test_a_useless_member_hardly_counts(task: Task) -> None:
    made = world(task)
    noise = made.truth.mean() + made.random.normal(0, made.truth.std(), len(made.rows))
    scores = {"one": made.member(10, seed=1), "two": made.member(10, seed=2), "noise": noise}
    stack = chosen(made, scores).stack
    weight_of = weights(stack)
    # Not quite nothing: it draws the noisy others to the mean.
    assert weight_of["noise"] < 0.15
    assert min(weight_of["one"], weight_of["two"]) > 0.3


@BOTH
def test_equal_members_count_the_same(task: Task) -> None:
    made = world(task)
    choice = chosen(made, dict.fromkeys(["a", "b", "c"], made.member(5)))
    np.testing.assert_allclose(choice.stack.weights, choice.stack.weights[0, 0], rtol=1e-3)


@BOTH
def test_the_better_of_two_counts_more(task: Task) -> None:
    made = world(task)
    choice = chosen(made, {"poor": made.member(25, seed=2), "good": made.member(5, seed=1)})
    weight_of = weights(choice.stack)
    assert weight_of["good"] > 1.2 * weight_of["poor"]
    assert choice.losses["good alone"] < choice.losses["poor alone"]
    assert "good alone" in choice.reason


def test_no_level_enters_the_weights_of_the_grade() -> None:
    made = world(Task.GRADE)
    scores = {"one": made.member(10, seed=1) * 0.8, "two": made.member(10, seed=2) * 0.8}
    assert chosen(made, scores).stack.weights.sum() == pytest.approx(1)


def test_weights_are_interpolated_between_knots() -> None:
    stack = Stack(("one",), PHASED, np.array([[0.0, 1.0, 3.0]]), np.array([5.0, 5.0, 5.0]))
    combined = stack.combine({"one": np.full(5, 10.0)}, np.array([0, 1 / 3, 1 / 2, 2 / 3, 1]))
    np.testing.assert_allclose(combined, [5, 10, 15, 25, 35])


def test_naive_forecasts_are_what_is_still_to_come() -> None:
    frame = pd.DataFrame(
        {
            "grade_rate_so_far": [80.0, np.nan, 40.0, np.nan],
            "course_grade_mean": [60.0, 70.0, np.nan, np.nan],
        }
    )
    scores = naive_scores(frame, np.array([30.0, 0.0, 45.0, 0.0]), Task.GRADE)
    assert scores["points_so_far"].tolist() == [50, 50, 0, 50]
    assert scores["course_mean"].tolist() == [30, 70, 0, 50]
    assert naive_scores(frame, np.zeros(4), Task.RISK) == {}


def test_a_member_that_counts_nowhere_is_not_needed() -> None:
    stack = Stack(
        ("one", "idle", "late"), PHASED, np.array([[1, 1, 1], [0, 0, 0], [0, 0, 2.0]]), np.zeros(3)
    )
    assert stack.used == ("one", "late")
    combined = stack.combine({"one": np.ones(2), "late": np.ones(2)}, np.array([0.0, 1.0]))
    assert combined.tolist() == [1, 3]
    with pytest.raises(KeyError, match="late"):
        stack.combine({"one": np.ones(2)}, np.zeros(2))


@BOTH
def test_one_fold_and_one_student_are_enough(task: Task) -> None:
    made = world(task)
    rows = made.rows["student_id"] == "s0"
    scores = {"one": made.member(5, seed=1)[rows], "two": made.member(5, seed=2)[rows]}
    choice = stacked(scores, made.target[rows], made.rows[rows], task)
    assert np.isfinite(choice.held_out).all()


def test_members_of_nothing_but_zeros_have_finite_weights() -> None:
    made = world(Task.GRADE)
    zeros = np.zeros(len(made.rows))
    choice = stacked({"one": zeros, "two": zeros}, zeros, made.rows, Task.GRADE)
    assert np.isfinite(choice.stack.weights).all()
    assert (choice.held_out == 0).all()
