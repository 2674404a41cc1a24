"""The meta-learner: how much each member's number counts.

Stacked generalisation (Wolpert 1992) with non-negative weights (Breiman 1996) on predictions of
rows that no member had seen. It is linear, so what explains the members explains the stack. Weights
are pulled towards equal ones: which member is best differs between terms, and terms are few.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import pandas as pd

from grade_ml.ensemble.members import Task
from grade_ml.ensemble.rows import NAIVE, late_weight

Floats = npt.NDArray[np.float64]

#: Early, middle and late: shares of the section (0-1); in between, weights are interpolated.
PHASED = (1 / 6, 1 / 2, 5 / 6)
#: The weights are the same along the section.
FLAT = (0.5,)


@dataclass(frozen=True)
class StackSettings:
    """The judgements of the meta-learner, each with its reason."""

    #: Points. Errors beyond count linearly (Huber 1964), which puts the stack between mean and
    #: median, since both kinds of error are judged.
    huber: float = 30.0
    #: Pull of the weights towards equal weights, as a share of the mean squared points to come.
    #: The weights of the grade sum to 1, so that no term's level enters them.
    grade_pull: float = 0.03
    #: The same for the risk, in log loss.
    risk_pull: float = 0.1


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
class Stacked:
    """A stack fitted on all rows, and what each row got from one that had not seen its fold.

    Attributes
    ----------
    held_out
        Score per row.
    losses
        Mean loss on unseen folds of the "stack" and of each member, such as "xgboost alone".
    """

    stack: Stack
    held_out: Floats
    losses: Mapping[str, float]

    @property
    def reason(self) -> str:
        """What the stack is worth, as text."""
        alone = {name: loss for name, loss in self.losses.items() if name != "stack"}
        best = min(alone, key=alone.__getitem__)
        return (
            f"the stack has a loss of {self.losses['stack']:.4g} on unseen folds, "
            f"{best} {alone[best]:.4g}"
        )


def naive_scores(rows: pd.DataFrame, collected: Floats, task: Task) -> dict[str, Floats]:
    """Return the forecasts that need no model, which earlier versions stacked with the members.

    The grade's: the rate of points so far, and the mean of the course's earlier sections, less the
    points collected.
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


def stacked(
    scores: Mapping[str, Floats], target: Floats, rows: pd.DataFrame, task: Task
) -> Stacked:
    """Fit the stack.

    Parameters
    ----------
    scores
        Held-out prediction of each member per row.
    target
        Points still to come, or 0 and 1.
    rows
        Columns progress (0-1) and fold.
    """
    weight = late_weight(rows) if task is Task.GRADE else np.ones(len(rows))
    folds, progress = rows["fold"].to_numpy(), rows["progress"].to_numpy(np.float64)

    def cross_fitted(members: Mapping[str, Floats]) -> tuple[Floats, float]:
        score = np.zeros(len(rows))
        for train, held in _splits(folds):
            learned = {name: values[train] for name, values in members.items()}
            stack = _fit(learned, target[train], weight[train], task)
            unseen = {name: values[held] for name, values in members.items()}
            score[held] = stack.combine(unseen, progress[held])
        return score, float((weight * loss(score, target, task)).mean())

    held_out, losses = cross_fitted(scores)
    alone = {f"{name} alone": cross_fitted({name: scores[name]})[1] for name in scores}
    return Stacked(_fit(scores, target, weight, task), held_out, {"stack": losses} | alone)


def _splits(folds: npt.NDArray[Any]) -> Iterator[tuple[npt.NDArray[np.bool_], ...]]:
    for fold in np.unique(folds):
        held = folds == fold
        yield (held if held.all() else ~held), held


def basis(progress: Floats, knots: Sequence[float]) -> Floats:
    """Return per knot how much it counts at each progress: hats that sum to 1."""
    hats = np.eye(len(knots))
    return np.column_stack([np.interp(progress, knots, hat) for hat in hats])


def _fit(scores: Mapping[str, Floats], target: Floats, weight: Floats, task: Task) -> Stack:
    values = np.column_stack([*scores.values()])
    if task is Task.GRADE:
        weights, intercept = _huber_weights(values, target, weight), 0.0
    else:
        weights, intercept = _logistic_weights(values, target)
    return Stack(tuple(scores), FLAT, weights[:, None], np.array([intercept]))


def _huber_weights(values: Floats, target: Floats, weight: Floats) -> Floats:
    """Return non-negative weights that sum to 1, reweighted until large errors count linearly."""
    from scipy.optimize import nnls

    members = values.shape[1]
    scale = float(np.average(target**2, weights=weight)) or 1.0
    pull, whole = SETTINGS.grade_pull * scale, 1e4 * scale
    current, weights = weight, np.full(members, 1 / members)
    for _ in range(8):
        # The normal equations: members are few and rows many.
        share = current / current.sum()
        gram = (values * share[:, None]).T @ values + pull * np.eye(members) + whole
        moment = values.T @ (share * target) + pull / members + whole
        factor = np.linalg.cholesky(gram).T
        weights, _ = nnls(factor, np.linalg.solve(factor.T, moment))
        error = np.abs(target - values @ weights)
        current = weight * np.minimum(1, SETTINGS.huber / np.maximum(error, 1e-9))
    return np.asarray(weights / weights.sum())


def _logistic_weights(values: Floats, target: Floats) -> tuple[Floats, float]:
    """Return non-negative weights and a free intercept of the least logistic loss."""
    from scipy.optimize import minimize
    from scipy.special import expit

    both = np.column_stack([values, np.ones(len(values))])
    prior = np.array([*np.full(values.shape[1], 1 / values.shape[1]), 0])

    def loss(weights: Floats) -> tuple[float, Floats]:
        score = both @ weights
        value = np.mean(np.logaddexp(0, score) - target * score)
        slope = both.T @ (expit(score) - target) / len(target)
        pull = weights - prior
        return value + SETTINGS.risk_pull * (pull @ pull), slope + 2 * SETTINGS.risk_pull * pull

    bounds = [(0, None)] * values.shape[1] + [(None, None)]
    best = minimize(loss, prior, jac=True, bounds=bounds, method="L-BFGS-B").x
    return best[:-1], float(best[-1])


def loss(score: Floats, target: Floats, task: Task) -> Floats:
    """Return what each row costs: logistic of log-odds against 0 and 1, or Huber of points."""
    if task is Task.RISK:
        return np.asarray(np.logaddexp(0, score) - target * score)
    error, bound = np.abs(score - target), SETTINGS.huber
    return np.where(error < bound, error**2 / 2, bound * (error - bound / 2))
