"""Where parameters are compared: rows to learn from, students who judge, and the loss."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd

from grade_ml.ensemble import pooled
from grade_ml.ensemble.folds import validation_folds
from grade_ml.ensemble.members import Member, Task
from grade_ml.ensemble.pooled import Masks, Workload
from grade_ml.ensemble.stacking import loss
from grade_ml.training.tuning.settings import SETTINGS

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Contest:
    """Where trials are compared: per fold, the rows to learn from and those of judging students."""

    load: Workload
    folds: Masks

    def losses(
        self, kind: type[Member], parameters: Mapping[str, float], seed: int
    ) -> Iterator[tuple[float, float]]:
        """Yield after each fold the mean loss on all rows judged so far, and on the fold's.

        Raises
        ------
        ValueError
            It is not a number.
        """
        load = self.load
        score, judged = np.zeros(len(load.rows)), np.zeros(len(load.rows), bool)
        for train, held_out in self.folds:
            member = load.fit(kind, train, parameters, seed)
            score[held_out] = member.predict(load.matrices[kind.view(load.task)][held_out])
            judged |= held_out
            so_far, here = (
                mean_loss(score[places], load.target[places], load.weight[places], load.task)
                for places in (judged, held_out)
            )
            if not np.isfinite([so_far, here]).all():
                raise ValueError("the loss is not a number")
            yield so_far, here


def mean_loss(score: Floats, target: Floats, weight: Floats, task: Task) -> float:
    """Return the weighted mean of `stacking.loss`, the measure of the stack.

    A member's risk is a score and not always log-odds (the forest's is a stretched probability), so
    it is first put on that scale as the stack would do with this member alone: by a non-negative
    factor and an intercept, fitted on the same rows. Two numbers from thousands of rows flatter
    every trial alike, and a member pays only for what the stack could not mend.
    """
    scaled = _log_odds(score, target) if task is Task.RISK else score
    return float(np.average(loss(scaled, target, task), weights=weight))


def _log_odds(score: Floats, target: Floats) -> Floats:
    from scipy.optimize import minimize
    from scipy.special import expit

    spread = float(score.std()) or 1.0
    unit = (score - score.mean()) / spread

    def cost(values: Floats) -> tuple[float, Floats]:
        odds = values[0] * unit + values[1]
        error = expit(odds) - target
        return float(loss(odds, target, Task.RISK).mean()), np.array(
            [(error * unit).mean(), error.mean()]
        )

    # Beyond e**-10 a probability is a certainty; without bounds one outcome alone has no optimum.
    best = minimize(cost, np.array([1.0, 0.0]), jac=True, bounds=[(0, 30), (-10, 10)]).x
    return np.asarray(best[0] * unit + best[1])


def contest_of(load: Workload, seed: int) -> tuple[Contest, str]:
    """Return where the trials of a task are compared, and why they cannot be, or an empty text."""
    hashes = pd.util.hash_pandas_object(load.rows["student_id"].astype(object), index=False)
    judging = (hashes % SETTINGS.judges == 0).to_numpy()
    folds = []
    seen = np.zeros(len(load.rows), bool)
    for number, (train, held_out) in enumerate(
        validation_folds(load.rows, pooled.SETTINGS.folds, seed)
    ):
        learning = np.flatnonzero(train & ~judging & load.usable)
        if len(learning) > SETTINGS.max_rows:
            random = np.random.default_rng([seed, number])
            learning = random.choice(learning, SETTINGS.max_rows, replace=False)
        judged = held_out & judging & load.usable
        if len(learning) and judged.any():
            learned = np.zeros(len(load.rows), bool)
            learned[learning] = True
            folds.append((learned, judged))
            seen |= judged
    contest = Contest(load, folds)
    students = load.rows.loc[seen, "student_id"].nunique()
    if not load.learnable:
        return contest, f"{load.task} is not tuned: there is nothing to tell apart"
    if students < SETTINGS.min_students:
        return contest, (
            f"{load.task} is not tuned: {students} students are there to judge by, and "
            f"{SETTINGS.min_students} are needed"
        )
    return contest, ""
