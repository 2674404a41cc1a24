"""The promise that a frame of snapshots keeps, as a pandera schema made from the catalogue."""

from __future__ import annotations

from typing import TYPE_CHECKING

from grade_ml.features.catalogue import FEATURES

if TYPE_CHECKING:
    import pandera.pandas as pa


def schema() -> pa.DataFrameSchema:
    """Return the promise: keys, types and bounds of every column of the catalogue."""
    import pandera.pandas as pa

    def bounds(low: float | None, high: float | None) -> list[pa.Check]:
        return [
            *([] if low is None else [pa.Check.ge(low)]),
            *([] if high is None else [pa.Check.le(high)]),
        ]

    return pa.DataFrameSchema(
        {
            **{name: pa.Column("category") for name in ("section_id", "student_id", "course_id")},
            "cut_day": pa.Column("float64", bounds(0, None)),
            "cut_on": pa.Column("datetime64[ns]"),
            **{
                feature.name: pa.Column("float32", bounds(feature.low, feature.high), nullable=True)
                for feature in FEATURES
            },
        },
        unique=["section_id", "student_id", "cut_day"],
    )
