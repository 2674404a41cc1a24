"""Members with known faults, stacked: who counts, where, and when a stack is not worth having."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
import pytest

from grade_ml.ensemble.members import Task
from grade_ml.ensemble.stacking import FLAT, PHASED, Floats, Stack, choose, naive_scores

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


def weights(stack: Stack) -> dict[str, Floats]:
    return dict(zip(stack.names, stack.weights, strict=True))


def chosen(made: World, scores: Mapping[str, Floats]):
    return choose(scores, made.target, made.rows, made.task, seed=0)


@BOTH
def test_members_with_errors_of_their_own_share_and_none_is_negative(task: Task) -> None:
    made = world(task)
    scores = {
        "one": made.member(10, seed=1),
        "two": made.member(10, seed=2),
        "opposite": -made.member(10, seed=3),
    }
    choice = chosen(made, scores)
    assert "lower the loss" in choice.reason
    assert (choice.stack.weights >= 0).all()
    assert {"one", "two"} <= set(choice.stack.used)
    if task is Task.GRADE:
        total = sum(choice.stack.at(made.rows["progress"].to_numpy()).values())
        np.testing.assert_allclose(total, 1, atol=0.1)
        assert "opposite" not in choice.stack.used


@BOTH
def test_what_a_row_got_came_from_other_folds(task: Task) -> None:
    made = world(task)
    scores = {"one": made.member(10, seed=1), "two": made.member(10, seed=2)}
    # Of one student: the choice between stack and member, which all folds make, stays as it is.
    first, changes = made.rows["fold"] == 0, made.rows["student_id"] == "s0"
    changed = np.where(changes, made.target.max() - made.target, made.target)
    choice, other = chosen(made, scores), choose(scores, changed, made.rows, task, seed=0)
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
    weight_of = {name: row.max() for name, row in weights(stack).items()}
    # Not quite nothing: it draws the noisy others to the mean.
    assert weight_of["noise"] < 0.1
    assert min(weight_of["one"], weight_of["two"]) > 0.3


@BOTH
def test_equal_members_are_not_stacked(task: Task) -> None:
    made = world(task)
    choice = chosen(made, dict.fromkeys(["a", "b", "c"], made.member(5)))
    assert choice.stack.names == choice.stack.used == ("a",)
    assert choice.stack.knots == FLAT
    assert "least loss of the single members" in choice.reason


@BOTH
def test_the_better_of_two_ships_alone_where_the_other_adds_nothing(task: Task) -> None:
    made = world(task)
    poor = made.member(3, seed=1) + made.member(30, seed=2) - made.truth
    choice = chosen(made, {"poor": poor, "good": made.member(3, seed=1)})
    assert choice.stack.used == ("good",)
    assert choice.losses["good alone"] < choice.losses["poor alone"]


@BOTH
def test_weights_change_along_the_section_where_the_best_member_does(task: Task) -> None:
    made = world(task)
    progress = made.rows["progress"].to_numpy()
    early = made.member(40 * progress, seed=1)
    late = made.member(40 * (1 - progress), seed=2)
    choice = chosen(made, {"early": early, "late": late})
    assert choice.stack.knots == PHASED
    assert choice.losses["phased"] < choice.losses["flat"] < choice.losses["early alone"]
    first, _, last = np.column_stack([weights(choice.stack)[name] for name in ("early", "late")])
    assert first[0] > first[1] and last[0] < last[1]


@BOTH
def test_weights_stay_the_same_where_the_members_do(task: Task) -> None:
    made = world(task)
    choice = chosen(made, {"one": made.member(10, seed=1), "two": made.member(10, seed=2)})
    assert choice.stack.knots == FLAT


def test_weights_are_interpolated_between_knots() -> None:
    stack = Stack(("one",), PHASED, np.array([[0.0, 1.0, 3.0]]), np.array([5.0, 5.0, 5.0]))
    combined = stack.combine({"one": np.full(5, 10.0)}, np.array([0, 1 / 3, 1 / 2, 2 / 3, 1]))
    np.testing.assert_allclose(combined, [5, 10, 15, 25, 35])


def test_the_naive_forecast_ships_alone_where_the_target_equals_it() -> None:
    made = world(Task.GRADE)
    frame = made.rows.assign(grade_rate_so_far=made.truth, course_grade_mean=np.nan)
    naive = naive_scores(frame, np.zeros(len(frame)), Task.GRADE)
    scores = naive | {"member": made.member(8)}
    choice = choose(scores, naive["points_so_far"], made.rows, Task.GRADE, seed=0)
    assert choice.stack.used == ("points_so_far",)
    np.testing.assert_allclose(choice.held_out, naive["points_so_far"], atol=1e-3)


def test_what_was_never_known_in_training_counts_nothing_later() -> None:
    """Where one term has ended, no row knows the mean of its course's earlier sections."""
    made = world(Task.GRADE)
    frame = made.rows.assign(grade_rate_so_far=made.member(5), course_grade_mean=np.nan)
    scores = naive_scores(frame, np.zeros(len(frame)), Task.GRADE) | {"member": made.member(5, 1)}
    stack = chosen(made, scores).stack
    assert set(stack.used) == {"points_so_far", "member"}
    later = naive_scores(frame.assign(course_grade_mean=5.0), np.zeros(len(frame)), Task.GRADE)
    combined = stack.combine({**scores, **later}, made.rows["progress"].to_numpy())
    np.testing.assert_allclose(combined, made.truth, atol=25)


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
    choice = choose(scores, made.target[rows], made.rows[rows], task, seed=0)
    assert np.isfinite(choice.held_out).all()


def test_members_of_nothing_but_zeros_have_finite_weights() -> None:
    made = world(Task.GRADE)
    zeros = np.zeros(len(made.rows))
    choice = choose({"one": zeros, "two": zeros}, zeros, made.rows, Task.GRADE, seed=0)
    assert np.isfinite(choice.stack.weights).all()
    assert (choice.held_out == 0).all()
