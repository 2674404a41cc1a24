"""Attributes of students and enrollments, which sources name as they like, as columns.

A column's name says what it is for: models read `attribute_…`, audits `protected_…`. Which
attribute is which is declared in `grade_ml.gradebook.attributes`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping

import numpy as np
import pandas as pd

from grade_ml.gradebook.attributes import Declarations
from grade_ml.gradebook.institution import Use

#: How the columns are named that models read, and those that no model reads.
ATTRIBUTE, PROTECTED = "attribute_", "protected_"
_PREFIXES: Mapping[Use | None, str] = {Use.USABLE: ATTRIBUTE, Use.PROTECTED: PROTECTED}


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
        Attributes that are usable become `attribute_…`, protected ones `protected_…`; others are
        left out.
    """
    person = _columns(students["attributes"])
    place = pd.Index(students["student_id"].astype(object)).get_indexer(
        enrollments["student_id"].astype(object)
    )
    found = {name: _take(values, place) for name, values in person.items()}
    for name, own in _columns(enrollments["attributes"]).items():
        inherited = found.get(name, np.full(len(own), None, dtype=object))
        found[name] = np.where(pd.isna(own), inherited, own)
    columns = {
        f"{prefix}{name}": values
        for name, values in found.items()
        if (prefix := _PREFIXES.get(declared.use_of(name)))
    }
    return pd.DataFrame(
        {name: _typed(pd.Series(columns[name])) for name in sorted(columns)},
        index=pd.RangeIndex(len(enrollments)),
    )


def protected_columns(names: Iterable[str]) -> dict[str, str]:
    """Return the columns that hold protected attributes, by the attributes' names.

    >>> protected_columns(["attribute_region", "protected_sex"])
    {'sex': 'protected_sex'}
    """
    return {name.removeprefix(PROTECTED): name for name in names if name.startswith(PROTECTED)}


def barred(columns: Iterable[str], declared: Declarations) -> dict[str, str]:
    """Return the attributes among `columns` that no model may read, and why.

    >>> from grade_ml.gradebook.attributes import SOURCES
    >>> barred(["progress", "attribute_region", "attribute_sex", "attribute_mood"], SOURCES)
    {'sex': 'protected', 'mood': 'not declared'}
    """
    return {
        attribute: str(declared.use_of(attribute) or "not declared")
        for prefix, attribute in map(_split, columns)
        if prefix == PROTECTED or (prefix and declared.use_of(attribute) is not Use.USABLE)
    }


def as_declared(frame: pd.DataFrame, declared: Declarations) -> pd.DataFrame:
    """Return a frame without attributes that are declared otherwise now than when it was computed.

    They come back, under the name that says their use, when the frame is computed again.
    """

    def outdated(column: str) -> bool:
        prefix, attribute = _split(column)
        return bool(prefix) and prefix != _PREFIXES.get(declared.use_of(attribute))

    return frame.drop(columns=[name for name in frame.columns if outdated(name)])


def _split(column: str) -> tuple[str, str]:
    """Return the prefix and the attribute of a column; of another column no prefix."""
    for prefix in _PREFIXES.values():
        if column.startswith(prefix):
            return prefix, column.removeprefix(prefix)
    return "", column


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
    taken = np.full(len(places), None, dtype=object)
    taken[places >= 0] = values[places[places >= 0]]
    return taken
