"""Which rows may predict which: a section and a student's rows never stand on both sides."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import pandas as pd

Mask = npt.NDArray[np.bool_]


def section_folds(rows: pd.DataFrame, count: int, seed: int) -> Iterator[tuple[Mask, Mask]]:
    """Yield (training rows, held-out rows) so that every row is held out once.

    Whole sections are held out together, in folds of about equal size; a student who appears in
    the held-out sections is left out of the training rows altogether. With a single section its
    students are divided instead.

    Parameters
    ----------
    rows
        Columns section_id and student_id.
    count
        Number of folds, at most; there are never more folds than sections (or students).
    """
    section = pd.factorize(rows["section_id"].astype("object"), sort=True)[0]
    student = pd.factorize(rows["student_id"].astype("object"), sort=True)[0]
    unit = section if section.max() > 0 else student
    fold = _balanced(np.bincount(unit), count, seed)[unit]
    for held in range(fold.max() + 1):
        held_out = fold == held
        seen = np.isin(student, student[held_out])
        yield ~held_out & ~seen, held_out


def _balanced(sizes: npt.NDArray[np.int64], count: int, seed: int) -> npt.NDArray[np.int64]:
    """Return a fold per unit: the largest first, each into the emptiest fold."""
    filled = np.zeros(min(count, sizes.size))
    fold = np.zeros(sizes.size, dtype=np.int64)
    shuffled = np.random.default_rng(seed).permutation(sizes.size)
    for unit in shuffled[np.argsort(-sizes[shuffled], kind="stable")]:
        fold[unit] = filled.argmin()
        filled[fold[unit]] += sizes[unit]
    return fold
