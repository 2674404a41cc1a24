"""The "traditional" model: scikit-learn only, one for all courses, for final grade and risk.

The grade is learned as what comes on top of the points collected so far; the risk as the
probability of failing or withdrawing. Intervals and calibration come from predictions of sections
that the predicting model had not seen. Where and under which name a fitted model is stored is
decided in `grade_ml.registry` and above.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import pandas as pd

from grade_ml.core.errors import ArtifactError
from grade_ml.core.frames import empty, together
from grade_ml.core.resampling import deserves_champion
from grade_ml.core.threads import limited_threads, threads
from grade_ml.ensemble import persistence
from grade_ml.ensemble.binning import bin_quickly
from grade_ml.ensemble.calibration import Calibration, cross_calibrated
from grade_ml.ensemble.encoding import Encoder, attributes
from grade_ml.ensemble.evaluation import OF_SECTION, Evaluation, by_section, evaluate
from grade_ml.ensemble.folds import validation_folds
from grade_ml.ensemble.names import BASELINE
from grade_ml.ensemble.rows import (
    ROW,
    collected,
    context,
    late_weight,
    naive_grade,
    predicted,
    training_rows,
)
from grade_ml.features.snapshots import NUMERIC_FEATURES

#: Of the mean, the median and the trees.
GRADE_WEIGHTS = (0.4, 0.2, 0.4)
_MODEL, _FITTED = "model.json", "fitted.skops"

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class BaselineSettings:
    """The judgements of the baseline, each with its reason."""

    #: Weekly rows of one student repeat each other: more rows cost time and gained nothing.
    max_rows: int = 60_000
    folds: int = 3


SETTINGS = BaselineSettings()


@dataclass(frozen=True)
class Members:
    """Fitted regressors of the points still to come and classifiers of the risk.

    Either is empty where its target was never known, or, for the risk, always the same; then the
    grade is unknown, and the risk is `base_rate`.
    """

    grade: Sequence[Any]
    risk: Sequence[Any]
    base_rate: float

    def predict(self, matrix: npt.NDArray[np.float32], certain: Floats) -> pd.DataFrame:
        """Return uncalibrated grade (0-100, NaN if unknown) and risk (0-1) per row."""
        rows = len(matrix)
        grade, risk = np.full(rows, np.nan), np.full(rows, self.base_rate)
        if self.grade and rows:
            predictions = [member.predict(matrix) for member in self.grade]
            to_come = np.average(predictions, axis=0, weights=GRADE_WEIGHTS)
            grade = np.clip(certain + to_come, 0, 100)
        if self.risk and rows:
            risk = np.mean([member.predict_proba(matrix)[:, 1] for member in self.risk], axis=0)
        return pd.DataFrame({"grade": grade, "risk": risk})


@dataclass(frozen=True)
class BaselineModel:
    """A fitted baseline.

    Attributes
    ----------
    sections
        The sections whose outcomes it has seen.
    evaluation
        What its predictions of held-out sections were worth.
    section_errors
        The same by section, as `by_section` gives it; no rows if it is unknown, as for models that
        earlier versions of the program have trained.
    held_out
        These predictions beside what came true, right after `fit`; None for a loaded model.
        Columns: the row's keys and those that `evaluate` takes.
    """

    encoder: Encoder
    members: Members
    calibration: Calibration
    sections: tuple[str, ...]
    evaluation: Evaluation
    seed: int
    section_errors: pd.DataFrame = field(default_factory=partial(empty, OF_SECTION))
    held_out: pd.DataFrame | None = None

    @property
    def features(self) -> tuple[str, ...]:
        """The names of the columns it reads."""
        return self.encoder.features

    def predict(self, snapshots: pd.DataFrame) -> pd.DataFrame:
        """Return one row per snapshot, in order.

        Columns: section_id, student_id, cut_day; grade and its 80% and 95% interval in points
        (0-100; NaN where no training section had coursework); risk of failing or withdrawing
        (0-1).
        """
        known = snapshots.reset_index(drop=True)
        seen = self.encoder.categories["course_id"]
        with limited_threads(len(known)):
            raw = self.members.predict(self.encoder.transform(known), collected(known))
            calibrated = self.calibration.apply(raw.assign(**context(known, seen)))
        return predicted(known, calibrated)

    def save(self, directory: Path) -> None:
        """Write the model to `directory`; the same model gives the same bytes."""
        directory.mkdir(parents=True, exist_ok=True)
        persistence.save(
            {
                "grade": list(self.members.grade),
                "risk": list(self.members.risk),
                "scale": self.calibration.scale,
                "risk_curve": self.calibration.risk_curve,
            },
            directory / _FITTED,
        )
        described = {
            "model": BASELINE,
            "seed": self.seed,
            "base_rate": self.members.base_rate,
            "sections": list(self.sections),
            "encoder": self.encoder.to_dict(),
            "conformal": self.calibration.conformal.to_dict(),
            "evaluation": self.evaluation.to_dict(),
            "section_errors": self.section_errors.to_dict("list"),
        }
        (directory / _MODEL).write_text(json.dumps(described, indent=1, sort_keys=True))

    @classmethod
    def load(cls, directory: Path) -> Self:
        """Read what `save` wrote.

        Raises
        ------
        ArtifactError
            The folder does not hold a baseline that this version of the program can read.
        """
        fitted: Any = persistence.load(directory / _FITTED)
        try:
            described = json.loads((directory / _MODEL).read_text())
            return cls(
                encoder=Encoder.from_dict(described["encoder"]),
                members=Members(fitted["grade"], fitted["risk"], described["base_rate"]),
                calibration=Calibration.from_parts(
                    fitted["scale"], fitted["risk_curve"], described["conformal"]
                ),
                sections=tuple(described["sections"]),
                evaluation=Evaluation.from_dict(described["evaluation"]),
                seed=described["seed"],
                section_errors=together(
                    [pd.DataFrame(described.get("section_errors", {}), columns=[*OF_SECTION])],
                    OF_SECTION,
                ),
            )
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ArtifactError(
                f"The model in {directory} cannot be read: {error!r}.", "Train the model again."
            ) from error


def fit(snapshots: pd.DataFrame, outcomes: pd.DataFrame, seed: int) -> BaselineModel:
    """Fit the baseline.

    Parameters
    ----------
    snapshots
        As `grade_snapshots` gives them, protected attributes included; they are not read.
    outcomes
        Columns section_id, student_id, final_grade (0-100, NaN without coursework), at_risk (bool).
        A section in which an enrollment has no outcome is still running and is left out whole:
        those who withdrew early would be all that is known of it.

    Raises
    ------
    NotReadyError
        No section has ended, or too few enrollments have an outcome.
    """
    rows = learned(snapshots, outcomes, seed)
    numeric, texts = attributes(rows)
    numbers = dict.fromkeys(("progress", *NUMERIC_FEATURES, *numeric))
    encoder = Encoder.fit(rows, numbers, ["course_id", *texts])
    matrix = encoder.transform(rows)
    with limited_threads(len(rows)):
        held_out = _held_out(rows, matrix, seed)
        honest = cross_calibrated(held_out, seed)
        return BaselineModel(
            encoder=encoder,
            members=_fit_members(matrix, rows, seed),
            calibration=Calibration.fit(held_out, seed),
            sections=tuple(sorted(rows["section_id"].astype(str).unique())),
            evaluation=evaluate(honest, seed),
            seed=seed,
            section_errors=by_section(honest),
            held_out=honest,
        )


def learned(snapshots: pd.DataFrame, outcomes: pd.DataFrame, seed: int) -> pd.DataFrame:
    """Return the rows that `fit` learns from with these arguments, and holds out in turn."""
    return training_rows(snapshots, outcomes, SETTINGS.max_rows, seed)


def may_become_champion(candidate: BaselineModel, champion: BaselineModel | None) -> bool:
    """Return whether a freshly fitted candidate may take the champion's place.

    Both are judged on the sections that the champion was fitted on, each by the Brier score of its
    held-out predictions: the candidate's own rows, the champion's figure on record. A champion
    that shares no section with the candidate knows other data and is replaced. See
    `deserves_champion`.
    """
    held_out = candidate.held_out
    if held_out is None:
        return False
    shared = held_out[held_out["section_id"].isin(champion.sections)] if champion else held_out[:0]
    if champion is None or shared.empty:
        return True
    loss = (shared["risk"] - shared["at_risk"].astype(float)).to_numpy(np.float64) ** 2
    students = pd.factorize(shared["student_id"].astype("object"))[0]
    on_record = champion.evaluation.metrics["all"]["brier"]
    assert on_record is not None
    return deserves_champion(loss, on_record, students, candidate.seed)


def _fit_members(matrix: npt.NDArray[np.float32], rows: pd.DataFrame, seed: int) -> Members:
    bin_quickly()
    at_risk = rows["at_risk"].to_numpy(bool)
    # scikit-learn's boosting cannot bin a column without any value; a constant is no information.
    empty = np.isnan(matrix).all(axis=0)
    matrix = np.where(empty, np.float32(0), matrix)
    graded = rows["final_grade"].notna().to_numpy()
    to_come = rows["final_grade"].to_numpy(np.float64) - collected(rows)
    weight = late_weight(rows)
    return Members(
        grade=_fit_grade(matrix[graded], to_come[graded], weight[graded], seed)
        if graded.any()
        else [],
        risk=_fit_risk(matrix, at_risk, np.sqrt(weight), seed)
        if 0 < at_risk.sum() < at_risk.size
        else [],
        base_rate=float((at_risk.sum() + 0.5) / (at_risk.size + 1)),
    )


def _fit_grade(
    matrix: npt.NDArray[np.float32], to_come: Floats, weight: Floats, seed: int
) -> list[Any]:
    """Return boosting for the mean, boosting for the median, and extremely randomised trees.

    The mean is best early in a section, the trees late; the median lowers the absolute error. In
    the order of `GRADE_WEIGHTS`.
    """
    from sklearn.ensemble import ExtraTreesRegressor, HistGradientBoostingRegressor

    settings = boosting(len(matrix), seed) | {"max_iter": 120, "learning_rate": 0.08}
    return [
        HistGradientBoostingRegressor(**settings).fit(matrix, to_come, weight),
        HistGradientBoostingRegressor(**settings, loss="absolute_error").fit(matrix, to_come),
        ExtraTreesRegressor(
            50,
            min_samples_leaf=8,
            max_features=0.5,
            n_jobs=threads(len(matrix)),
            random_state=seed,
        ).fit(matrix, to_come),
    ]


def _fit_risk(
    matrix: npt.NDArray[np.float32], at_risk: npt.NDArray[np.bool_], weight: Floats, seed: int
) -> list[Any]:
    from sklearn.ensemble import ExtraTreesClassifier, HistGradientBoostingClassifier

    return [
        HistGradientBoostingClassifier(
            **boosting(len(matrix), seed), max_iter=150, learning_rate=0.06
        ).fit(matrix, at_risk, weight),
        ExtraTreesClassifier(
            50,
            min_samples_leaf=10,
            max_features=0.4,
            n_jobs=threads(len(matrix)),
            random_state=seed,
        ).fit(matrix, at_risk, weight),
    ]


def boosting(rows: int, seed: int) -> dict[str, Any]:
    """Return the settings of small trees on few columns each.

    Later terms differ, and the weekly rows of one student, near-copies, must not fill a leaf.
    """
    return {
        "max_leaf_nodes": 15,
        "min_samples_leaf": int(np.clip(rows / 300, 20, 200)),
        "l2_regularization": 10.0,
        "max_features": 0.3,
        "early_stopping": False,
        "random_state": seed,
    }


def _held_out(rows: pd.DataFrame, matrix: npt.NDArray[np.float32], seed: int) -> pd.DataFrame:
    """Return each row's uncalibrated prediction by members that saw neither section nor student."""
    parts = []
    for number, (train, held) in enumerate(validation_folds(rows, SETTINGS.folds, seed)):
        members = _fit_members(matrix[train], rows[train], seed)
        unseen = rows[held]
        raw = members.predict(matrix[held], collected(unseen))
        raw = raw.assign(**context(unseen, set(rows.loc[train, "course_id"])))
        for name in ("final_grade", "at_risk", *ROW):
            raw[name] = unseen[name].to_numpy()
        raw["naive"] = naive_grade(unseen).to_numpy()
        parts.append(raw.assign(fold=number))
    return pd.concat(parts, ignore_index=True)
