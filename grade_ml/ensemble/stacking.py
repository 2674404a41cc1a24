"""The meta-learner: how much each member's number counts, and whether a stack is worth having.

Stacked generalisation (Wolpert 1992) with non-negative weights (Breiman 1996) on predictions of
rows that no member had seen. It is linear, so what explains the members explains the stack. Weights
may change along the section, between three knots; they do only if that is better on folds that the
weights had not seen, and any stack must likewise be better than its best single member.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import pandas as pd

from grade_ml.core.resampling import improvement
from grade_ml.ensemble.members import Task
from grade_ml.ensemble.rows import NAIVE, late_weight

Floats = npt.NDArray[np.float64]

#: Early, middle and late: shares of the section (0-1); in between, weights are interpolated.
PHASED = (1 / 6, 1 / 2, 5 / 6)
FLAT = (0.5,)


@dataclass(frozen=True)
class StackSettings:
    """The judgements of the meta-learner, each with its reason."""

    #: Points. Errors beyond count linearly (Huber 1964), which puts the stack between mean and
    #: median, since both kinds of error are judged.
    huber: float = 30.0
    #: Pull of the weights of the risk towards equal weights: members agree, and their differences
    #: on a few sections are chance.
    ridge: float = 1e-2


SETTINGS = StackSettings()


@dataclass(frozen=True)
class Stack:
    """Weights of members at knots: score = sum of weight(progress) x member + intercept(progress).

    Attributes
    ----------
    names
        The members in order.
    knots
        Progress (0-1) at which the weights hold.
    weights
        Shape (members, knots), none negative.
    intercept
        Shape (knots,); 0 for the grade.
    """

    names: tuple[str, ...]
    knots: tuple[float, ...]
    weights: Floats
    intercept: Floats

    def combine(self, scores: Mapping[str, Floats], progress: Floats) -> Floats:
        """Return the stacked score per row; of members that count nowhere, none is needed."""
        weights = self.at(progress)
        stacked = basis(progress, self.knots) @ self.intercept
        for name in self.used:
            stacked = stacked + weights[name] * scores[name]
        return np.asarray(stacked, dtype=np.float64)

    def at(self, progress: Floats) -> dict[str, Floats]:
        """Return each member's weight per row."""
        along = basis(progress, self.knots) @ self.weights.T
        return {name: along[:, place] for place, name in enumerate(self.names)}

    @property
    def used(self) -> tuple[str, ...]:
        """The members that count anywhere."""
        return tuple(name for name, row in zip(self.names, self.weights, strict=True) if row.any())

    def to_dict(self) -> dict[str, Any]:
        """Return the stack as plain values."""
        return {
            "names": list(self.names),
            "knots": list(self.knots),
            "weights": self.weights.tolist(),
            "intercept": self.intercept.tolist(),
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Return what `to_dict` described."""
        return cls(
            tuple(values["names"]),
            tuple(values["knots"]),
            np.array(values["weights"], dtype=np.float64),
            np.array(values["intercept"], dtype=np.float64),
        )


@dataclass(frozen=True)
class Chosen:
    """A stack fitted on all rows, and what each row got from one that had not seen its fold.

    Attributes
    ----------
    held_out
        Score per row.
    losses
        Mean loss on unseen folds of each single member, "flat" and "phased" weights.
    reason
        Why this stack, as text.
    """

    stack: Stack
    held_out: Floats
    losses: Mapping[str, float]
    reason: str


def naive_scores(rows: pd.DataFrame, collected: Floats, task: Task) -> dict[str, Floats]:
    """Return the forecasts that need no model, on the scale of the members of `task`.

    The grade's: the rate of points so far, and the mean of the course's earlier sections, less the
    points collected. The risk's is the base rate, which is the intercept.
    """
    if task is Task.RISK:
        return {}
    rate = rows[NAIVE].fillna(50.0).to_numpy(np.float64)
    usual = rows["course_grade_mean"].to_numpy(np.float64)
    usual = np.where(np.isnan(usual), rate, usual)
    return {
        "points_so_far": np.maximum(rate - collected, 0),
        "course_mean": np.maximum(usual - collected, 0),
    }


def choose(
    scores: Mapping[str, Floats], target: Floats, rows: pd.DataFrame, task: Task, seed: int
) -> Chosen:
    """Fit and choose the stack.

    Parameters
    ----------
    scores
        Held-out prediction of each member per row. A member that equals one before it in every row
        is left out: nothing tells how far it may be trusted where it does not. So it is with the
        mean of the course's earlier sections while only one term has ended.
    target
        Points still to come, or 0 and 1.
    rows
        Columns progress (0-1), fold and student_id.
    """
    names = tuple(_distinct(scores))
    values = np.column_stack([scores[name] for name in names])
    progress = rows["progress"].to_numpy(np.float64)
    weight = late_weight(rows) if task is Task.GRADE else np.ones(len(rows))
    folds = rows["fold"].to_numpy()
    students = pd.factorize(rows["student_id"].astype("object"))[0]
    options: dict[str, tuple[tuple[str, ...], tuple[float, ...]]]
    options = {f"{name} alone": ((name,), FLAT) for name in names}
    options |= {"flat": (names, FLAT), "phased": (names, PHASED)}
    held_out, losses = {}, {}
    for option, (members, knots) in options.items():
        columns = [names.index(name) for name in members]
        held_out[option] = np.zeros(len(rows))
        for train, held in _splits(folds):
            fitted = _fit(
                values[train][:, columns],
                target[train],
                progress[train],
                weight[train],
                members,
                knots,
                task,
            )
            part = dict(zip(members, values[held][:, columns].T, strict=True))
            held_out[option][held] = fitted.combine(part, progress[held])
        losses[option] = weight * loss(held_out[option], target, task)
    best = min(
        (option for option in options if option.endswith(" alone")),
        key=lambda option: losses[option].mean(),
    )
    reason = f"{best} has the least loss of the single members"
    for option in ("flat", "phased"):
        if improvement(losses[best], losses[option], students, seed).is_sure:
            gain = 100 * (1 - losses[option].mean() / losses[best].mean())
            reason = f"{option} weights lower the loss of {best} by {gain:.2f} % on unseen folds"
            best = option
    members, knots = options[best]
    columns = [names.index(name) for name in members]
    stack = _fit(values[:, columns], target, progress, weight, members, knots, task)
    return Chosen(
        stack,
        held_out[best],
        {option: float(values.mean()) for option, values in losses.items()},
        reason,
    )


def _distinct(scores: Mapping[str, Floats]) -> Iterator[str]:
    kept: list[Floats] = []
    for name, values in scores.items():
        if not any(np.array_equal(values, other) for other in kept):
            kept.append(values)
            yield name


def _splits(folds: npt.NDArray[Any]) -> Iterator[tuple[npt.NDArray[np.bool_], ...]]:
    for fold in np.unique(folds):
        held = folds == fold
        yield (held if held.all() else ~held), held


def basis(progress: Floats, knots: Sequence[float]) -> Floats:
    """Return per knot how much it counts at each progress: hats that sum to 1."""
    hats = np.eye(len(knots))
    return np.column_stack([np.interp(progress, knots, hat) for hat in hats])


def _fit(  # noqa: PLR0913, PLR0917
    values: Floats,
    target: Floats,
    progress: Floats,
    weight: Floats,
    names: tuple[str, ...],
    knots: tuple[float, ...],
    task: Task,
) -> Stack:
    hats = basis(progress, knots)
    design = (values[:, :, None] * hats[:, None, :]).reshape(len(values), -1)
    if task is Task.GRADE:
        weights = _huber_weights(design, target, weight)
        intercept = np.zeros(len(knots))
    else:
        weights, intercept = _logistic_weights(design, hats, target, len(names))
    return Stack(names, knots, weights.reshape(len(names), -1), intercept)


def _huber_weights(design: Floats, target: Floats, weight: Floats) -> Floats:
    """Return non-negative least squares, reweighted until large errors count linearly."""
    from scipy.optimize import nnls

    current, weights = weight, np.zeros(design.shape[1])
    for _ in range(8):
        root = np.sqrt(current)
        # The normal equations: members are few and rows many.
        gram = (design * current[:, None]).T @ design
        gram[np.diag_indices_from(gram)] += 1e-9 * max(float(np.trace(gram)), 1e-9)
        factor = np.linalg.cholesky(gram).T
        moment = np.linalg.solve(factor.T, (design * root[:, None]).T @ (root * target))
        weights, _ = nnls(factor, moment)
        error = np.abs(target - design @ weights)
        current = weight * np.minimum(1, SETTINGS.huber / np.maximum(error, 1e-9))
    return np.asarray(weights)


def _logistic_weights(
    design: Floats, basis: Floats, target: Floats, members: int
) -> tuple[Floats, Floats]:
    """Return non-negative weights and free intercepts of the least logistic loss."""
    from scipy.optimize import minimize
    from scipy.special import expit

    both = np.hstack([design, basis])
    knots = basis.shape[1]
    prior = np.concatenate([np.full(design.shape[1], 1 / members), np.zeros(knots)])

    def loss(weights: Floats) -> tuple[float, Floats]:
        score = both @ weights
        value = np.mean(np.logaddexp(0, score) - target * score)
        slope = both.T @ (expit(score) - target) / len(target)
        pull = weights - prior
        return value + SETTINGS.ridge * (pull @ pull), slope + 2 * SETTINGS.ridge * pull

    bounds = [(0, None)] * design.shape[1] + [(None, None)] * knots
    best = minimize(loss, prior, jac=True, bounds=bounds, method="L-BFGS-B").x
    return best[:-knots], best[-knots:]


def loss(score: Floats, target: Floats, task: Task) -> Floats:
    """Return what each row costs: logistic of log-odds against 0 and 1, or Huber of points."""
    if task is Task.RISK:
        return np.asarray(np.logaddexp(0, score) - target * score)
    error, bound = np.abs(score - target), SETTINGS.huber
    return np.where(error < bound, error**2 / 2, bound * (error - bound / 2))
