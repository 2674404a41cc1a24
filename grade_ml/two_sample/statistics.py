"""The distance of two samples: statistics of a column, exact or from counts.

`permutation` tests whether a distance is more than chance; `drift` selects the tested columns and
writes the report.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from grade_ml.two_sample.permutation import Bools, Floats, Ints

#: Cells of a numeric column for the test. More gain no power: with 3 of 25 columns shifted by
#: 0.3 SD at 120 rows, 20, 40 and 80 detect as many.
CELLS = 40
#: Bins of PSI, KL and JS, as is usual: tenths of the pooled sample.
BINS = 10
#: Rows added to every bin: no logarithm of 0, and less than a single row.
_SMOOTHING = 0.5

#: Multiplied with the counts of cells these give sums up to each cell, and counts of bins with a
#: bin for missing values. Many separate short sums would take three times as long.
_TO_SUMS = np.triu(np.ones((CELLS + 1, CELLS), dtype=np.float32))
_TO_SUMS[CELLS] = 0
_TO_BINS = np.zeros((CELLS + 1, BINS + 1), dtype=np.float32)
_TO_BINS[np.arange(CELLS + 1), np.arange(CELLS + 1) * BINS // CELLS] = 1

#: The statistics of a column, in this order; a statistic that it does not have is NaN.
NAMES = ("ks", "cvm", "psi", "kl", "js", "wasserstein", "chi2")


def cells(values: Floats) -> tuple[Ints, Floats]:
    """Sort numbers (rows x columns, NaN: missing) into quantile cells of their column.

    Returns
    -------
    tuple
        The cell of each value, `CELLS` for a missing one; and the upper end of each cell, columns x
        `CELLS`, the last value again for cells that are not there.
    """
    order = np.sort(values, axis=0)
    known = np.isfinite(order).sum(axis=0)
    steps = np.ceil(np.arange(1, CELLS + 1)[:, None] / CELLS * known).astype(np.int64) - 1
    ends = np.take_along_axis(order, np.clip(steps, 0, None), axis=0).T
    cell = np.empty(values.shape, dtype=np.int64)
    for column, upper in enumerate(ends):
        cell[:, column] = np.searchsorted(upper, values[:, column], side="left")
    cell[~np.isfinite(values)] = CELLS
    return cell, np.nan_to_num(ends)


def numeric(reference: Floats, current: Floats, ends: Floats) -> dict[str, Floats]:
    """Return statistics of numeric columns from counts: labellings x columns x (`CELLS` + 1).

    Squares throughout, so that all fall off exponentially under the null. `missing` compares the
    shares of missing values, all others the known values alone.
    """
    gap, pooled, rows = _gaps(reference, current)
    squared = gap**2
    size = rows[0] * rows[1] / np.maximum(rows[0] + rows[1], 1)
    missing = [
        side[..., CELLS] / np.maximum(total, 1)
        for side, total in zip((reference, current), rows, strict=True)
    ]
    widths = np.diff(ends, axis=1, append=ends[:, -1:]).astype(np.float32)
    return {
        "ks": size * squared.max(axis=2),
        "cvm": size * np.einsum("lcg,cg->lc", squared, pooled),
        "wasserstein": np.sqrt(size) * np.einsum("lcg,cg->lc", np.abs(gap), widths),
        "missing": size * (missing[1] - missing[0]) ** 2,
        **divergences(reference @ _TO_BINS, current @ _TO_BINS),
    }


def _gaps(reference: Floats, current: Floats) -> tuple[Floats, Floats, Sequence[Floats]]:
    """Return the difference of the two distribution functions at the end of each cell.

    Also return the share of each cell in both samples together, and the rows of each side. If a
    side has no value there is no difference.
    """
    below = [side @ _TO_SUMS for side in (reference, current)]
    known = [side[..., -1:] for side in below]
    gap = below[1] / np.maximum(known[1], 1) - below[0] / np.maximum(known[0], 1)
    gap = np.where((known[0] > 0) & (known[1] > 0), gap, np.float32(0))
    pooled = (reference[0] + current[0])[:, :CELLS]
    share = pooled / np.maximum(pooled.sum(axis=1, keepdims=True), 1)
    rows = [
        last[..., 0] + side[..., CELLS]
        for last, side in zip(known, (reference, current), strict=True)
    ]
    return gap, share, rows


def categorical(reference: Floats, current: Floats) -> dict[str, Floats]:
    """Return statistics of categories from counts: labellings x columns x categories."""
    pooled = reference + current
    total = pooled.sum(axis=2, keepdims=True)
    chi2 = np.zeros(pooled.shape[:2], dtype=np.float32)
    for side in (reference, current):
        expected = pooled * side.sum(axis=2, keepdims=True) / np.maximum(total, 1)
        chi2 += ((side - expected) ** 2 / np.where(expected > 0, expected, 1)).sum(axis=2)
    return {"chi2": chi2, **divergences(reference, current)}


def divergences(reference: Floats, current: Floats) -> dict[str, Floats]:
    """Return PSI, KL (of the current from the reference) and JS in nats, of smoothed shares.

    Bins that are empty on both sides do not exist.
    """
    exists = ((reference[:1] + current[:1]) > 0) * np.float32(_SMOOTHING)
    shares = [side + exists for side in (reference, current)]
    p, q = (side / np.einsum("lcb->lc", side)[..., None] for side in shares)
    one = np.float32(1)
    log_p, log_q, log_m = (np.log(np.where(s > 0, s, one)) for s in (p, q, (p + q) / 2))
    ratio = log_q - log_p
    return {
        "psi": np.einsum("lcb,lcb->lc", q - p, ratio),
        "kl": np.einsum("lcb,lcb->lc", q, ratio),
        "js": (
            np.einsum("lcb,lcb->lc", p, log_p - log_m) + np.einsum("lcb,lcb->lc", q, log_q - log_m)
        )
        / 2,
    }


def exact(values: Floats, is_current: Bools) -> dict[str, Floats]:
    """Return KS, CvM, Wasserstein and effect of numeric columns from all rows.

    Parameters
    ----------
    values
        Rows x columns, NaN: missing; only known values count.
    is_current
        Which rows are the current window.

    Returns
    -------
    dict
        ks (0-1), cvm (as in Anderson 1962), wasserstein (in the column's unit) and effect: the
        probability that a current value is larger minus that it is smaller (Cliff's delta, -1 to
        1). NaN if a side has no value.
    """
    rows = len(values)
    order = np.argsort(values, axis=0, kind="stable")
    ranked = np.take_along_axis(values, order, axis=0)
    known = np.isfinite(ranked)
    current = is_current[order] & known
    size = [(~current & known).sum(axis=0), current.sum(axis=0)]
    lacking = (size[0] == 0) | (size[1] == 0)
    below_reference = np.cumsum(~current & known, axis=0) / np.maximum(size[0], 1)
    below_current = np.cumsum(current, axis=0) / np.maximum(size[1], 1)
    steps = ranked[1:] != ranked[:-1]
    true = np.ones((1, values.shape[1]), dtype=bool)
    place = np.arange(rows)[:, None]
    # The last, and the one before the first, of the rows that hold the same value.
    last = np.minimum.accumulate(np.where(np.vstack([steps, true]), place, rows)[::-1])[::-1]
    first = np.maximum.accumulate(np.where(np.vstack([true, steps]), place, 0))
    at_value = np.take_along_axis(below_reference, last, axis=0)
    under = np.take_along_axis(np.vstack([0 * below_reference[:1], below_reference]), first, axis=0)
    gap = (np.take_along_axis(below_current, last, axis=0) - at_value) * known
    width = np.where(known[1:], ranked[1:] - ranked[:-1], 0)
    total = np.maximum(size[0] + size[1], 1)
    figures = {
        "ks": np.abs(gap).max(axis=0, initial=0),
        "cvm": size[0] * size[1] / total**2 * (gap**2).sum(axis=0),
        "wasserstein": (np.abs(gap[:-1]) * width).sum(axis=0),
        "effect": ((at_value + under - 1) * current).sum(axis=0) / np.maximum(size[1], 1),
    }
    return {name: np.where(lacking, np.nan, value) for name, value in figures.items()}
