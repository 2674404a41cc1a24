import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from grade_ml.features.running_totals import RunningTotals

_days = st.integers(-40_000, 80_000)
_events = st.lists(st.tuples(st.integers(0, 5), _days, st.integers(-9, 9)), max_size=40)


@given(events=_events, queries=st.lists(st.tuples(st.integers(0, 6), _days), min_size=1))
def test_a_total_is_the_sum_of_what_happened_by_then(events, queries) -> None:
    keys, days, values = (
        (np.array(part) for part in zip(*events, strict=True))
        if events
        else (
            np.zeros(0, int),
            np.zeros(0),
            np.zeros(0),
        )
    )
    totals = RunningTotals(keys, days.astype(float), values)
    sums = totals(
        *(
            np.array(part, t)
            for part, t in zip(zip(*queries, strict=True), (int, float), strict=True)
        )
    )
    expected = [
        sum(value for key, when, value in events if key == wanted and when <= day)
        for wanted, day in queries
    ]
    assert sums[:, 0].tolist() == expected


def test_what_never_happens_is_never_counted() -> None:
    totals = RunningTotals(np.array([0]), np.array([np.inf]))
    assert totals(np.array([0]), np.array([1e5])).tolist() == [[0]]
