"""Attributes of students and enrollments, which sources name as they like, made into columns.

The names of the columns state their use: see `attributes`.
"""

from __future__ import annotations

import json

import numpy as np
import pandas as pd

from grade_ml.features.attributes import PREFIXES
from grade_ml.gradebook.attributes import Declarations


def attribute_columns(
    students: pd.DataFrame, enrollments: pd.DataFrame, declared: Declarations
) -> pd.DataFrame:
    """Return one column per usable and protected attribute, one row per row of `enrollments`.

    An enrollment's own value comes before the student's. A column is float32 if all its values are
    numbers or texts of numbers, else of categories; columns are in order of name.

    Parameters
    ----------
    students, enrollments
        Frames with `attributes` as JSON text.
    declared
        Attributes that are usable become `attribute_…`, protected attributes `protected_…`; others
        are left out.
    """
    person = _columns(students["attributes"])
    place = pd.Index(students["student_id"].astype(object)).get_indexer(
        enrollments["student_id"].astype(object)
    )
    held = {name: _take(values, place) for name, values in person.items()}
    for name, own in _columns(enrollments["attributes"]).items():
        inherited = held.get(name, np.full(len(own), None, dtype=object))
        held[name] = np.where(pd.isna(own), inherited, own)
    columns = {
        f"{prefix}{name}": values
        for name, values in held.items()
        if (prefix := PREFIXES.get(declared.use_of(name)))
    }
    return pd.DataFrame(
        {name: _typed(pd.Series(columns[name])) for name in sorted(columns)},
        index=pd.RangeIndex(len(enrollments)),
    )


def _typed(values: pd.Series) -> pd.Series:
    """Return the values as float32 if all are numbers, else as categories of text."""
    known = values.dropna()
    numbers = pd.to_numeric(known, errors="coerce")
    if numbers.notna().all():
        return numbers.astype("float32").reindex(values.index)
    return pd.Series(pd.Categorical(known.astype(str).reindex(values.index)))


def _columns(attributes: pd.Series) -> dict[str, np.ndarray]:
    """Return the values of each attribute, None where a row has none."""
    codes, texts = pd.factorize(attributes.astype(object))
    parsed = [json.loads(text) for text in texts]
    names = sorted({name for row in parsed for name in row})
    return {
        name: _take(np.array([row.get(name) for row in parsed], dtype=object), codes)
        for name in names
    }


def _take(values: np.ndarray, places: np.ndarray) -> np.ndarray:
    column = np.full(len(places), None, dtype=object)
    column[places >= 0] = values[places[places >= 0]]
    return column
