"""Which rows may predict which: a section and a student's rows never stand on both sides."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import pandas as pd

Mask = npt.NDArray[np.bool_]
Codes = npt.NDArray[np.intp]


def section_folds(rows: pd.DataFrame, count: int, seed: int) -> Iterator[tuple[Mask, Mask]]:
    """Yield (training rows, held-out rows) so that every row is held out once.

    Whole sections are held out together, in folds of about equal size, sections of one course in
    different folds as far as possible (a later section of a known course is the usual case); a
    student who appears in the held-out sections is left out of the training rows altogether. With
    a single section its students are divided instead.

    Parameters
    ----------
    rows
        Columns section_id, course_id and student_id.
    count
        Number of folds, at most; there are never more folds than sections (or students).
    """
    section, student, course = (
        pd.factorize(rows[name].astype("object"), sort=True)[0]
        for name in ("section_id", "student_id", "course_id")
    )
    unit, group = (section, course) if section.max() > 0 else (student, student)
    fold = _balanced(unit, group, count, seed)[unit]
    for held in range(fold.max() + 1):
        held_out = fold == held
        seen = np.isin(student, student[held_out])
        yield ~held_out & ~seen, held_out


def _balanced(unit: Codes, group: Codes, count: int, seed: int) -> Codes:
    """Return a fold per unit: the largest first, into the emptiest fold free of its group."""
    size = np.bincount(unit)
    of_group = np.zeros(size.size, dtype=np.intp)
    of_group[unit] = group
    filled = np.zeros((min(count, size.size), group.max() + 1))
    fold = np.zeros(size.size, dtype=np.intp)
    shuffled = np.random.default_rng(seed).permutation(size.size)
    for one in shuffled[np.argsort(-size[shuffled], kind="stable")]:
        fold[one] = np.lexsort((filled.sum(axis=1), filled[:, of_group[one]] > 0))[0]
        filled[fold[one], of_group[one]] += size[one]
    return fold
