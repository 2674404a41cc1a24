"""Which pairs of features move a prediction together, for few rows at a time.

Shapley interaction values (Lundberg et al. 2020) divide the contribution of a feature into what it
adds by itself and what it adds with each other feature. They cost a hundred times as much as
contributions, so they are computed only on request.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pandas as pd

from grade_ml.core.errors import NotReadyError
from grade_ml.core.optional import remedy
from grade_ml.ensemble.course import CourseModel
from grade_ml.ensemble.members import Member, Task
from grade_ml.ensemble.members.catboost import CatBoost
from grade_ml.ensemble.members.contract import Matrix
from grade_ml.ensemble.members.forest import Forest
from grade_ml.ensemble.members.lightgbm import LightGBM
from grade_ml.ensemble.members.xgboost import XGBoost
from grade_ml.ensemble.pooled import PooledModel
from grade_ml.explanations.attribution import ensemble_of, explain
from grade_ml.explanations.contract import Attributions

Floats = npt.NDArray[np.float64]


def interactions(
    model: PooledModel | CourseModel,
    rows: pd.DataFrame,
    task: Task,
    attributions: Attributions | None = None,
) -> tuple[tuple[str, ...], Floats]:
    """Return the features, and per row what each pair adds: shape (rows, features, features).

    The unit is that of `explain`: points, or log-odds. Each matrix is symmetric, and its rows sum
    to the contributions. The network and the naive forecasts add to the diagonal alone: no
    interactions are known for the network.

    Parameters
    ----------
    attributions
        What `explain` returns for the rows, if that is known already.

    Raises
    ------
    NotReadyError
        No member has interactions; a library for them is not installed (shap for LightGBM, and
        both for the forest); or the model does not predict `task`.
    """
    pooled, correction = ensemble_of(model)
    part = pooled.parts.get(task)
    if part is None:
        raise NotReadyError(f"The model predicts no {task}.", "Train it on sections with outcomes.")
    known = rows.reset_index(drop=True)
    attributions = attributions or explain(model, known)
    if known.empty:  # the libraries refuse an empty matrix
        return attributions.features, np.zeros(
            (0, len(attributions.features), len(attributions.features))
        )
    progress = known["progress"].to_numpy(np.float64)
    factor = np.ones(len(known))
    if correction is not None:
        factor = 1 + correction.at(task, progress)[1]
    if task is Task.RISK and pooled.calibration.risk_line is not None:
        factor = factor * pooled.calibration.risk_line[0]
    weights = part.stack.at(progress)
    total = np.zeros((len(known), len(attributions.features), len(attributions.features)))
    names = ", ".join(part.members) or "naive forecasts"
    if not any(
        isinstance(other, XGBoost | CatBoost | LightGBM | Forest) for other in part.members.values()
    ):
        raise NotReadyError(
            f"No interactions are known: the {task} comes from {names} alone.",
            f"{remedy('boosting')} Then run grade-ml run train_advanced_ml_models.",
        )
    for name, member in part.members.items():
        encoder = part.encoders[member.view(task)]
        places = [attributions.features.index(feature) for feature in encoder.features]
        pairs = _pairs(member, encoder.transform(known))
        if pairs is not None:
            weight = (weights[name] * factor)[:, None, None]
            total[:, np.array(places)[:, None], places] += weight * pairs
    contributions = (attributions.grade if task is Task.GRADE else attributions.risk).contributions
    diagonal = np.arange(len(attributions.features))
    total[:, diagonal, diagonal] = 0.0
    total[:, diagonal, diagonal] = contributions - total.sum(axis=2)
    return attributions.features, total


def _pairs(member: Member, matrix: Matrix) -> Floats | None:
    """Return a member's interaction values without its base value; None if it has none."""
    try:
        return _of_member(member, matrix)
    except ImportError as error:
        raise NotReadyError(
            f"Interactions cannot be computed: {error}.",
            remedy("boosting", "explain"),
        ) from error


def _of_member(member: Member, matrix: Matrix) -> Floats | None:
    values: object
    if isinstance(member, XGBoost):
        import xgboost

        values = member.booster.predict(xgboost.DMatrix(matrix), pred_interactions=True)
        return np.asarray(values, dtype=np.float64)[:, :-1, :-1]
    if isinstance(member, CatBoost):
        import catboost

        values = member.model.get_feature_importance(
            catboost.Pool(matrix), type="ShapInteractionValues"
        )
        return np.asarray(values, dtype=np.float64)[:, :-1, :-1]
    if isinstance(member, LightGBM):
        return _by_shap(member.booster, matrix)
    if isinstance(member, Forest):
        booster, filled = member.as_boosted(matrix)
        scale = member.scale / len(member.forest.estimators_)
        return scale * _by_shap(booster, filled)
    return None


def _by_shap(booster: object, matrix: Matrix) -> Floats:
    import shap

    explainer = shap.TreeExplainer(booster)
    return np.asarray(explainer.shap_interaction_values(matrix), dtype=np.float64)


def largest_pairs(
    features: tuple[str, ...], pairs: Floats, most: int
) -> list[tuple[str, str, float]]:
    """Return the pairs that add or take most together, the largest first.

    Parameters
    ----------
    pairs
        Of one row: shape (features, features). A pair's amount is that of both halves.
    """
    first, second = np.triu_indices(len(features), k=1)
    amounts = 2 * pairs[first, second]
    order = np.argsort(-np.abs(amounts), kind="stable")[:most]
    return [
        (features[first[place]], features[second[place]], float(amounts[place]))
        for place in order
        if amounts[place]
    ]
