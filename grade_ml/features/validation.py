"""The promise that a frame of snapshots keeps, as a pandera schema made from the catalogue."""

from __future__ import annotations

import pandas as pd

from grade_ml.features.catalogue import FEATURES


def validate(snapshots: pd.DataFrame) -> None:
    """Check keys, types and bounds of every column of the catalogue.

    Raises
    ------
    pandera.errors.SchemaError
        A value breaks a bound, a key repeats, or a column has another type: a defect of the
        program, whatever the records were.
    """
    import pandera.pandas as pa

    def bounds(low: float | None, high: float | None) -> list[pa.Check]:
        return [
            *([] if low is None else [pa.Check.ge(low)]),
            *([] if high is None else [pa.Check.le(high)]),
        ]

    schema = pa.DataFrameSchema(
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
    schema.validate(snapshots)
