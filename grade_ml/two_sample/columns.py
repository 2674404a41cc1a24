"""The columns of two frames: their kind, and which of them can be compared."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from grade_ml.two_sample.permutation import Floats, Ints

#: Rows on each side; with fewer, no share of permutations gets small enough to separate anything
#: from chance among 25 columns.
FEWEST = 5
#: Categories that are distinguished, the most frequent; a free text has thousands, each too rare
#: for a test.
CATEGORIES = 60


class Kind(StrEnum):
    """How the values of a column can be compared."""

    NUMERIC = "numeric"
    CATEGORICAL = "categorical"
    UNKNOWN = "unknown"


class Status(StrEnum):
    """The result of the comparison of a column; those of `COMPARED` have a p-value."""

    TESTED = "tested"
    SMALL_REFERENCE = "small reference"
    INFINITE = "infinite values"
    ALL_NULL = "all null"
    CONSTANT = "constant"
    EMPTY = "empty"
    NO_ROWS = "no rows"
    TOO_FEW = "too few rows"
    NEW = "new"
    MISSING = "missing"
    TYPE_CHANGED = "type changed"
    DUPLICATED = "duplicated name"


COMPARED = (Status.TESTED, Status.SMALL_REFERENCE, Status.INFINITE, Status.ALL_NULL)
#: Defects that no sample explains: a model that needs the column cannot predict.
BROKEN = (Status.MISSING, Status.TYPE_CHANGED)
_EMPTY = (Kind.UNKNOWN, Status.EMPTY, "no value on either side")


@dataclass(frozen=True)
class Column:
    """One column of both frames.

    `values` holds the rows of the reference, then of the current window: numbers (NaN: missing or
    infinite) or the codes of `categories` (the last, unnamed code: missing). `None` if none.
    """

    name: Hashable
    kind: Kind
    status: Status
    reason: str
    values: Floats | Ints | None = None
    categories: tuple[str, ...] = ()


def columns(
    reference: pd.DataFrame, current: pd.DataFrame, cluster: str | None, units: tuple[int, int]
) -> list[Column]:
    """Return every column of either frame but `cluster`, those of the reference first.

    `units` are the numbers of units of (reference, current).
    """
    names = list(dict.fromkeys([*reference.columns, *current.columns]))
    twice = {
        name for frame in (reference, current) for name in frame.columns[frame.columns.duplicated()]
    }
    plain = _plain(reference, current, units)
    listed = []
    for name in names:
        if name == cluster:
            continue
        if name in twice:
            reason = "several columns have this name; rename all but one"
            listed.append(Column(name, Kind.UNKNOWN, Status.DUPLICATED, reason))
        elif name in plain:
            listed.append(plain[name])
        elif name not in reference:
            reason = "the reference has no such column; the model does not know it"
            listed.append(Column(name, _kind(current[name]), Status.NEW, reason))
        else:
            other = current.get(name)
            listed.append(_column(name, reference[name], other, units))
    return listed


def plain_numbers(frame: pd.DataFrame) -> dict[Hashable, Floats]:
    """Return the columns of NumPy's own numbers and truth values, by name, as floats.

    All are taken at once: column by column, pandas takes longer than the whole comparison.
    Columns that share a name are left out.
    """
    plain = [isinstance(dtype, np.dtype) and dtype.kind in "biuf" for dtype in frame.dtypes]
    once = ~frame.columns.duplicated(keep=False)
    chosen = frame.loc[:, np.array(plain, dtype=bool) & once]
    return dict(zip(chosen.columns, chosen.to_numpy(np.float64).T, strict=True))


def texts(values: pd.Series) -> npt.NDArray[Any]:
    """Return values as text, `None` for missing values. Lists and dicts have a text, too."""
    array = values.array
    if isinstance(array, pd.Categorical):
        # The code of a missing value is -1: the last.
        result = np.array([*array.categories.astype(str), None], dtype=object)
        return result[np.asarray(array.codes)]
    result = values.astype(str).to_numpy(object, copy=True)
    result[array.isna()] = None
    return result


def _plain(
    reference: pd.DataFrame, current: pd.DataFrame, units: tuple[int, int]
) -> dict[Hashable, Column]:
    """Return the columns of plain numbers on both sides, if there are enough rows."""
    sides = plain_numbers(reference), plain_numbers(current)
    names = [name for name in sides[0] if name in sides[1]]
    if _too_few(units) or not names:
        return {}
    before, now = (np.stack([side[name] for name in names]) for side in sides)
    return dict(zip(names, _numbers(names, before, now, units), strict=True))


def _column(
    name: Hashable, reference: pd.Series, current: pd.Series | None, units: tuple[int, int]
) -> Column:
    kind = _kind(reference)
    few = _too_few(units)
    if few:
        return Column(name, kind, *few)
    if current is None:
        reason = "the current window has no such column; deliver it, or train without it"
        return Column(name, kind, Status.MISSING, reason)
    kinds = {kind, _kind(current)} - {Kind.UNKNOWN}
    if not kinds:
        return Column(name, *_EMPTY)
    if len(kinds) > 1:
        reason = f"{kind} ({reference.dtype}) in the reference, {_kind(current)} ({current.dtype})"
        return Column(name, kind, Status.TYPE_CHANGED, f"{reason} in the current window")
    kind = kinds.pop()
    if kind is Kind.NUMERIC:
        before, now = (_as_floats(side)[np.newaxis] for side in (reference, current))
        return _numbers([name], before, now, units)[0]
    return _categories(name, reference, current, units)


def _too_few(units: tuple[int, int]) -> tuple[Status, str] | None:
    for side, size in zip(("reference", "current window"), units, strict=True):
        if size == 0:
            return Status.NO_ROWS, f"the {side} has no rows; nothing was tested"
    for side, size in zip(("reference", "current window"), units, strict=True):
        if size < FEWEST:
            return (
                Status.TOO_FEW,
                f"the {side} has {size} independent rows; with fewer than {FEWEST} nothing can be "
                "told from chance, nothing was tested",
            )
    return None


def _kind(values: pd.Series) -> Kind:
    if values.array.isna().all():
        return Kind.UNKNOWN
    if isinstance(values.dtype, pd.CategoricalDtype):
        return Kind.CATEGORICAL
    if values.dtype.kind != "O":
        return Kind.NUMERIC if values.dtype.kind in "biufmM" else Kind.CATEGORICAL
    inferred = pd.api.types.infer_dtype(values, skipna=True)
    numeric = ("integer", "floating", "mixed-integer-float", "decimal", "boolean")
    return Kind.NUMERIC if inferred in numeric else Kind.CATEGORICAL


def _as_floats(values: pd.Series) -> Floats:
    """Return numbers; dates as days since 1970, durations as days."""
    if values.dtype.kind == "M":
        values = values - pd.Timestamp(0, tz=values.dt.tz)
    if values.dtype.kind == "m":
        values = values.dt.total_seconds() / 86_400
    return values.to_numpy(np.float64, na_value=np.nan)


def _numbers(
    names: Sequence[Hashable], reference: Floats, current: Floats, units: tuple[int, int]
) -> list[Column]:
    """Return columns of numbers from their values on each side: names x rows."""
    values = np.concatenate([reference, current], axis=1)
    infinite = [np.sum(np.isinf(side), axis=1) for side in (reference, current)]
    nulls = [np.all(np.isnan(side), axis=1) for side in (reference, current)]
    values[np.isinf(values)] = np.nan
    constant = np.all(values == values[:, :1], axis=1)
    listed = []
    for place, name in enumerate(names):
        row = values[place]
        before, now = (side[place] for side in infinite)
        empty = [bool(side[place]) for side in nulls]
        if before or now:
            reason = (
                f"{before} infinite values in the reference and {now} in the current window count "
                "as missing"
            )
            listed.append(Column(name, Kind.NUMERIC, Status.INFINITE, reason, row))
        elif all(empty):
            listed.append(Column(name, *_EMPTY))
        elif constant[place]:
            reason = f"{row[0]:g} in every row of both sides"
            listed.append(Column(name, Kind.NUMERIC, Status.CONSTANT, reason))
        else:
            listed.append(Column(name, Kind.NUMERIC, *_tested(empty, units), row))
    return listed


def _categories(
    name: Hashable, reference: pd.Series, current: pd.Series, units: tuple[int, int]
) -> Column:
    codes, names = pd.factorize(np.concatenate([texts(reference), texts(current)]))
    missing = codes < 0
    if len(names) == 1 and not missing.any():
        reason = f"{names[0]!r} in every row of both sides"
        return Column(name, Kind.CATEGORICAL, Status.CONSTANT, reason)
    frequent = np.argsort(-np.bincount(codes[~missing]), kind="stable")
    rank = np.empty(len(names), dtype=np.int64)
    rank[frequent] = np.arange(len(names))
    kept = min(len(names), CATEGORIES)
    values = np.where(missing, -1, np.minimum(rank[codes], kept))
    labels = [str(names[place]) for place in frequent[:kept]]
    if len(names) > kept:
        labels.append("(others)")
    values[missing] = len(labels)
    nulls = [bool(side.all()) for side in np.split(missing, [len(reference)])]
    status = _tested(nulls, units)
    return Column(name, Kind.CATEGORICAL, *status, values, tuple(labels))


def _tested(nulls: list[bool], units: tuple[int, int]) -> tuple[Status, str]:
    if any(nulls):
        side = "reference" if nulls[0] else "current window"
        return Status.ALL_NULL, f"no value in the {side}; the shares of missing values are compared"
    if units[0] < units[1]:
        reason = f"the reference is smaller than the current window ({units[0]} < {units[1]} rows)"
        return Status.SMALL_REFERENCE, reason
    return Status.TESTED, ""
