"""The groups of students for which errors are evaluated, from their protected attributes.

Any protected attribute that snapshots hold makes groups: a text by its values, a number by bands of
about as many students each. No model reads them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import pandas as pd

from grade_ml.features.attributes import protected_columns

#: The upper bounds of all bands but the last, by attribute; none: each number is a group.
Bands = Mapping[str, Sequence[float]]


@dataclass(frozen=True)
class GroupSettings:
    """The judgements about groups, each with its reason."""

    #: So many numbers are categories (years of study, flags) rather than amounts.
    most_values: int = 10
    bands: int = 4
    #: Students of a band: fewer have no figure in the audit of fairness.
    least_in_band: int = 30
    #: A figure of fewer students is about persons, not about a group.
    least_students: int = 5


SETTINGS = GroupSettings()


def bands_of(rows: pd.DataFrame, student: str) -> dict[str, list[float]]:
    """Return the bands of the protected attributes of `rows` that are numbers.

    Parameters
    ----------
    rows
        Any with `protected_…`, and students in the column `student`.
    """
    people = rows.drop_duplicates(student, keep="last")
    return {
        name: _bands(people[column].dropna().to_numpy(np.float64))
        for name, column in protected_columns(rows.columns).items()
        if pd.api.types.is_numeric_dtype(people[column])
    }


def grouped(rows: pd.DataFrame, student: str, bands: Bands | None = None) -> pd.DataFrame:
    """Return `rows` with the name of a group, or None, in each column of a protected attribute.

    Parameters
    ----------
    bands
        Of earlier rows, so that groups are the same; attributes without any get new bands.
    """
    known = bands_of(rows, student) | dict(bands or {})
    students = pd.Series(rows[student].to_numpy())
    named = {}
    for name, column in protected_columns(rows.columns).items():
        groups = _named(rows[column], known.get(name, ()))
        sizes = students.groupby(groups).nunique()
        few = sizes.index[sizes < SETTINGS.least_students]
        groups[np.isin(groups.astype(str), few)] = None
        named[column] = groups
    return rows.assign(**named)


def _named(values: pd.Series, bounds: Sequence[float]) -> npt.NDArray[np.object_]:
    known = values.notna().to_numpy()
    known_values = values[known]
    named = np.full(len(values), None, dtype=object)
    named[known] = (
        _labels(known_values.to_numpy(np.float64), bounds)
        if pd.api.types.is_numeric_dtype(values)
        else known_values.astype(str)
    )
    return named


def _bands(values: npt.NDArray[np.float64]) -> list[float]:
    if len(np.unique(values)) <= SETTINGS.most_values:
        return []
    shares = np.arange(1, SETTINGS.bands) / SETTINGS.bands
    bounds: list[float] = []
    below, least = 0, SETTINGS.least_in_band
    for bound in np.unique(np.quantile(values, shares, method="lower")):
        count = int((values <= bound).sum())
        if count - below >= least and len(values) - count >= least:
            bounds.append(float(bound))
            below = count
    return bounds


def _labels(values: npt.NDArray[np.float64], bounds: Sequence[float]) -> list[str]:
    if not bounds:
        return [f"{value:g}" for value in values]
    between = [f"over {low:g}, up to {high:g}" for low, high in pairwise(bounds)]
    names = [f"up to {bounds[0]:g}", *between, f"over {bounds[-1]:g}"]
    return [names[place] for place in np.searchsorted(bounds, values)]
