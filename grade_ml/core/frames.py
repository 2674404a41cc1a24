"""Frames that may have no rows: they have their columns and types all the same."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import pandas as pd


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
    known = [one for one in frames if len(one)]
    return pd.concat(known, ignore_index=True) if known else empty(types)
