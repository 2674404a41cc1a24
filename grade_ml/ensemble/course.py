"""One course's own model: a small correction on top of the pooled model.

The pooled prediction is the prior. The correction, a ridge regression (the grade) and a ridge
logistic regression (the risk), learns what the course does differently along its way, from
predictions that the pooled model made of sections it had not seen; it shrinks to nothing where
there is little to learn. It is linear in the pooled number, so the chain is explained exactly.

Where scores of a running section have changed since a day, no outcome can teach that yet: then the
points to come are stretched by what these scores show (`Change`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import pandas as pd

from grade_ml.core.errors import ArtifactError
from grade_ml.core.resampling import Improvement, improvement
from grade_ml.ensemble.evaluation import Evaluation, evaluate
from grade_ml.ensemble.members import Task
from grade_ml.ensemble.pooled import PooledModel
from grade_ml.ensemble.rows import (
    attainable,
    bounded_grade,
    late_weight,
    log_odds_of,
    predicted,
    probability,
)
from grade_ml.ensemble.stacking import PHASED, basis

Floats = npt.NDArray[np.float64]

_MODEL = "model.json"


@dataclass(frozen=True)
class CourseSettings:
    """The judgements of the course's model, each with its reason."""

    #: Of squared points and of log loss, per correction squared: equal to so many students as
    #: evidence against any correction.
    ridge_students: float = 30.0
    #: A course with fewer students in ended sections uses the pooled model.
    min_students: int = 50


SETTINGS = CourseSettings()


@dataclass(frozen=True)
class Change:
    """What scores of running sections show that no ended section does.

    Attributes
    ----------
    since
        The day from which on scores have changed.
    share
        By which share of them points to come are more than the pooled model predicts, or, if
        negative, fewer; -1 or more. 0 if the change is not significant.
    gained
        The gain from allowing for it, on scores of assignments that it was not estimated from.
    """

    since: date
    share: float
    gained: Improvement

    def __str__(self) -> str:
        gained = self.gained
        return (
            f"since {self.since} points to come are {self.share:+.0%}; by what other assignments "
            f"say, squared errors of scores fall by {gained.mean:.0%} "
            f"({gained.low:.0%} to {gained.high:.0%}, {gained.clusters} students)"
        )


@dataclass(frozen=True)
class Correction:
    """Weights on the columns of `_design`, for the points to come and for the log-odds."""

    grade: Floats
    risk: Floats

    def apply(self, raw: pd.DataFrame) -> tuple[Floats, Floats]:
        """Return corrected grade and risk.

        Parameters
        ----------
        raw
            Columns grade, risk (the pooled model's, uncalibrated), collected, possible and
            progress.
        """
        certain = raw["collected"].to_numpy(np.float64)
        to_come = raw["grade"].to_numpy(np.float64) - certain
        log_odds = log_odds_of(raw["risk"])
        progress = raw["progress"].to_numpy(np.float64)
        left = (raw["possible"].to_numpy(np.float64) - certain) / 100
        grade = to_come + _design(to_come, left, progress) @ self.grade
        risk = log_odds + _design(log_odds, np.ones_like(left), progress) @ self.risk
        possible = raw["possible"].to_numpy(np.float64)
        return bounded_grade(grade, certain, possible), probability(risk)

    def at(self, task: Task, progress: Floats) -> tuple[Floats, Floats]:
        """Return by how much it shifts and stretches the number of `task` per row.

        A corrected number is (1 + stretch) x number + shift; the grade's shift is for a section of
        which everything is still to come, and shrinks with what is left.
        """
        shifts, stretches = np.split(self.grade if task is Task.GRADE else self.risk, 2)
        hats = basis(progress, PHASED)
        return hats @ shifts, hats @ stretches


@dataclass(frozen=True)
class CourseModel:
    """The pooled model with one course's correction.

    Attributes
    ----------
    pooled_version
        Of the registry; the correction belongs to this version.
    gained
        What the correction gained on the course's last ended section, which it had not seen; where
        `changed_on` is given, on scores since.
    changed_on
        The day from which on scores of running sections have changed; `None` if none have.
    """

    course_id: str
    pooled: PooledModel
    pooled_version: int
    correction: Correction
    sections: tuple[str, ...]
    evaluation: Evaluation
    gained: Improvement
    changed_on: date | None = None

    @property
    def features(self) -> tuple[str, ...]:
        """The names of the columns it reads."""
        return self.pooled.features

    @property
    def share(self) -> float:
        """The share by which it stretches points to come for changed scores; 0 without a change."""
        return float(self.correction.grade[-1]) if self.changed_on else 0.0

    @property
    def degraded(self) -> tuple[str, ...]:
        """Why it is less than it could be."""
        return self.pooled.degraded

    def predict(self, snapshots: pd.DataFrame) -> pd.DataFrame:
        """Return one row per snapshot, in order, as `PooledModel.predict` does."""
        raw = self.pooled.raw(snapshots)
        grade, risk = self.correction.apply(raw.assign(possible=attainable(snapshots)))
        calibrated = self.pooled.calibration.apply(raw.assign(grade=grade, risk=risk))
        return predicted(snapshots, calibrated)

    def save(self, directory: Path) -> None:
        """Write the correction to `directory`; the pooled model is stored by itself."""
        directory.mkdir(parents=True, exist_ok=True)
        gained = self.gained
        described = {
            "model": "course",
            "course_id": self.course_id,
            "pooled_version": self.pooled_version,
            "grade": self.correction.grade.tolist(),
            "risk": self.correction.risk.tolist(),
            "sections": list(self.sections),
            "evaluation": self.evaluation.to_dict(),
            "gained": [gained.mean, gained.low, gained.high, gained.rows, gained.clusters],
            "changed_on": self.changed_on.isoformat() if self.changed_on else None,
        }
        (directory / _MODEL).write_text(json.dumps(described, indent=1, sort_keys=True))

    @classmethod
    def load(cls, directory: Path, pooled: Mapping[int, PooledModel]) -> Self:
        """Read what `save` wrote.

        Parameters
        ----------
        pooled
            The pooled model by version, loaded on first use.

        Raises
        ------
        ArtifactError
            The folder does not hold a course's model that this version of the program can read.
        """
        try:
            described: dict[str, Any] = json.loads((directory / _MODEL).read_text())
            changed_on = described.get("changed_on")
            return cls(
                course_id=described["course_id"],
                pooled=pooled[described["pooled_version"]],
                pooled_version=described["pooled_version"],
                correction=Correction(np.array(described["grade"]), np.array(described["risk"])),
                sections=tuple(described["sections"]),
                evaluation=Evaluation.from_dict(described["evaluation"]),
                gained=Improvement(*described["gained"]),
                changed_on=date.fromisoformat(changed_on) if changed_on else None,
            )
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ArtifactError(
                f"The model in {directory} cannot be read: {error!r}.", "Train the course again."
            ) from error


@dataclass(frozen=True)
class Fitted:
    """A correction, or `None` if the pooled model serves, and the reason."""

    correction: Correction | None
    reason: str
    evaluation: Evaluation | None = None
    gained: Improvement | None = None


def fit(rows: pd.DataFrame, pooled: PooledModel, seed: int) -> Fitted:
    """Fit a course's correction and keep it only if it is better on the last section.

    Parameters
    ----------
    rows
        Of ended sections of one course, predicted by a pooled model that had not seen them:
        section_id, began_on, student, raw_grade, raw_risk, final_grade, at_risk, naive and
        `CONTEXT`.
    pooled
        Whose calibration the course's model uses.
    """
    students = rows["student"].nunique()
    if students < SETTINGS.min_students:
        return Fitted(
            None, f"{students} students in ended sections; {SETTINGS.min_students} are needed"
        )
    began = rows.groupby("section_id")["began_on"].min().sort_values()
    if len(began) < 2:
        return Fitted(None, "only one section was predicted unseen; there is none left to judge by")
    raw = rows.assign(
        grade=rows["raw_grade"],
        risk=rows["raw_risk"],
        possible=rows["collected"] + rows["weight_remaining"],
    )
    last = (raw["section_id"] == began.index[-1]).to_numpy()
    tested = raw[last]
    trial = _calibrated(_learn(raw[~last]), tested, pooled)
    before = pooled.calibration.apply(tested)
    gained = improvement(*_losses(before, trial, tested), tested["student"].to_numpy(), seed)
    if not gained.is_sure:
        return Fitted(None, f"on {began.index[-1]} a correction gains nothing sure: {gained}")
    reason = f"on {began.index[-1]} the correction lowers the loss by {gained}"
    return Fitted(_learn(raw), reason, evaluate(trial, seed), gained)


def changed(change: Change, pooled: PooledModel) -> Correction:
    """Return the correction that stretches the points to come.

    The risk has no label to learn from before sections end. It moves as it does between students
    whose grades differ by so many points: by the slope of log-odds on grades in held-out rows.
    """
    rows = pooled.held_out[pooled.held_out["raw_grade"].notna()]
    grade, log_odds = rows["raw_grade"].to_numpy(np.float64), log_odds_of(rows["raw_risk"])
    slope = np.cov(grade, log_odds)[0, 1] / (grade.var() + 1e-9)
    hats = basis(rows["progress"].to_numpy(np.float64), PHASED)
    to_come = grade - rows["collected"].to_numpy(np.float64)
    moved = change.share * (hats.T @ to_come) / np.maximum(hats.sum(axis=0), 1e-9)
    nothing = np.zeros(len(PHASED))
    return Correction(
        np.concatenate([nothing, nothing + change.share]), np.concatenate([slope * moved, nothing])
    )


def _losses(
    before: pd.DataFrame, after: pd.DataFrame, truth: pd.DataFrame
) -> tuple[Floats, Floats]:
    """Return the loss per row of two predictions of the same rows.

    It is the squared error of the grade and that of the risk, each over its mean in `before`, so
    that both count the same; 2 is what `before` has on average.
    """
    pair = np.zeros((2, len(truth)))
    actual = {"grade": truth["final_grade"], "risk": truth["at_risk"].astype(float)}
    for name, values in actual.items():
        known = values.to_numpy(np.float64)
        predicted = np.stack([frame[name].to_numpy(np.float64) for frame in (before, after)])
        # What is unknown, or was not predicted before, is no evidence for or against the change.
        unknown = np.isnan(known) | np.isnan(predicted[0])
        errors = np.where(unknown, 0.0, (predicted - known) ** 2)
        pair += errors / (errors[0].mean() or 1.0)
    return pair[0], pair[1]


def _calibrated(correction: Correction, raw: pd.DataFrame, pooled: PooledModel) -> pd.DataFrame:
    grade, risk = correction.apply(raw)
    return pooled.calibration.apply(raw.assign(grade=grade, risk=risk))


def _learn(raw: pd.DataFrame) -> Correction:
    certain = raw["collected"].to_numpy(np.float64)
    to_come = raw["grade"].to_numpy(np.float64) - certain
    left = (raw["possible"].to_numpy(np.float64) - certain) / 100
    progress = raw["progress"].to_numpy(np.float64)
    students = max(raw["student"].nunique(), 1)
    ridge = SETTINGS.ridge_students * len(raw) / students
    known = (raw["final_grade"].notna() & raw["grade"].notna()).to_numpy()
    target = raw["final_grade"].to_numpy(np.float64) - certain
    grade = np.zeros(2 * len(PHASED))
    if known.any():
        design = _design(to_come, left, progress)[known]
        grade = _ridge(design, (target - to_come)[known], late_weight(raw)[known], ridge)
    log_odds = log_odds_of(raw["risk"])
    at_risk = raw["at_risk"].to_numpy(np.float64)
    risk = _logistic(_design(log_odds, np.ones_like(left), progress), log_odds, at_risk, ridge)
    return Correction(grade, risk)


def _design(number: Floats, unit: Floats, progress: Floats) -> Floats:
    """Return per knot a column of shifts (in `unit`) and one of stretches of `number`."""
    hats = basis(progress, PHASED)
    return np.hstack([hats * unit[:, None], hats * number[:, None]])


def _ridge(design: Floats, target: Floats, weight: Floats, ridge: float) -> Floats:
    scale = np.sqrt((design**2).mean(axis=0)) + 1e-9
    scaled = design / scale
    gram = (scaled * weight[:, None]).T @ scaled + ridge * np.eye(design.shape[1])
    return np.asarray(np.linalg.solve(gram, (scaled * weight[:, None]).T @ target) / scale)


def _logistic(design: Floats, offset: Floats, target: Floats, ridge: float) -> Floats:
    from scipy.optimize import minimize

    scale = np.sqrt((design**2).mean(axis=0)) + 1e-9
    scaled = design / scale

    def loss(weights: Floats) -> tuple[float, Floats]:
        score = offset + scaled @ weights
        value = np.sum(np.logaddexp(0, score) - target * score) + ridge / 8 * (weights @ weights)
        return value, scaled.T @ (probability(score) - target) + ridge / 4 * weights

    best = minimize(loss, np.zeros(design.shape[1]), jac=True, method="L-BFGS-B").x
    return np.asarray(best / scale)
