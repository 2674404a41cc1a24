"""How predictions move with one feature: accumulated local effects (Apley & Zhu 2020).

Unlike partial dependence they predict no student who cannot exist: only nearby values of a feature
replace a row's own value.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd

from grade_ml.ensemble.rows import Model

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Effect:
    """The effect on the grade (points) and on the risk (0-1) at each edge; 0 on average.

    `rows` is the number of rows with a known value.
    """

    feature: str
    edges: Floats
    grade: Floats
    risk: Floats
    rows: int


def effect(model: Model, rows: pd.DataFrame, feature: str, bins: int = 10) -> Effect | None:
    """Return the effect of a numeric feature on the predictions of `rows`.

    Parameters
    ----------
    bins
        Of equally many rows each; equal edges are merged.

    Returns
    -------
    Effect
        None if the feature is not numeric, or has one value only.
    """
    if feature not in rows or not pd.api.types.is_numeric_dtype(rows[feature]):
        return None
    known = rows[rows[feature].notna()].reset_index(drop=True)
    values = known[feature].to_numpy(np.float64)
    edges = np.unique(np.quantile(values, np.linspace(0, 1, bins + 1))) if len(values) else values
    if len(edges) < 2:
        return None
    bin_of = np.clip(np.searchsorted(edges, values, side="left") - 1, 0, len(edges) - 2)
    ends = [model.predict(known.assign(**{feature: edges[bin_of + side]})) for side in (0, 1)]
    size = np.bincount(bin_of, minlength=len(edges) - 1)
    curves = []
    for name in ("grade", "risk"):
        change = (ends[1][name] - ends[0][name]).to_numpy(np.float64)
        steps = np.bincount(bin_of, change, len(edges) - 1) / np.maximum(size, 1)
        curve = np.concatenate([[0.0], np.cumsum(steps)])
        middle = (curve[1:] + curve[:-1]) / 2
        curves.append(curve - np.average(middle, weights=size))
    return Effect(feature, edges, curves[0], curves[1], len(known))
