"""Sums of dated values by key, asked for as of any day."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

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
        self._sums = np.zeros((len(order) + 1, columns.shape[1]))
        np.cumsum(columns[happens][order], axis=0, out=self._sums[1:])

    def __call__(self, keys: Ints, days: Floats) -> Floats:
        """Return the sums, shape (questions, quantities)."""
        until = np.searchsorted(self._places, _place(keys, days), side="right")
        before = np.searchsorted(self._places, keys * _SPAN, side="left")
        return np.asarray(self._sums[until] - self._sums[before])


def _place(keys: Ints, days: Floats) -> Ints:
    return np.asarray(keys * _SPAN + _SPAN // 2 + days.astype(np.int64))
