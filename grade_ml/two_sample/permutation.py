"""The null distribution by permutation: who may change sides with whom, and what p follows.

A unit (a student, or a row if rows are independent) changes sides as a whole. The module does not
know what is counted and which statistic follows from the counts.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd

Floats = npt.NDArray[np.floating]
Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

#: Permutations counted at once; with 90 columns of 41 cells each costs 30 KB.
_CHUNK = 64
#: Units in one product of matrices; with 25 columns of 41 cells they take 17 MB.
_UNITS_AT_ONCE = 2048
#: A product of matrices counts about three times as fast per cell as sorting rows into cells does,
#: but goes through both sides; measured with 1,060 and 16,000 rows.
_DENSE_ABOVE = 1 / 3
#: Fewer permutations than this beyond the observed value say little about how rare it is; the tail
#: is continued there (Knijnenburg et al. 2009, "Fewer permutations, more accurate P-values").
_RARE = 10
#: The share of the permutations whose excesses shape that tail: of 999, enough that it is known
#: within 10%, and far enough out that quadratic statistics fall off exponentially.
_TAIL = 0.1


@dataclass(frozen=True)
class Units:
    """The units of both sides; those of the current window come first.

    `rows` (units x slots) holds row numbers of reference and current put one after the other, in
    this order; -1 fills the slots of units with fewer rows.
    """

    rows: Ints
    current: int

    @property
    def reference(self) -> int:
        """The number of units of the reference."""
        return len(self.rows) - self.current

    @property
    def labellings(self) -> float:
        """The natural logarithm of the number of ways in which sides can be given to units."""
        total = len(self.rows)
        return (
            math.lgamma(total + 1) - math.lgamma(self.current + 1) - math.lgamma(self.reference + 1)
        )


def make_units(
    reference: pd.Series | None, current: pd.Series | None, sizes: tuple[int, int], seed: int
) -> Units:
    """Return the units of two windows of `sizes` rows, (reference, current).

    Without names every row is a unit. With them a unit keeps at most as many rows (drawn at random)
    as the median unit has on the side where units are smaller: units of 35 rows on one side and of
    one row on the other could not change places. A row without a name is its own unit, and a name
    on both sides is one unit on each.
    """
    if reference is None or current is None:
        rows = np.arange(sum(sizes), dtype=np.int64)[:, None]
        return Units(np.concatenate([rows[sizes[0] :], rows[: sizes[0]]]), sizes[1])
    codes = [_codes(names) for names in (reference, current)]
    slots = max(
        1,
        int(
            min(
                np.median(np.bincount(unit_codes)) if len(unit_codes) else 1.0
                for unit_codes in codes
            )
        ),
    )
    generator = np.random.default_rng((seed, 0))
    tables = [_slots(unit_codes, slots, generator) for unit_codes in codes]
    moved = np.where(tables[1] < 0, -1, tables[1] + sizes[0])
    return Units(np.concatenate([moved, tables[0]]), len(moved))


def _codes(names: pd.Series) -> Ints:
    codes, known = pd.factorize(names)
    lonely = codes < 0
    codes[lonely] = len(known) + np.arange(lonely.sum())
    return codes.astype(np.int64)


def _slots(codes: Ints, slots: int, generator: np.random.Generator) -> Ints:
    """Return the row numbers (units x slots) of units given by row."""
    mixed = generator.permutation(len(codes))
    order = mixed[np.argsort(codes[mixed], kind="stable")]
    unit = codes[order]
    sizes = np.bincount(codes)
    slot = np.arange(len(order)) - (np.cumsum(sizes) - sizes)[unit]
    table = np.full((len(sizes), slots), -1, dtype=np.int64)
    used = slot < slots
    table[unit[used], slot[used]] = order[used]
    return table


def labellings(units: Units, permutations: int, seed: int) -> Ints:
    """Return which units are the smaller side: the true labelling, then `permutations` random.

    The shape is (1 + permutations, units of the smaller side).
    """
    total = len(units.rows)
    smaller = min(units.current, units.reference)
    first = 0 if units.current <= units.reference else units.current
    generator = np.random.default_rng((seed, 1))
    drawn = [
        generator.choice(total, smaller, replace=False, shuffle=False) for _ in range(permutations)
    ]
    return np.stack([np.arange(first, first + smaller), *drawn])


def count(cells: Ints, width: int, units: Units, chosen: Ints) -> tuple[Floats, Floats]:
    """Count the rows of each side in each cell of each column, for every labelling.

    Parameters
    ----------
    cells
        The cell (0 to `width` - 1) of each row (reference, then current) in each column.
    width
        The number of cells of a column.
    units, chosen
        What may change sides, and the smaller side of each labelling.

    Returns
    -------
    tuple
        Rows of the reference and of the current window: labellings x columns x `width`, float32.
    """
    columns = cells.shape[1]
    total = columns * width
    flat = np.vstack([cells + np.arange(columns) * width, np.full((1, columns), total)])
    by_unit = flat[units.rows].reshape(len(units.rows), -1)
    rows = chosen.shape[1] * units.rows.shape[1]
    dense = rows > _DENSE_ABOVE * len(units.rows)
    smaller = (_by_product if dense else _by_sorting)(by_unit, total, chosen)
    everyone = np.bincount(by_unit.ravel(), minlength=total + 1)[:total].astype(np.float32)
    smaller = smaller.reshape(-1, columns, width)
    larger = everyone.reshape(columns, width) - smaller
    return (larger, smaller) if units.current <= units.reference else (smaller, larger)


def _by_sorting(by_unit: Ints, total: int, chosen: Ints) -> Floats:
    counts = np.empty((len(chosen), total), dtype=np.float32)
    for start in range(0, len(chosen), _CHUNK):
        part = chosen[start : start + _CHUNK]
        place = by_unit[part] + (np.arange(len(part)) * (total + 1))[:, None, None]
        counted = np.bincount(place.ravel(), minlength=len(part) * (total + 1))
        counts[start : start + len(part)] = counted.reshape(len(part), -1)[:, :total]
    return counts


def _by_product(by_unit: Ints, total: int, chosen: Ints) -> Floats:
    labels = np.zeros((len(chosen), len(by_unit)), dtype=np.float32)
    np.put_along_axis(labels, chosen, 1, axis=1)
    totals = np.zeros((len(chosen), total), dtype=np.float32)
    for start in range(0, len(by_unit), _UNITS_AT_ONCE):
        part = by_unit[start : start + _UNITS_AT_ONCE]
        place = part + (np.arange(len(part)) * (total + 1))[:, None]
        counts = np.bincount(place.ravel(), minlength=len(part) * (total + 1))
        counts = counts.reshape(len(part), -1)[:, :total].astype(np.float32)
        totals += labels[:, start : start + len(part)] @ counts
    return totals


@dataclass(frozen=True)
class Tail:
    """How the large values of permuted statistics fall off; one entry for each statistic.

    A share `reach` of them is `start` or more and a share `share` more, on average by `scale`;
    `known` states whether they are enough.
    """

    start: Floats
    reach: Floats
    share: Floats
    scale: Floats
    known: Bools

    @classmethod
    def of(cls, null: Floats) -> Tail:
        """Return the tails of `null`, permutations x anything."""
        size = len(null)
        place = max(size - int(_TAIL * size) - 1, 0)
        parted = np.partition(null, place, axis=0)
        start = parted[place]
        excess = parted[place:] - start
        beyond = (excess > _close(start)).sum(axis=0)
        scale = np.where(beyond, excess.sum(axis=0) / np.maximum(beyond, 1), null.std(axis=0))
        return cls(
            start,
            (null >= start - _close(start)).mean(axis=0),
            np.maximum(beyond, 1) / size,
            np.where(scale > 0, scale, 1),
            beyond >= _RARE,
        )

    def surprise(self, values: Floats) -> Floats:
        """Return about how rare values are (-log of the p-value), comparable between statistics."""
        excess = (values - self.start) / self.scale
        return excess - np.log(np.where(excess > _close(values), self.share, self.reach))


def p_values(observed: Floats, null: Floats, labellings: float) -> Floats:
    """Return the probability of a value at least as large as the observed value.

    It is the share of permutations that reach it, including the true labelling; if fewer than ten
    do, the exponential that the largest tenth follows. Never less than the share of
    one labelling among all that exist (`labellings`: logarithm of their number).

    Parameters
    ----------
    observed, null
        Statistics, and permutations x the same.
    """
    reached = (null >= observed - _close(observed)).sum(axis=0)
    counted = (1 + reached) / (1 + len(null))
    tail = Tail.of(null)
    continued = tail.share * np.exp(-np.maximum(observed - tail.start, 0) / tail.scale)
    p = np.where((reached < _RARE) & tail.known, continued, counted)
    return np.maximum(p, math.exp(-min(labellings, 700)))


def _close(values: Floats) -> Floats:
    """Return how much rounding can change `values` (float32)."""
    return 1e-5 * np.abs(values) + 1e-12
