"""Frames that may have no rows, or odd ones: their columns and types are the same all the same."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

import pandas as pd

if TYPE_CHECKING:
    from pandera.pandas import DataFrameSchema


def empty(types: Mapping[str, str]) -> pd.DataFrame:
    """Return a frame without rows with the columns and pandas types of `types`.

    >>> empty({"feature": "object", "share": "float64"}).dtypes.astype(str).to_dict()
    {'feature': 'object', 'share': 'float64'}
    """
    return pd.DataFrame({name: pd.Series(dtype=kind) for name, kind in types.items()})


def together(frames: Iterable[pd.DataFrame], types: Mapping[str, str]) -> pd.DataFrame:
    """Return the rows of all frames, numbered from 0; of none, a frame of the columns `types`.

    Frames without rows decide no type, which pandas warns of.
    """
    known = [frame for frame in frames if len(frame)]
    return pd.concat(known, ignore_index=True) if known else empty(types)


def sound(frame: pd.DataFrame, schema: DataFrameSchema) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the rows of enrollments that satisfy `schema`, and the odd rows with their `reason`.

    So an enrollment for which something cannot be computed does not affect the others.

    Parameters
    ----------
    frame
        Has section_id and student_id; an enrollment with one odd row is left out with all of them.

    Raises
    ------
    pandera.errors.SchemaErrors
        The frame as a whole violates the schema: a column or a type differs. That is a defect of
        the program, for any records.
    """
    from pandera.errors import SchemaErrors

    frame = frame.reset_index(drop=True)
    try:
        schema.validate(frame, lazy=True)
    except SchemaErrors as error:
        cases = error.failure_cases
        if cases["index"].isna().any():
            raise
        reason = cases["column"].astype(str) + " " + cases["check"].astype(str)
        odd = frame.loc[cases["index"].astype("int64")].assign(reason=reason.to_numpy())
        keys = _enrollments(frame)
        return frame[~keys.isin(_enrollments(odd))].reset_index(drop=True), odd
    return frame, frame.head(0).assign(reason="")


def reasons(odd: pd.DataFrame) -> dict[str, int]:
    """Return how many enrollments have an odd row (see `sound`), by reason."""
    counts = _enrollments(odd).groupby(odd["reason"].astype(object)).nunique()
    return {str(reason): int(count) for reason, count in counts.items()}


def _enrollments(rows: pd.DataFrame) -> pd.Series:
    return rows["section_id"].astype(object) + "\n" + rows["student_id"].astype(object)
