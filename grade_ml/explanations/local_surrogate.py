"""A second opinion on a prediction: LIME, a linear model of what the ensemble does nearby.

LIME (Ribeiro, Singh & Guestrin 2016) draws students around the student in question, predicts each
with the model, and fits a line, weighted by nearness. With its default settings two runs disagree
on half of their features, so here columns are not discretised, everything is numpy, and each call
builds a new explainer, so that a seed gives the same bytes. A line that does not follow the model
is not shown. `attribution` computes exact contributions; a second opinion is made only for
predictions in doubt.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd

from grade_ml.core.errors import NotReadyError
from grade_ml.ensemble.rows import ENROLLMENT, Model, as_text
from grade_ml.explanations.attribution import explain
from grade_ml.explanations.contract import Account
from grade_ml.serving.models import Servable

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class SurrogateSettings:
    """The judgements of second opinions, each with its reason."""

    #: Students drawn around a student.
    samples: int = 5000
    #: Columns that are drawn: those that move the prediction most when moved alone. With ninety at
    #: once the line was noise: two seeds shared half of their five largest effects.
    columns: int = 10
    #: Points. Columns that move the prediction less are not drawn: their effect is noise.
    least_points: float = 0.05
    #: The moves of a column that measure this, in standard deviations.
    moves: tuple[float, ...] = (-2.0, -1.0, 1.0, 2.0)
    #: Neighbours at most, each of whom is explained exactly: enough to estimate a spread.
    neighbours: int = 100
    #: Share of the section within which students are neighbours.
    stage: float = 0.05
    #: Of the model's variance nearby that a line must follow to be shown.
    least_r2: float = 0.7
    #: Who needs a second opinion: risk (0-1), points from the pass mark, and by how much champion
    #: and challenger differ in points and in risk.
    risk: float = 0.5
    near_points: float = 3.0
    apart_points: float = 5.0
    apart_risk: float = 0.15


SETTINGS = SurrogateSettings()


@dataclass(frozen=True)
class LocalSurrogate:
    """A line fitted to the model around one student, as an explanation of the grade.

    Attributes
    ----------
    effects
        Points by feature: the line's slope times the distance from the mean of the neighbours.
    r2
        Share of the model's variance nearby that the line follows, at most 1.
    held
        Columns that are not explained, because they are texts, missing for this student, the same
        for a whole section, or move the prediction too little; they stay as they are.
    imputed
        Columns with gaps among the neighbours, which the mean fills to estimate the spread.
    hidden
        The reason not to show it; empty if it is shown.
    """

    effects: Mapping[str, float]
    r2: float
    held: tuple[str, ...]
    imputed: tuple[str, ...]
    hidden: str

    def largest(self, most: int) -> list[tuple[str, float]]:
        """Return the features with the largest effects, the largest first."""
        return sorted(self.effects.items(), key=lambda item: (-abs(item[1]), item[0]))[:most]


@dataclass(frozen=True)
class Agreement:
    """How far a second opinion agrees with the exact explanation.

    Attributes
    ----------
    jaccard5
        Features among the five largest of both, over those among the five of either; 0-1.
    signs
        Share of the three features with the largest exact contributions that have the same sign;
        NaN if the second opinion explains none of them.
    """

    jaccard5: float
    signs: float


@dataclass(frozen=True)
class Neighbours:
    """Students at about the same place in their section, from whom effects count.

    Attributes
    ----------
    rows
        Their snapshots.
    contributions
        The mean of their exact contributions by feature, points.
    """

    rows: pd.DataFrame
    contributions: Mapping[str, float]


def neighbours(model: Servable, snapshots: pd.DataFrame, progress: float, seed: int) -> Neighbours:
    """Return the `snapshots` near `progress` (0-1), and their mean contributions."""
    near = snapshots[(snapshots["progress"] - progress).abs() <= SETTINGS.stage]
    near = near.sample(min(len(near), SETTINGS.neighbours), random_state=seed)
    attributions = explain(model, near, seed)
    means = (
        attributions.grade.contributions.mean(axis=0)
        if len(near)
        else np.zeros(len(attributions.features))
    )
    return Neighbours(near, dict(zip(attributions.features, means.tolist(), strict=True)))


def agreement(local: LocalSurrogate, exact: Account, around: Neighbours) -> Agreement:
    """Compare with the exact account, on the features that both explain.

    Both count from the same neighbours: exact contributions count from an average row of all terms
    and stages, so the mean of the neighbours is subtracted.
    """
    common = {
        name: exact.contributions.get(name, 0.0) - around.contributions.get(name, 0.0)
        for name in local.effects
    }
    largest = Account(exact.predicted, exact.baseline, common, {}).largest(5)
    first, second = {name for name, _ in largest}, {name for name, _ in local.largest(5)}
    same = [value * local.effects[name] > 0 for name, value in largest[:3]]
    return Agreement(
        len(first & second) / max(len(first | second), 1),
        float(np.mean(same)) if same else float("nan"),
    )


def second_opinion_reasons(
    predictions: pd.DataFrame, challenger: pd.DataFrame | None, pass_marks: pd.Series
) -> pd.Series:
    """Return the reason why each prediction needs a second opinion; empty if it needs none.

    Parameters
    ----------
    predictions, challenger
        Columns section_id, student_id, grade and risk.
    pass_marks
        That of each prediction's course, points of 100.
    """
    rows = as_text(predictions)[[*ENROLLMENT, "grade", "risk"]]
    other = rows if challenger is None else as_text(challenger)[[*ENROLLMENT, "grade", "risk"]]
    both = rows.merge(other, on=ENROLLMENT, how="left", suffixes=("", "_other"))
    apart = ((both["grade"] - both["grade_other"]).abs() >= SETTINGS.apart_points) | (
        (both["risk"] - both["risk_other"]).abs() >= SETTINGS.apart_risk
    )
    reasons = {
        "at risk": both["risk"] >= SETTINGS.risk,
        "near the pass mark": (both["grade"] - pass_marks.to_numpy()).abs() <= SETTINGS.near_points,
        "champion and challenger disagree": apart,
    }
    texts = pd.Series([""] * len(both), predictions.index, dtype=object)
    for reason, holds in reasons.items():
        more = texts.where(texts == "", texts + ", ") + reason
        texts = texts.where(~holds.to_numpy(bool), more)
    return texts


def surrogate(model: Model, row: pd.DataFrame, around: Neighbours, seed: int) -> LocalSurrogate:
    """Return the explanation of the grade of `row` by a line.

    Parameters
    ----------
    row
        A snapshot with all columns that `model` reads.
    around
        Their spread within sections is the spread of the students drawn around `row`; columns with
        the same value for a whole section are not drawn.
    seed
        The same seed gives the same bytes.

    Raises
    ------
    ModuleNotFoundError
        LIME is not installed.
    NotReadyError
        The model knows no grade, nothing moves it, or there are too few neighbours.
    """
    from lime.lime_tabular import LimeTabularExplainer

    numeric = [
        name for name in model.features if name in row and pd.api.types.is_numeric_dtype(row[name])
    ]
    known = around.rows.reindex(columns=numeric).astype(np.float64)
    sections = around.rows["section_id"].astype(str).to_numpy()
    within = known - known.groupby(sections).transform("mean")
    spread = within.std()
    movable = [n for n in numeric if spread[n] > 1e-6 and not pd.isna(row[n].iloc[0])]
    known_grade = not math.isnan(float(model.predict(row)["grade"].iloc[0]))
    explained = _main_columns(model, row, spread[movable]) if known_grade and movable else []
    if not explained:
        raise NotReadyError(
            "There is no grade to explain, nothing moves it, or there are no other students at "
            "this stage.",
            "Wait until a section with coursework has ended and more students are enrolled.",
        )
    gaps = known[explained].isna().any()
    filled = within[explained].fillna(0.0) + known[explained].mean()
    own = row[explained].iloc[0].to_numpy(np.float64)
    explainer = LimeTabularExplainer(
        filled.to_numpy(),
        mode="regression",
        feature_names=explained,
        feature_selection="none",
        discretize_continuous=False,
        sample_around_instance=True,
        random_state=seed,
    )
    line = explainer.explain_instance(
        own,
        lambda drawn: _grades(model, row, drawn, explained),
        num_features=len(explained),
        num_samples=SETTINGS.samples,
    )
    slopes = np.zeros(len(explained))
    for place, slope in line.as_map()[1]:
        slopes[place] = slope
    distance = (own - known[explained].mean().to_numpy(np.float64)) / explainer.scaler.scale_
    effects = dict(zip(explained, np.nan_to_num(slopes * distance).tolist(), strict=True))
    r2 = float(line.score)
    low = f"a line follows the model nearby with an R2 of {r2:.2f} only, below {SETTINGS.least_r2}"
    return LocalSurrogate(
        effects,
        r2,
        tuple(name for name in model.features if name not in effects),
        tuple(name for name in explained if gaps[name]),
        "" if r2 >= SETTINGS.least_r2 else low,
    )


def _main_columns(model: Model, row: pd.DataFrame, spread: pd.Series) -> list[str]:
    """Return the columns that move the grade most when moved alone, the largest effect first."""
    names = [str(name) for name in spread.index]
    own = row[names].iloc[0].to_numpy(np.float64)
    moved = np.concatenate([own + step * np.diag(spread) for step in SETTINGS.moves])
    grades = _grades(model, row, np.vstack([own, moved]), names)
    effect = np.abs(grades[1:] - grades[0]).reshape(len(SETTINGS.moves), -1).mean(axis=0)
    ranked = np.argsort(-effect, kind="stable")[: SETTINGS.columns]
    return [names[place] for place in ranked if effect[place] >= SETTINGS.least_points]


def _grades(model: Model, row: pd.DataFrame, drawn: Floats, names: list[str]) -> Floats:
    """Return the grades of `row` with the columns `names` replaced by those of `drawn`."""
    rows = row.iloc[np.zeros(len(drawn), int)].reset_index(drop=True)
    moved = pd.DataFrame(drawn.astype(np.float32), columns=names)
    predicted = model.predict(rows.assign(**{name: moved[name] for name in names}))
    return predicted["grade"].to_numpy(np.float64)
