"""From a typed feature frame to the matrix a model reads, the same way at every later prediction.

`grade_ml.features` defines what a feature means; this module decides which a model may read.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import pandas as pd

from grade_ml.features.attributes import ATTRIBUTE

#: Rarer values of a text attribute than this many become missing: they are names, not groups.
MAX_CATEGORIES = 100
#: Values of a text attribute per student; more, and most values belong to one or two students.
MOST_UNIQUE = 0.5


@dataclass(frozen=True)
class Encoder:
    """The columns a model was fitted on, in order, and the known values of the text columns.

    A text is encoded as its position among the known values in order of their name. Missing
    values, unknown values and columns that a frame does not have become NaN.
    """

    numeric: tuple[str, ...]
    categories: Mapping[str, tuple[str, ...]]

    @classmethod
    def fit(cls, frame: pd.DataFrame, numeric: Collection[str], texts: Collection[str]) -> Self:
        """Learn the known values of the columns `texts` of `frame`."""
        return cls(tuple(numeric), {name: _frequent_values(frame[name]) for name in texts})

    @property
    def features(self) -> tuple[str, ...]:
        """The names of the matrix's columns."""
        return (*self.numeric, *self.categories)

    def transform(self, frame: pd.DataFrame) -> npt.NDArray[np.float32]:
        """Return a matrix of shape (rows, features)."""
        matrix = np.full((len(frame), len(self.features)), np.nan, dtype=np.float32)
        places = {name: place for place, name in enumerate(self.numeric)}
        kinds = zip(frame.columns, frame.dtypes, strict=True)
        floats = (name for name, kind in kinds if isinstance(kind, np.dtype) and kind.kind == "f")
        together = [name for name in floats if name in places]
        # At once: one by one they take 5 ms, and a single prediction has 10.
        matrix[:, [places[name] for name in together]] = frame[together].to_numpy(np.float32)
        for name in places.keys() & set(frame.columns) - set(together):
            # A text where numbers were learned is an unknown value, as an unknown category is.
            matrix[:, places[name]] = pd.to_numeric(frame[name], errors="coerce").to_numpy(
                np.float32, na_value=np.nan
            )
        for i, (name, values) in enumerate(self.categories.items(), start=len(self.numeric)):
            if name in frame:
                codes = {value: code for code, value in enumerate(values)}
                matrix[:, i] = [codes.get(value, np.nan) for value in frame[name].tolist()]
        return matrix

    def to_dict(self) -> dict[str, Any]:
        """Return the encoder as plain values."""
        return {
            "numeric": list(self.numeric),
            # A list, for the order of the columns must survive JSON with sorted keys.
            "categories": [[name, list(values)] for name, values in self.categories.items()],
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Return the encoder that `to_dict` described."""
        return cls(
            tuple(values["numeric"]),
            {name: tuple(known) for name, known in values["categories"]},
        )


def attributes(rows: pd.DataFrame) -> tuple[list[str], list[str]]:
    """Return the numeric and the text columns of attributes that a model may read.

    Texts of which nearly every student has another (addresses, names) identify students; they are
    left out, and no model stores them.

    Parameters
    ----------
    rows
        Of training: student_id, and `attribute_…`.
    """
    columns = sorted(name for name in rows.columns if name.startswith(ATTRIBUTE))
    numeric = [name for name in columns if pd.api.types.is_numeric_dtype(rows[name])]
    texts = [name for name in columns if name not in numeric]
    return numeric, [name for name in texts if not _tells_who(rows["student_id"], rows[name])]


def _tells_who(students: pd.Series, values: pd.Series) -> bool:
    known = values.notna()
    return bool(values[known].nunique() > MOST_UNIQUE * students[known].nunique())


def _frequent_values(column: pd.Series) -> tuple[str, ...]:
    counts = column.dropna().astype("object").value_counts()
    ranked = counts.reset_index().sort_values(["count", str(column.name)], ascending=[False, True])
    return tuple(sorted(str(value) for value in ranked[str(column.name)].head(MAX_CATEGORIES)))
