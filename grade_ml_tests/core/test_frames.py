from __future__ import annotations

import pandas as pd
import pytest
from hypothesis import given
from hypothesis.strategies import integers, lists

from grade_ml.core.frames import empty, together

TYPES = {"name": "object", "share": "float64", "on": "datetime64[ns]", "many": "bool", "n": "int64"}


def rows(count: int) -> pd.DataFrame:
    values = {"name": "x", "share": 0.5, "on": pd.Timestamp("2026-01-01"), "many": True, "n": 1}
    return pd.DataFrame({name: [value] * count for name, value in values.items()}).astype(TYPES)


@pytest.mark.filterwarnings("error::FutureWarning")
@given(lists(integers(0, 3), max_size=5))
def test_types_are_those_of_rows_whether_there_are_any(counts: list[int]):
    for parts in ([rows(count) for count in counts], [empty(TYPES)] * len(counts)):
        joined = together([*parts, empty(TYPES)], TYPES)
        assert joined.dtypes.astype(str).to_dict() == TYPES
        assert joined.index.tolist() == list(range(sum(len(part) for part in parts)))
