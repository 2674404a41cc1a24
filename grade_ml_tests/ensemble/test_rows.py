"""What is done to the numbers of single rows."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from grade_ml.ensemble.rows import bounded_grade

points = st.sampled_from([0.0, 37.3, 99.99999999999999, 100.0, 100.00000000000001, 100.0009])


@given(to_come=st.floats(-300, 300), certain=points, possible=points | st.just(np.nan))
def test_a_grade_stays_within_0_and_100(to_come: float, certain: float, possible: float):
    (grade,) = bounded_grade(np.array([to_come]), np.array([certain]), np.array([possible]))
    assert 0 <= grade <= 100
    assert grade >= min(certain, 100)
