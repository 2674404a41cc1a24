"""Sums of dated values by key, as of any day.

Each key is added up by itself, so its sums are the same to the last bit for any set of other keys:
one student's features are those of a whole course's computation.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pandas as pd

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

#: Days since 1970-01-01 lie well within this, so key and day share one integer.
_SPAN = 1 << 24


class RunningTotals:
    """What has added up for a key by the end of a day.

    Parameters
    ----------
    keys
        One integer of 0 or more per event.
    days
        Days since 1970-01-01, as floats; events on infinite days never happen.
    values
        One column per quantity, or none: then events are counted.

    Examples
    --------
    >>> totals = RunningTotals(np.array([0, 0, 1]), np.array([5.0, 9.0, 7.0]))
    >>> totals(np.array([0, 0, 1, 2]), np.array([5.0, 10.0, 6.0, 9.0])).ravel().tolist()
    [1.0, 2.0, 0.0, 0.0]
    """

    def __init__(self, keys: Ints, days: Floats, *values: npt.NDArray[np.generic]) -> None:
        happens = np.isfinite(days)
        columns = np.column_stack(values).astype(float) if values else np.ones((len(keys), 1))
        place = _place(keys[happens], days[happens])
        order = np.argsort(place, kind="stable")
        self._places = place[order]
        added = pd.DataFrame(columns[happens][order]).groupby(keys[happens][order]).cumsum()
        self._sums = added.to_numpy(np.float64)

    def __call__(self, keys: Ints, days: Floats) -> Floats:
        """Return the sums, shape (questions, quantities)."""
        until = np.searchsorted(self._places, _place(keys, days), side="right")
        before = np.searchsorted(self._places, keys * _SPAN, side="left")
        sums = np.zeros((len(until), self._sums.shape[1]))
        nonempty = until > before
        sums[nonempty] = self._sums[until[nonempty] - 1]
        return sums


def _place(keys: Ints, days: Floats) -> Ints:
    return np.asarray(keys * _SPAN + _SPAN // 2 + days.astype(np.int64))
