"""Which columns hold attributes of students and enrollments, and what each may be used for.

A column's name states its use: models read `attribute_…`, audits `protected_…`. Which
attribute is which is declared in `grade_ml.gradebook.attributes`; the columns are made in
`attribute_columns`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from grade_ml.gradebook.attributes import Declarations
from grade_ml.gradebook.institution import Use

if TYPE_CHECKING:
    import pandas as pd

#: How the columns are named that models read, and those that no model reads.
ATTRIBUTE, PROTECTED = "attribute_", "protected_"
PREFIXES: Mapping[Use | None, str] = {Use.USABLE: ATTRIBUTE, Use.PROTECTED: PROTECTED}


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

    They come back, under the name that states their use, when the frame is computed again.
    """

    def outdated(column: str) -> bool:
        prefix, attribute = _split(column)
        return bool(prefix) and prefix != PREFIXES.get(declared.use_of(attribute))

    return frame.drop(columns=[name for name in frame.columns if outdated(name)])


def _split(column: str) -> tuple[str, str]:
    """Return the prefix and the attribute of a column; of another column no prefix."""
    for prefix in PREFIXES.values():
        if column.startswith(prefix):
            return prefix, column.removeprefix(prefix)
    return "", column
